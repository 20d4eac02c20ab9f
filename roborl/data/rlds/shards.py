"""The folder of a TFDS dataset: its version, its splits, and the files that hold them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roborl.data.rlds.features import Leaf, read_features
from roborl.errors import DatasetError

log = logging.getLogger(__name__)

_INFO, _FEATURES = "dataset_info.json", "features.json"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of a split.

    Attributes:
        path: The file.
        number: Its number in the split, from 0.
        records: How many episodes it should hold, None where the dataset does not say.
    """

    path: Path
    number: int
    records: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RldsInfo:
    """What a dataset says about itself.

    Attributes:
        root: Its folder, that of one version.
        name: Its name.
        version: Its version.
        features: What its lists stand for, by name.
        splits: The files of each split that are there, in order.
        absent: How many files of each split are not there.
    """

    root: Path
    name: str
    version: str
    features: Mapping[str, Leaf]
    splits: Mapping[str, tuple[Shard, ...]]
    absent: Mapping[str, int]


def find_rlds(place: str | Path) -> Path | None:
    """Return the folder of a TFDS dataset: the place itself, or the newest version below it; None where there is none."""
    path = Path(place).expanduser()
    if _is_dataset(path):
        return path
    try:
        versions = [p for p in path.iterdir() if _VERSION.fullmatch(p.name) and _is_dataset(p)]
    except OSError:
        return None
    return max(versions, key=lambda p: [int(n) for n in p.name.split(".")], default=None)


def describe_rlds(place: str | Path) -> RldsInfo:
    """Read what a dataset says about itself; no record is read.

    A dataset of which some files were not fetched has those that are there, and the log says so.

    Raises:
        DatasetError: If there is none, it cannot be read, is stored in another format, or none of its files is there.
    """
    root = find_rlds(place)
    if root is None:
        raise DatasetError(
            "There is no RLDS dataset here",
            seen=place,
            allowed=f"a folder with {_INFO} and {_FEATURES}, or one with such a folder for each version",
            remedy="Fetch all of gs://gresearch/robotics/NAME/VERSION or a part of its files, these two among them",
        )
    try:
        said = json.loads((root / _INFO).read_bytes())
        name, version = str(said["name"]), str(said.get("version") or root.name)
        fmt = str(said.get("fileFormat") or "tfrecord").lower()
        splits = {str(split["name"]): _shards(root, name, fmt, split) for split in said["splits"]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(
            "What a dataset says about itself cannot be read",
            seen=f"{root / _INFO}: {type(error).__name__}: {error}",
            allowed="dataset_info.json as TFDS 4 writes it",
            remedy="Fetch the file again",
        ) from error
    if fmt != "tfrecord":
        raise DatasetError(
            "The dataset is stored in another format",
            seen=fmt,
            allowed="tfrecord",
            remedy="Convert it with tfds: tfds convert_format --dataset_dir=... --out_file_format=tfrecord",
        )
    there = {name: tuple(s for s in shards if s.path.is_file()) for name, shards in splits.items()}
    absent = {name: len(shards) - len(there[name]) for name, shards in splits.items()}
    if not any(there.values()):
        raise DatasetError(
            "None of the dataset's files is there",
            seen=root,
            allowed=[shard.path.name for shards in splits.values() for shard in shards][:3],
            remedy="Fetch at least one of them",
        )
    return RldsInfo(
        root=root,
        name=name,
        version=version,
        features=read_features(root / _FEATURES),
        splits=there,
        absent=absent,
    )


def _is_dataset(path: Path) -> bool:
    return (path / _INFO).is_file() and (path / _FEATURES).is_file()


def _shards(root: Path, name: str, fmt: str, split: Mapping[str, Any]) -> list[Shard]:
    """Return the files that a split should have; those that are there, where it does not say how many."""
    template = str(split.get("filepathTemplate") or _TEMPLATE)
    lengths = [int(n) for n in split.get("shardLengths") or ()]
    count = len(lengths) or int(split.get("numShards") or 0)
    if not count:
        return _there(root, _path(template, name, fmt, str(split["name"]), "\0", "\1"))
    digits = max(5, len(str(count)))
    shards = []
    for number in range(count):
        relative = _path(template, name, fmt, str(split["name"]), f"{number:0{digits}}", f"{count:0{digits}}")
        shards.append(
            Shard(path=root / relative, number=number, records=lengths[number] if lengths else None)
        )
    return shards


def _there(root: Path, name: str) -> list[Shard]:
    """Return the files of a name that has NUL for a number and SOH for how many there are; each keeps its number.

    Raises:
        ValueError: If two have the same number.
    """
    form = re.compile(re.escape(name).replace("\0", r"(\d+)").replace("\1", r"\d+"))
    paths = sorted(root.glob(name.replace("\0", "*").replace("\1", "*")))
    found = [(path, form.fullmatch(path.relative_to(root).as_posix())) for path in paths]
    shards = {int(match[1]) if form.groups else 0: path for path, match in found if match}
    if len(shards) < sum(match is not None for _, match in found):
        raise ValueError(f"two files of one number among {[path.name for path in paths]}")
    return [Shard(path=path, number=number, records=None) for number, path in shards.items()]


def _path(template: str, name: str, fmt: str, split: str, number: str, count: str) -> str:
    words = {
        "DATASET": name,
        "SPLIT": split,
        "FILEFORMAT": fmt,
        "SHARD_X_OF_Y": f"{number}-of-{count}",
        "SHARD_INDEX": number,
        "NUM_SHARDS": count,
    }
    path = re.sub(r"\{(\w+)\}", lambda match: words[match[1]], template)
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"a file outside of the dataset: {path}")
    return path
