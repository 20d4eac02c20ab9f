"""What a reward model says of itself, in this process and to clients of the server that has it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from roborl.errors import ConfigError, WireError
from roborl.rewards.verdicts import DoneRule

_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
# What references that a session brings add to it: their digest.
_REFERENCES = "-" + 12 * "0"
VERSION_FORM = "up to 80 letters, digits, _, . and -, no . or - first"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Facts about a reward model. What it does not say has its default.

    Attributes:
        version: Hash of weights, prompt, view set, calibration and judge settings; it stands on every score and names the
            folder of its labels, so it is of at most 67 letters, digits, ``_``, ``.`` and ``-``.
        cameras: Names of the views it was made for; empty where any view will do.
        most_views: Most views that may come of an episode; None for any number, as where ``cameras`` names which are looked at.
        image_px: Side of the square images it looks at; None where it takes any size. A client may resize before sending.
        says_done: Whether it ever says that a task is done.
        done_rule: How it reads "done" off its progress, which a calibration does anew with the mapped one; None where it
            has its word from elsewhere.
        done_holds: Whether a missing reading leaves the count of that rule as it is, and does not start it anew.
        about: What its version is the hash of, as plain values: words, network, settings.
        observation_hz: Rate of observations that it is told to count on, Hz; None where none plays a part.
        trained_hz: Rate of the observations that it learnt from and counts, Hz; None or 0 where it is not known.
        looks_back: Whether a score hangs on earlier observations, so that one alone says little.
    """

    version: str
    cameras: tuple[str, ...] = ()
    most_views: int | None = None
    image_px: int | None = None
    says_done: bool = True
    done_rule: DoneRule | None = None
    done_holds: bool = False
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)
    observation_hz: float | None = None
    trained_hz: float | None = None
    looks_back: bool = False

    def to_wire(self) -> dict[str, Any]:
        """Return it as plain values by name."""
        wire = {one.name: getattr(self, one.name) for one in fields(self)}
        rule = None if self.done_rule is None else asdict(self.done_rule)
        return wire | {"cameras": list(self.cameras), "done_rule": rule, "about": dict(self.about)}

    @classmethod
    def from_wire(cls, wire: object) -> ModelInfo:
        """Read what a server says of a model. It may say less, as older releases do, or more.

        Raises:
            WireError: If it does not say the version, or says something in another form.

        Example:
            >>> ModelInfo.from_wire({"version": "v1", "cameras": ["front"], "calls": 3}).cameras
            ('front',)
        """
        said = {name: wire[name] for name in _FORMS if name in wire} if isinstance(wire, Mapping) else {}
        for name, value in {"version": None, **said}.items():
            allowed, fits = _FORMS[name]
            if not fits(value):
                raise WireError(
                    f"What the reward server says of a model cannot be used: {name}",
                    seen=repr(value)[:120],
                    allowed=allowed,
                    remedy="Use the same release on both sides; let a model of your own say it in this form",
                )
        rule = said.get("done_rule")
        return cls(
            **said
            | {
                "cameras": tuple(said.get("cameras", ())),
                "done_rule": None if rule is None else DoneRule(**rule),
            }
        )


def names_folder(version: str) -> bool:
    """Return whether a version can name the folder of its labels."""
    return _FOLDER.fullmatch(version) is not None


def _is_version(value: object) -> bool:
    return isinstance(value, str) and names_folder(value + _REFERENCES)


def _is_count(value: object) -> bool:
    return value is None or (type(value) is int and value > 0)


def _is_rate(value: object) -> bool:
    return value is None or (type(value) in (int, float) and 0 <= value < math.inf)  # type: ignore[operator]


def _is_rule(value: object) -> bool:
    try:
        return value is None or bool(DoneRule(**value))  # type: ignore[arg-type]
    except (TypeError, ConfigError):
        return False


_FORMS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "version": ("up to 67 letters, digits, _, . and -, no . or - first", _is_version),
    "cameras": ("a list of names", lambda v: type(v) is list and all(type(name) is str for name in v)),
    "most_views": ("None or above 0", _is_count),
    "image_px": ("None or above 0", _is_count),
    "says_done": ("true or false", lambda value: type(value) is bool),
    "done_rule": ("None or the fields of a done rule", _is_rule),
    "done_holds": ("true or false", lambda value: type(value) is bool),
    "about": ("values by name", lambda value: type(value) is dict),
    "observation_hz": ("None or a finite rate ≥ 0", _is_rate),
    "trained_hz": ("None or a finite rate ≥ 0", _is_rate),
    "looks_back": ("true or false", lambda value: type(value) is bool),
}
