"""Where the data folders are: beside the package in a checkout, inside it in a wheel; and where what is made again lies."""

from __future__ import annotations

import os
import re
from pathlib import Path

from roborl.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent


def source_root() -> Path | None:
    """Return the checkout that this package runs from, None where it was installed from a wheel."""
    checkout = _PACKAGE.parent
    return checkout if (checkout / "pyproject.toml").is_file() else None


def _data_root() -> Path:
    return source_root() or _PACKAGE


def same_place(one: str, other: str) -> bool:
    """Return whether two names are the same, or of one folder however each is spelt."""
    folders = one and other and Path(one).is_dir() and Path(other).is_dir()
    return one == other or bool(folders and Path(one).samefile(other))


def refuse_dataset(folder: Path, option: str) -> None:
    """Refuse to write something else into the folder of a LeRobotDataset.

    Args:
        folder: Where it is to be written.
        option: What named the folder.

    Raises:
        ConfigError: If a dataset is there.
    """
    if (folder / "meta" / "info.json").is_file():
        raise ConfigError(
            "A dataset is in this folder, which stays as it is",
            seen=folder,
            allowed="a folder of its own",
            remedy=f"Name another one: {option}",
        )


def with_home(text: str) -> str:
    """Return a text with the home folder for a ``~/`` that it begins with, or that stands behind a colon as in KIND:PLACE.

    Example:
        >>> home = str(Path.home())
        >>> [with_home(text).replace(home, "HOME") for text in ("~/runs", "sarm:~/judge", "a~/b", "~")]
        ['HOME/runs', 'sarm:HOME/judge', 'a~/b', '~']
    """
    return re.sub(r"(?:^|(?<=:))~(?=/)", lambda _: str(Path.home()), text)


def cache_folder(name: str) -> Path:
    """Return where files lie that can be made again; nobody has made the folder yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roborl" / name


def dataset_file(name: str) -> Path:
    """Return ``datasets/<name>``.

    Raises:
        ConfigError: If there is no such file.
    """
    path = _data_root() / "datasets" / name
    if not path.is_file():
        raise ConfigError(
            "A file of the installation is missing",
            seen=path,
            allowed="a whole one",
            remedy="Install roborl again",
        )
    return path


def robot_folder(name: str) -> Path:
    """Return ``robots/<name>``, which holds robot.yaml and its model files; or the folder that ``name`` is the path of.

    Raises:
        ConfigError: If there is no such robot.
    """
    root = _data_root() / "robots"
    folder = next((f for f in (root / name, Path(name)) if (f / "robot.yaml").is_file()), None)
    if folder is None:
        raise ConfigError(
            "There is no such robot",
            seen=name,
            allowed=[*sorted(p.parent.name for p in root.glob("*/robot.yaml")), "the path of a folder"],
            remedy="Give the path of a folder with a robot.yaml",
        )
    return folder


def bench_file(name_or_path: str) -> Path:
    """Return a bench file given its path, or its name in ``hardware_configs/``.

    Raises:
        ConfigError: If neither exists.
    """
    root = _data_root() / "hardware_configs"
    for candidate in (Path(name_or_path), root / f"{name_or_path}.yaml"):
        if candidate.is_file():
            return candidate
    raise ConfigError(
        "There is no such bench file",
        seen=name_or_path,
        allowed=sorted(p.stem for p in root.glob("*.yaml")),
        remedy="Give a path to a YAML file or one of these names",
    )
