"""A small writer of RLDS datasets, for tests: the wire format seen from the other side."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from roborl.data.rlds.tfrecord import masked_crc

_MODULE = "tensorflow_datasets.core.features."


def varint(value: int) -> bytes:
    """Encode an integer; a negative one takes ten bytes."""
    left, encoded = value & 0xFFFFFFFFFFFFFFFF, bytearray()
    while left > 0x7F:
        encoded.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*encoded, left])


def field(number: int, data: bytes) -> bytes:
    """Encode a field that holds bytes or a message."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(values: Mapping[str, Any], *, packed: bool = True) -> bytes:
    """Encode a ``tf.train.Example``: text, bytes, lists of them, and arrays, by name."""
    entries = [
        field(1, field(1, name.encode()) + field(2, _feature(value, packed)))
        for name, value in values.items()
    ]
    return field(1, b"".join(entries))


def _feature(value: Any, packed: bool) -> bytes:
    if isinstance(value, str | bytes | list):
        texts = value if isinstance(value, list) else [value]
        return field(1, b"".join(field(1, t.encode() if isinstance(t, str) else t) for t in texts))
    array = np.asarray(value)
    if array.dtype.kind == "f":
        raw = array.astype("<f4").tobytes()
        singles = [raw[i : i + 4] for i in range(0, len(raw), 4)]
        return field(2, field(1, raw) if packed else b"".join(varint(1 << 3 | 5) + s for s in singles))
    numbers = [varint(int(n)) for n in array.ravel()]
    return field(3, field(1, b"".join(numbers)) if packed else b"".join(varint(1 << 3) + n for n in numbers))


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Write a TFRecord file."""
    with path.open("wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + struct.pack("<I", masked_crc(length)))
            file.write(record + struct.pack("<I", masked_crc(record)))


def write_rlds(
    root: Path,
    episodes: Sequence[Mapping[str, Any]],
    *,
    split: str = "train",
    shards: int = 1,
    old: bool = False,
) -> Path:
    """Write a dataset of one split as TFDS would.

    Args:
        root: Its folder; the one above it is named for the dataset.
        episodes: What each has: nested dictionaries of arrays, text or lists of text. Below ``steps`` each has a row for
            each step, and uint8 (N, h, w, 3) becomes pictures.
        split: Its name.
        shards: How many files.
        old: Whether ``features.json`` has its older form.

    Returns:
        ``root``.
    """
    root.mkdir(parents=True, exist_ok=True)
    name = root.parent.name
    groups = [episodes[i::shards] for i in range(shards)]
    for number, group in enumerate(groups):
        records = [example(dict(_flat(episode))) for episode in group]
        write_records(root / f"{name}-{split}.tfrecord-{number:05}-of-{shards:05}", records)
    (root / "features.json").write_text(json.dumps(_described(episodes[0], old=old, steps=False)))
    said = {"name": split, "shardLengths": [str(len(group)) for group in groups]}
    if not old:
        said["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": name, "version": root.name, "splits": [said]} | (
        {} if old else {"fileFormat": "tfrecord"}
    )
    (root / "dataset_info.json").write_text(json.dumps(info))
    return root


def _is_film(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 4


def _flat(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}/")
        elif _is_film(value):
            pictures = [cv2.imencode(".png", picture[..., ::-1])[1].tobytes() for picture in value]
            yield path + name, pictures
        else:
            yield path + name, value


def _described(value: Any, *, old: bool, steps: bool) -> dict[str, Any]:
    """Return a feature in the older or the newer form of ``features.json``; ``steps`` where each step has a row of it."""
    if isinstance(value, Mapping):
        parts = {
            name: _series(_described(part, old=old, steps=True), old)
            if name == "steps"
            else _described(part, old=old, steps=steps)
            for name, part in value.items()
        }
        if old:
            return {"type": f"{_MODULE}features_dict.FeaturesDict", "content": parts}
        return _new("features_dict.FeaturesDict", "featuresDict", {"features": parts})
    if isinstance(value, str | list):
        return (
            {"type": f"{_MODULE}text_feature.Text", "content": {"use_encoder": False}}
            if old
            else _new("text_feature.Text", "text", {})
        )
    array = np.asarray(value)
    shape = [int(n) for n in array.shape[1 if steps else 0 :]]
    if _is_film(array):
        said = {"shape": shape, "dtype": "uint8", "encoding_format": "png"}
        if old:
            return {"type": f"{_MODULE}image_feature.Image", "content": said}
        new = {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": "uint8", "encodingFormat": "png"}
        return _new("image_feature.Image", "image", new)
    if old:
        said = {"shape": shape, "dtype": array.dtype.name, "encoding": "none"}
        return {"type": f"{_MODULE}tensor_feature.Tensor", "content": said}
    dimensions = {"dimensions": [str(n) for n in shape]} if shape else {}
    new = {"shape": dimensions, "dtype": array.dtype.name, "encoding": "none"}
    return _new("tensor_feature.Tensor" if shape else "scalar.Scalar", "tensor", new)


def _series(inner: dict[str, Any], old: bool) -> dict[str, Any]:
    if old:
        return {
            "type": f"{_MODULE}dataset_feature.Dataset",
            "content": {"feature": inner, "length": None},
        }
    return _new("dataset_feature.Dataset", "sequence", {"feature": inner, "length": "-1"})


def _new(name: str, key: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"pythonClassName": _MODULE + name, key: content}


def rlds_episode(seed: int, steps: int = 6, **changes: Any) -> dict[str, Any]:
    """Make a demonstration of ``steps`` steps and one observation more, as the datasets of Open X-Embodiment have it.

    Args:
        seed: Of its numbers and pictures.
        steps: T; the record has T + 1 steps, the last of them without an action that means anything.
        changes: Features of each step that shall be otherwise, ``action`` or ``observation`` whole; None for without.
    """
    rng, count = np.random.default_rng(seed), steps + 1
    last = np.arange(count) == steps
    fields: dict[str, Any] = {
        "is_first": np.arange(count) == 0,
        "is_last": last,
        "is_terminal": last,
        "reward": last.astype(np.float32),
        "discount": np.ones(count, np.float32),
        "action": rng.uniform(-1, 1, (count, 7)).astype(np.float32),
        "language_instruction": [f"put the cube in bowl {seed % 2}"] * count,
        "language_embedding": rng.normal(size=(count, 512)).astype(np.float32),
        "observation": {
            "image": rng.integers(0, 256, (count, 16, 20, 3), dtype=np.uint8),
            "wrist_image": rng.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8),
            "state": rng.normal(size=(count, 8)).astype(np.float32),
        },
    }
    kept = {name: value for name, value in {**fields, **changes}.items() if value is not None}
    return {"steps": kept, "episode_metadata": {"file_path": f"/data/{seed}.npy"}}
