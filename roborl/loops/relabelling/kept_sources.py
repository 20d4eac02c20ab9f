"""What a folder of rows was made from: another source would take its rows and videos away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from roborl.errors import DatasetError
from roborl.loops.relabelling.config import RESULT, STAGES
from roborl.whole_files import write_whole

_KEPT = Path(STAGES) / "sources.json"


def check_folder(out: Path, sources: Sequence[str]) -> None:
    """Refuse a folder that holds something else, or rows of sources that are not among these.

    Raises:
        DatasetError: If it does, or what it was made from cannot be read.
    """
    there = [path for path in out.iterdir() if not path.name.startswith(".")] if out.is_dir() else []
    if there and not (out / STAGES).is_dir():
        raise DatasetError(
            "There is something else where the rows are to go",
            seen=f"{out}: {', '.join(sorted(path.name for path in there)[:5])}",
            allowed="a new folder, or one that roborl relabel wrote",
            remedy="Give another --out",
        )
    asked = [_place(source) for source in sources]
    if lacking := [place for place in _kept(out) if place not in asked]:
        written = _KEPT if (out / _KEPT).is_file() else RESULT
        raise DatasetError(
            "The folder was made from other sources, whose rows would be taken away",
            seen=f"{', '.join(asked)} for {out}",
            allowed=f"{', '.join(lacking)} among the sources",
            remedy=f"Give another --out; where a source was moved since, or is named from another folder, correct {out / written}",
        )


def keep_sources(out: Path, sources: Sequence[str]) -> None:
    """Write down what a folder is made from."""
    (out / STAGES).mkdir(parents=True, exist_ok=True)
    write_whole(out / _KEPT, json.dumps([_place(source) for source in sources]) + "\n")


def _kept(out: Path) -> list[str]:
    try:
        if (out / _KEPT).is_file():
            return [str(place) for place in json.loads((out / _KEPT).read_text())]
        if (out / RESULT).is_file():  # of an earlier release
            return [_place(source) for source in json.loads((out / RESULT).read_text())["settings"]["source"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            "It cannot be read what the folder was made from",
            seen=f"{out}: {type(error).__name__}: {error}",
            allowed=f"{_KEPT} as roborl relabel wrote it",
            remedy="Give another --out",
        ) from error
    return []


def _place(source: str) -> str:
    """Return the whole path of a folder, or an id on the hub as it is."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source
