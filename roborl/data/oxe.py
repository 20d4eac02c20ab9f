"""What is known of the datasets of Open X-Embodiment and stands in none of their files: ``datasets/oxe.yaml``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from roborl.errors import ConfigError
from roborl.paths import dataset_file

_ON_ARM = ("wrist", "hand", "gripper")
_PORT, _CONVERTED = "_lerobot", "_converted_externally_to_rlds"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDataset:
    """Facts about one dataset.

    Attributes:
        rate_hz: Observations per second.
        images: Pictures below ``steps/observation``, the view from outside first; empty where that is not known.
        instruction: Features below ``steps`` that hold the task, to be tried in this order; empty where it is not known.
        action: Features below ``steps/action`` that make an action where it has parts, in order, the gripper last; empty
            where it is one vector, or not known.
        deltas: How many numbers of an action, from the first, are changes, so that 0 is no motion; 0 where that is not known.
        onset: Share of an episode after which the task is usually done, None where nobody said.
        wrist_only: Whether there is no view from outside.
        bgr: Whether blue and red are swapped in the pictures.
        still_start: Whether the first action is no motion and to be left out.
        success: The feature that says whether an episode succeeded, empty where all are demonstrations.
    """

    rate_hz: float
    images: tuple[str, ...] = ()
    instruction: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    deltas: int = 0
    onset: float | None = None
    wrist_only: bool = False
    bgr: bool = False
    still_start: bool = False
    success: str = ""


@functools.cache
def known_datasets() -> Mapping[str, KnownDataset]:
    """Return what is known, by the datasets' names.

    Raises:
        ConfigError: If the table is missing, or says what nobody asked.
    """
    path = dataset_file("oxe.yaml")
    try:
        return {str(name): _known(facts) for name, facts in yaml.safe_load(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(
            "The table of datasets cannot be read",
            seen=f"{path}: {error}",
            allowed=[field.name for field in fields(KnownDataset)],
            remedy="Correct it",
        ) from error


def known_dataset(name: str) -> KnownDataset | None:
    """Return what is known of a dataset, None where that is nothing.

    Args:
        name: Of its folder, also that of a port to LeRobot, with or without what converters put behind it.

    Example:
        >>> known_dataset("berkeley_mvp_lerobot").wrist_only, known_dataset("my_desk")
        (True, None)
    """
    plain, table = name.removesuffix(_PORT), known_datasets()
    return table.get(plain) or table.get(plain + _CONVERTED) or table.get(f"{plain}_dataset{_CONVERTED}")


def known_onset(place: str | Path) -> float | None:
    """Return the share of the episodes of a dataset after which their task is usually done, None where that is not known.

    Args:
        place: Its folder, or its id on the hub, where what a cache calls its folder says nothing.
    """
    path = Path(place).expanduser()
    known = known_dataset(path.resolve().name if path.exists() else path.name)
    return known.onset if known else None


def is_on_arm(camera: str) -> bool:
    """Whether a camera moves with the arm, by its name.

    Example:
        >>> is_on_arm("wrist_image"), is_on_arm("exterior_image_1_left")
        (True, False)
    """
    return any(word in camera.lower() for word in _ON_ARM)


def _known(facts: Mapping[str, Any]) -> KnownDataset:
    lists = {key: tuple(map(str, facts[key])) for key in ("images", "instruction", "action") if key in facts}
    known = KnownDataset(**{**facts, **lists})
    if not known.rate_hz > 0 or not (known.onset is None or 0 < known.onset <= 1):
        raise ValueError(f"rate_hz {known.rate_hz}, onset {known.onset}")
    return known
