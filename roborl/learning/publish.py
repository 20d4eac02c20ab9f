"""Which weights reach the actors: a gate, version numbers, and a shelf of older versions to go back to."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from roborl.errors import ModelLoadError, RoborlError
from roborl.finite import all_finite
from roborl.pretrained import disk_faults
from roborl.whole_files import whole_file

type Weights = Mapping[str, NDArray[Any]]
type ProbeActions = Callable[[Weights], NDArray[np.floating]]

SATURATED = 0.999
# A number of an action counts as out of its limits, -1 and 1, from here on. Who imitates what stays within them comes near them
# where they are rightly used, and misses by a little to either side: not by half the way from the middle to the limit.
_OUT = 1.5
# By how much the share of such numbers may exceed that of the version in force. One in four: of the smallest action of our
# benches, one part may be pushed beyond its end at every step, as a gripper that holds fast.
_MORE_OUT = 0.25
# Of the newest versions, how many are kept however large they are.
_FEWEST = 4
_MANY = 100_000


class WeightsLink(Protocol):
    """Where versions go; it keeps the last one for late joiners."""

    def publish(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        """Send ``weights`` to everybody who listens, now or later. Does not block."""
        ...


def refusal(
    weights: Weights,
    probe_actions: ProbeActions | None,
    in_force: Callable[[], Weights] | None = None,
) -> str | None:
    """Say why ``weights`` must not drive an arm, or return None.

    Args:
        weights: Actor weights by name.
        probe_actions: Actions, (n, a), that a policy with these weights proposes on remembered observations, before anything
            brings them within their limits; None while there is nothing to probe with. The policy keeps the weights that it
            was asked about last, and those are ``weights``.
        in_force: Returns the weights to compare with, read only where many numbers are out of their limits; None where there
            are none, and then any number may be.
    """
    for name, array in weights.items():
        if not all_finite(array):
            return f"{name} is not finite"
    if probe_actions is None:
        return None
    try:
        actions = np.asarray(probe_actions(weights))
    except RoborlError as error:
        return str(error)
    if not np.isfinite(actions).all():
        return "an action on a probe frame is not finite"
    if actions.size and float(np.abs(actions).min()) > SATURATED:
        return "every action on the probe frames is at its limit or outside [-1, 1]"
    out = _share_out(actions)
    if in_force is None or out <= _MORE_OUT:
        return None
    before = _share_in_force(probe_actions, in_force)
    probe_actions(weights)  # The policy that is asked may be the one that learns.
    if out <= before + _MORE_OUT:
        return None
    return (
        f"{out:.0%} of the numbers in actions on the probe frames are far outside [-1, 1], up to {np.abs(actions).max():.3g}; "
        f"of the version in force {before:.0%}"
    )


def _share_out(actions: NDArray[np.floating]) -> float:
    return float((np.abs(actions) > _OUT).mean()) if actions.size else 0.0


def _share_in_force(probe_actions: ProbeActions, in_force: Callable[[], Weights]) -> float:
    """Return the share of a version that may not be readable any more; such a one counts as without fault."""
    try:
        return _share_out(np.asarray(probe_actions(in_force())))
    except RoborlError:
        return 0.0


class VersionShelf:
    """The published versions of a run, one safetensors file each.

    The newest ``keep`` are there, and of older ones every 2nd, every 4th, every 8th and so on: each time a version is twice
    as far back, half as many are kept. The first one, which training started from, always is. So a whole run can be gone back
    to, and each doubling of its length adds ``keep / 2`` files.

    Where these take more room than they may, ``keep`` is lowered until they do not, so that it is the older ones that are thinned.
    The first one and the four newest stay, whatever room they take.

    Args:
        folder: Where they stand; made if missing.
        keep: How many of the newest are all kept.
        most_bytes: Room that they may take on the disk, bytes.
    """

    def __init__(self, folder: Path, *, keep: int = 50, most_bytes: float = math.inf) -> None:
        self.folder, self._keep, self._most_bytes = folder, keep, most_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def versions(self) -> list[int]:
        """Return the version numbers on the shelf, oldest first."""
        return sorted(int(path.stem) for path in self.folder.glob("[0-9]*.safetensors"))

    def put(self, version: int, weights: Weights, note: Mapping[str, Any]) -> None:
        """Keep ``weights`` as ``version``; ``note`` says where they come from.

        Raises:
            OSError: If the disk does not take them.
        """
        with whole_file(self._path(version)) as draft, disk_faults():
            save_file(
                {name: np.ascontiguousarray(array) for name, array in weights.items()},
                draft,
                metadata={"note": json.dumps(dict(note))},
            )
        self._thin(version)

    def put_again(self, version: int, new: int) -> None:
        """Keep the weights of ``version`` as ``new`` too, in the same file where the disk can do that: it takes no room.

        Raises:
            ModelLoadError: If that version is not on the shelf or its file is torn.
            OSError: If the disk does not take them.
        """
        try:
            self._path(new).hardlink_to(self._path(version))
        except OSError:
            self.put(new, self.get(version), {"rolled_back_to": version})
        self._thin(new)

    def _thin(self, version: int) -> None:
        """Drop the versions that are not kept any longer once ``version`` is the newest."""
        there = self.versions()
        found = {old: self._path(old).stat() for old in there}

        def too_many(kept: Sequence[int]) -> bool:
            # By file: two versions of the same weights may share one.
            return sum({found[v].st_ino: found[v].st_size for v in kept}.values()) > self._most_bytes

        keep, kept = self._keep, _selection(there, version, self._keep)
        while keep > _FEWEST and too_many(kept):
            keep -= 1
            kept = _selection(there, version, keep)
        while len(kept) > _FEWEST + 1 and too_many(kept):
            del kept[1]
        for old in set(there).difference(kept):
            self._path(old).unlink()

    def held_bytes(self) -> int:
        """Return what the versions take on the disk now, bytes."""
        found = [self._path(version).stat() for version in self.versions()]
        return sum({status.st_ino: status.st_size for status in found}.values())

    def may_hold_bytes(self, version_bytes: int) -> float:
        """Return what they come to take in the longest of runs, bytes, where each version has ``version_bytes``."""
        count = len(_selection(range(1, _MANY + 1), _MANY, self._keep))
        return max((_FEWEST + 1) * version_bytes, min(count * version_bytes, self._most_bytes))

    def get(self, version: int) -> dict[str, NDArray[Any]]:
        """Return the weights of ``version``.

        Raises:
            ModelLoadError: If that version is not on the shelf or its file is torn.
        """
        path = self._path(version)
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise ModelLoadError(
                "There is no such version of the policy",
                seen=version,
                allowed=[other for other in self.versions() if other != version] or "none was published yet",
                remedy=f"Choose one of the versions kept in {self.folder}",
            ) from error

    def _path(self, version: int) -> Path:
        return self.folder / f"{version:08d}.safetensors"


def _selection(versions: Sequence[int], newest: int, keep: int) -> list[int]:
    """Return the first version, the newest ``keep``, and of those before ever fewer.

    The steps double, so what is selected now stood in every selection before, of as many or more.
    """
    return [v for v in versions if v == versions[0] or v % (1 << ((newest - v) // keep).bit_length()) == 0]


class PolicyPublisher:
    """Numbers new weights, lets them through the gate, and sends them.

    Args:
        link: Where versions go.
        shelf: Where they are kept; numbering goes on from its newest.

    Attributes:
        version: The last good version, 0 before any.
        refused: How many sets of weights the gate has turned away.
    """

    def __init__(self, link: WeightsLink, shelf: VersionShelf) -> None:
        self._link, self._shelf = link, shelf
        self.version = max(shelf.versions(), default=0)
        self.refused = 0
        self.last_refusal = ""

    def republish(self) -> None:
        """Send the last good version again, after a restart, for actors that join now."""
        if self.version:
            self._link.publish(self.version, self._shelf.get(self.version))

    def weights(self, version: int) -> dict[str, NDArray[Any]]:
        """Return the weights of a version that is on the shelf.

        Raises:
            ModelLoadError: If it is not.
        """
        return self._shelf.get(version)

    def offer(
        self, weights: Weights, note: Mapping[str, Any], probe_actions: ProbeActions | None = None
    ) -> bool:
        """Publish ``weights`` as the next version unless the gate refuses them.

        Returns:
            Whether they went out. Where not, the last good ones stay in force and ``last_refusal`` says why.

        Raises:
            OSError: If the disk does not take them; the last good ones stay in force.
        """
        in_force = (lambda: self._shelf.get(self.version)) if self.version else None
        reason = refusal(weights, probe_actions, in_force)
        if reason is not None:
            self.refused += 1
            self.last_refusal = reason
            return False
        version = self.version + 1
        # Kept before it is sent: a version that an actor has acted with is never missing from the shelf.
        self._shelf.put(version, weights, note)
        self._link.publish(version, dict(weights))
        self.version = version
        return True

    def roll_back(self, version: int) -> int:
        """Publish an older version again under a new number and return that number.

        Raises:
            ModelLoadError: If the version is not on the shelf.
            OSError: If the disk does not take it; the last good one stays in force.
        """
        weights = self._shelf.get(version)
        new = self.version + 1
        self._shelf.put_again(version, new)
        self._link.publish(new, weights)
        self.version = new
        return new


def probe_with(
    act: Callable[[Any], NDArray[np.floating]], load: Callable[[Weights], None], observations: Sequence[Any]
) -> ProbeActions:
    """Build the gate's probe from a policy object: ``load`` fills it with weights, ``act`` asks it.

    Args:
        act: Observation to action chunk (h, a), not brought within limits.
        load: Takes weights; raises a :class:`RoborlError` where they do not fit.
        observations: What to ask about.
    """

    def actions(weights: Weights) -> NDArray[np.floating]:
        load(weights)
        return np.concatenate([act(observation) for observation in observations])

    return actions
