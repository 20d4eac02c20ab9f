"""Which of a dataset's features serve as task, pictures, state, action and verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from roborl.data.oxe import is_on_arm, known_dataset
from roborl.data.rlds.episode import STEPS
from roborl.data.rlds.features import Leaf
from roborl.data.rlds.shards import RldsInfo
from roborl.errors import ConfigError, DatasetError

_OBSERVATION, _ACTION = STEPS + "observation/", STEPS + "action"
_WIDEST_STATE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RldsMapping:
    """Paths of features, as :class:`~roborl.data.rlds.episode.RldsEpisode` takes them.

    Attributes:
        instruction: What may hold the task; the first that is not empty counts.
        cameras: Pictures by camera name, those from outside first.
        state: Numbers that make the state, one behind the other.
        action: The same for actions.
        deltas: How many numbers of an action, from the first, are known to be changes, so that 0 is no motion.
        unused_action: What else the dataset has for its actions.
        state_names: One per dimension.
        action_names: The same.
        rate_hz: Observations per second.
        success: What says whether an episode succeeded, empty where nothing does.
        demonstrations: Whether every episode is known to have succeeded.
        onset: Share of an episode after which the task is usually done, None where that is not known.
        wrist_only: Whether there is no view from outside, whatever the cameras are called.
        bgr: Whether blue and red are swapped in the pictures.
        still_start: Whether the first action is no motion and to be left out.
    """

    instruction: tuple[str, ...]
    cameras: Mapping[str, str]
    state: tuple[str, ...]
    action: tuple[str, ...]
    deltas: int
    unused_action: tuple[str, ...]
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    rate_hz: float
    success: str
    demonstrations: bool
    onset: float | None
    wrist_only: bool
    bgr: bool
    still_start: bool


def map_features(
    info: RldsInfo, *, instruction: str = "", images: Sequence[str] = (), rate_hz: float | None = None
) -> RldsMapping:
    """Say what serves as what, by ``datasets/oxe.yaml``, by what the caller says, or else by names and forms.

    Args:
        info: The dataset.
        instruction: What holds the task: a name, below ``steps`` or ``steps/observation``.
        images: Which pictures, the same way; by default all in colour, those from outside first.
        rate_hz: Observations per second.

    Raises:
        ConfigError: If nobody says how many observations a second has.
        DatasetError: If it has no such feature, no pictures or no action.
    """
    known, features = known_dataset(info.name), info.features
    rate = rate_hz or (known.rate_hz if known else None)
    if rate is None or not 0 < rate < 1e4:
        raise ConfigError(
            "How many observations a second has stands nowhere in an RLDS dataset",
            seen=f"{info.name}, which datasets/oxe.yaml does not know" if rate is None else rate,
            allowed="more than 0",
            remedy="Say it with rate_hz: 5 for 5 observations per second",
        )
    told = [instruction] if instruction else known.instruction if known else ()
    tasks = [_find(features, name) for name in told if instruction or _has(features, name)]
    pictures = [path for path, leaf in features.items() if leaf.is_picture and path.startswith(STEPS)]
    wanted = images or [name for name in (known.images if known else ()) if _has(features, name)]
    cameras = [_find(features, name) for name in wanted] or sorted(
        pictures, key=lambda path: is_on_arm(camera_name(path))
    )
    if wrong := [path for path in cameras if path not in pictures] or not cameras:
        raise DatasetError(
            "The dataset has no such pictures" if cameras else "The dataset has no pictures",
            seen=wrong if cameras else info.root,
            allowed=sorted(map(camera_name, pictures)) or "uint8 (h, w, 3) below steps",
            remedy="Name one of these with image" if pictures else "",
        )
    state, action = _state(features), _actions(features, known.action if known else ())
    if not action:
        raise DatasetError(
            "The dataset has no action",
            seen=info.root,
            allowed="numbers of a known shape at steps/action, or below it",
        )
    return RldsMapping(
        instruction=tuple(tasks or _instructions(features)),
        cameras={camera_name(path): path for path in cameras},
        state=state,
        action=action,
        deltas=known.deltas if known and action == _parts(known.action or ("",)) else 0,
        unused_action=tuple(path for path in _below_action(features) if path not in action),
        state_names=_names(features, state),
        action_names=_names(features, action),
        rate_hz=rate,
        success=known.success if known else _verdict(features),
        demonstrations=known is not None and not known.success,
        onset=known.onset if known else None,
        wrist_only=known is not None and known.wrist_only,
        bgr=known is not None and known.bgr,
        still_start=known is not None and known.still_start,
    )


def camera_name(path: str) -> str:
    """Return the camera's name that a picture's path stands for.

    Example:
        >>> camera_name("steps/observation/image"), camera_name("steps/observation/left/rgb")
        ('image', 'left_rgb')
    """
    return path.removeprefix(_OBSERVATION).removeprefix(STEPS).replace("/", "_")


def _has(features: Mapping[str, Leaf], name: str) -> bool:
    return any(start + name in features for start in (_OBSERVATION, STEPS, ""))


def _find(features: Mapping[str, Leaf], name: str) -> str:
    for start in (_OBSERVATION, STEPS, ""):
        if start + name in features:
            return start + name
    raise DatasetError(
        "The dataset has no such feature",
        seen=name,
        allowed=sorted(features),
        remedy="Name one of these, with or without steps/ and steps/observation/ before it",
    )


def _instructions(features: Mapping[str, Leaf]) -> list[str]:
    """Return what by its name holds the task, that of the steps themselves first."""
    found = [
        path
        for path, leaf in features.items()
        if leaf.kind == "text" and leaf.depth < 2 and path.rsplit("/", 1)[-1].count("instruction")
    ]
    return sorted(found, key=lambda path: (path.startswith(_OBSERVATION), path))


def _state(features: Mapping[str, Leaf]) -> tuple[str, ...]:
    if (features[whole].width if (whole := _OBSERVATION + "state") in features else None) is not None:
        return (whole,)
    return tuple(
        path
        for path, leaf in sorted(features.items())
        if path.startswith(_OBSERVATION)
        and _is_vector(leaf)
        and (leaf.width or 0) <= _WIDEST_STATE
        and "embedding" not in path
    )


def _actions(features: Mapping[str, Leaf], known: Sequence[str]) -> tuple[str, ...]:
    """Return the parts of an action: those that are known, if all of them are there, or else every vector but the wish to end."""
    told = _parts(known)
    if told and all(path in features and _is_command(features[path]) for path in told):
        return told
    return tuple(
        path
        for path in _below_action(features)
        if _is_command(features[path]) and not path.rsplit("/", 1)[-1].startswith("terminate")
    )


def _parts(names: Sequence[str]) -> tuple[str, ...]:
    """Return the paths of parts of an action; no name stands for the action itself."""
    return tuple(f"{_ACTION}/{name}".rstrip("/") for name in names)


def _below_action(features: Mapping[str, Leaf]) -> list[str]:
    return sorted(path for path in features if path == _ACTION or path.startswith(_ACTION + "/"))


def _is_command(leaf: Leaf) -> bool:
    """Whether each step has numbers here: a gripper that opens or closes is often a truth value or a whole number."""
    return leaf.depth == 1 and bool(leaf.width) and len(leaf.shape) < 2


def _is_vector(leaf: Leaf) -> bool:
    return _is_command(leaf) and leaf.dtype.startswith("float")


def _names(features: Mapping[str, Leaf], paths: Sequence[str]) -> tuple[str, ...]:
    names = []
    for path in paths:
        leaf, name = features[path], camera_name(path)
        names += [f"{name}_{i}" for i in range(leaf.width or 0)] if leaf.shape else [name]
    return tuple(names)


def _verdict(features: Mapping[str, Leaf]) -> str:
    places = ("success", "episode_metadata/success", "is_success", "episode_metadata/is_success")
    return next((path for path in places if path in features and features[path].depth == 0), "")
