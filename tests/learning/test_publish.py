from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import SafetensorError

from roborl.errors import ModelLoadError
from roborl.learning.publish import PolicyPublisher, VersionShelf, Weights, probe_with, refusal


class Link:
    """Remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, dict[str, NDArray[Any]]]] = []

    def publish(self, version: int, weights: dict[str, NDArray[Any]]) -> None:
        self.sent.append((version, weights))


def weights(value: float) -> dict[str, NDArray[np.float32]]:
    return {"bias": np.full(3, value, np.float32)}


def linear(probes: NDArray[np.float32]) -> Any:
    """A policy whose action is observation plus bias, unclipped."""
    held: dict[str, NDArray[Any]] = {}

    def load(new: Weights) -> None:
        held.update(new)

    return probe_with(lambda observation: (observation + held["bias"])[None], load, list(probes))


PROBES = np.linspace(-0.2, 0.2, 12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0.1, None),
        (np.nan, "not finite"),
        (np.inf, "not finite"),
        (2.0, "outside"),
    ],
)
def test_the_gate_lets_through_only_what_stays_within_limits(value: float, reason: str | None) -> None:
    found = refusal(weights(value), linear(PROBES))
    assert found is None if reason is None else reason in (found or "")


def test_a_policy_that_only_pushes_at_its_limits_is_refused() -> None:
    saturated = np.ones((4, 3), np.float32)
    assert "limit" in (refusal(weights(0.0), lambda _: saturated) or "")
    one_free = saturated.copy()
    one_free[2, 1] = 0.4
    assert refusal(weights(0.0), lambda _: one_free) is None


def test_weights_that_leave_the_limits_are_refused_beside_calm_ones(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    raw = random.uniform(-1.2, 1.2, (160, 4)).astype(
        np.float32
    )  # As of one that imitates what reaches its limits.
    gripper = raw.copy()
    gripper[:, 3] = 9.0
    astray = raw * 30.0
    asked: list[float] = []

    def probe(scale: Weights) -> NDArray[np.float32]:
        asked.append(float(scale["bias"][0]))
        return {0.1: raw, 0.2: gripper, 0.3: astray, 0.4: astray * 2.0}[round(asked[-1], 1)]

    publisher = PolicyPublisher(Link(), VersionShelf(tmp_path))
    assert publisher.offer(weights(0.1), {}, probe)
    assert not publisher.offer(weights(0.3), {}, probe)
    assert "far outside [-1, 1]" in publisher.last_refusal
    assert "of the version in force 0%" in publisher.last_refusal
    assert asked[-1] == pytest.approx(0.3), "what is tried keeps the weights that are learnt"
    assert publisher.offer(weights(0.2), {}, probe), "a gripper that is pushed beyond its end holds fast"

    assert refusal(weights(0.3), probe) is None, "the policy to start from has none to compare with"
    assert refusal(weights(0.4), probe, lambda: weights(0.3)) is None
    (tmp_path / "00000002.safetensors").unlink()
    assert not publisher.offer(weights(0.3), {}, probe)


def test_refused_weights_leave_the_last_good_ones_in_force(tmp_path: Path) -> None:
    link = Link()
    publisher = PolicyPublisher(link, VersionShelf(tmp_path))
    assert publisher.offer(weights(0.1), {}, linear(PROBES))
    assert not publisher.offer(weights(np.nan), {}, linear(PROBES))
    assert not publisher.offer(weights(3.0), {}, linear(PROBES))
    assert [version for version, _ in link.sent] == [1]
    assert (publisher.version, publisher.refused) == (1, 2)
    assert "outside" in publisher.last_refusal
    assert publisher.offer(weights(0.2), {}, linear(PROBES))
    assert publisher.version == 2


def test_numbers_go_on_after_a_restart_and_the_last_version_is_sent_again(tmp_path: Path) -> None:
    first = PolicyPublisher(Link(), VersionShelf(tmp_path))
    first.offer(weights(0.1), {})
    first.offer(weights(0.2), {})
    link = Link()
    second = PolicyPublisher(link, VersionShelf(tmp_path))
    second.republish()
    assert link.sent[0][0] == 2
    np.testing.assert_array_equal(link.sent[0][1]["bias"], weights(0.2)["bias"])
    second.offer(weights(0.3), {})
    assert link.sent[1][0] == 3


def test_rolling_back_makes_a_new_version_of_the_old_weights(tmp_path: Path) -> None:
    link = Link()
    publisher = PolicyPublisher(link, VersionShelf(tmp_path))
    for value in (0.1, 0.2, 0.3):
        publisher.offer(weights(value), {})
    assert publisher.roll_back(1) == 4
    version, sent = link.sent[-1]
    assert version == 4
    np.testing.assert_array_equal(sent["bias"], weights(0.1)["bias"])
    with pytest.raises(ModelLoadError, match="no such version") as caught:
        publisher.roll_back(9)
    assert caught.value.allowed == [1, 2, 3, 4]


def no_room(*_: object, **__: object) -> None:
    raise SafetensorError("I/O error: No space left on device")


def test_rolling_back_takes_no_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = PolicyPublisher(Link(), VersionShelf(tmp_path, keep=4))
    for value in range(30):
        publisher.offer(weights(value / 100), {})
    monkeypatch.setattr("roborl.learning.publish.save_file", no_room)
    assert publisher.roll_back(1) == 31
    kept = VersionShelf(tmp_path)
    np.testing.assert_array_equal(kept.get(31)["bias"], weights(0.0)["bias"])
    assert kept.versions()[-4:] == [28, 29, 30, 31]
    assert 27 not in kept.versions(), "older ones make way as ever"


def test_a_disk_without_links_keeps_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    publisher = PolicyPublisher(Link(), VersionShelf(tmp_path))
    publisher.offer(weights(0.1), {})
    assert publisher.roll_back(1) == 2
    np.testing.assert_array_equal(publisher.weights(2)["bias"], weights(0.1)["bias"])
    monkeypatch.setattr("roborl.learning.publish.save_file", no_room)
    with pytest.raises(OSError, match="No space left"):
        publisher.roll_back(1)
    assert publisher.version == 2


def test_the_shelf_keeps_the_newest_and_ever_fewer_of_the_older_versions(tmp_path: Path) -> None:
    shelf = VersionShelf(tmp_path, keep=4)
    count = {}
    for version in range(1, 1025):
        shelf.put(version, weights(version / 100), {"updates": version})
        count[version] = len(shelf.versions())
        if version == 20:
            assert shelf.versions() == [1, 8, 12, 14, 16, 17, 18, 19, 20]
    kept = shelf.versions()
    assert kept[0] == 1
    assert kept[-4:] == [1021, 1022, 1023, 1024]
    assert [count[2 * n] - count[n] for n in (16, 32, 64, 128, 256, 512)] == [2] * 6
    # From the first version on, no gap is wider than half of what lies behind it.
    assert all(newer - older <= (1024 - older) / 2 for older, newer in pairwise(kept[:-4]))


def test_versions_that_take_too_much_room_make_way_the_older_ones_first(tmp_path: Path) -> None:
    VersionShelf(tmp_path / "one").put(1, weights(0.1), {"updates": 100})
    size = VersionShelf(tmp_path / "one").held_bytes()
    shelf = VersionShelf(tmp_path / "many", most_bytes=12 * size)
    for version in range(1, 101):
        shelf.put(version, weights(version / 100), {"updates": 100})
        assert shelf.held_bytes() <= 12 * size
    kept = shelf.versions()
    assert len(kept) > 8
    assert kept[0] == 1
    assert kept[-4:] == [97, 98, 99, 100]
    assert {64, 72, 80, 88} < set(kept), "half of the run can still be gone back to"
    assert shelf.may_hold_bytes(size) == 12 * size

    tight = VersionShelf(tmp_path / "many", most_bytes=1)
    tight.put(101, weights(0.5), {"updates": 100})
    assert tight.versions() == [1, 98, 99, 100, 101]
    assert tight.may_hold_bytes(size) == 5 * size
    assert 300 * size < VersionShelf(tmp_path / "one").may_hold_bytes(size) < 400 * size


def test_versions_that_share_a_file_take_its_room_once(tmp_path: Path) -> None:
    shelf = VersionShelf(tmp_path)
    shelf.put(1, weights(0.1), {})
    held = shelf.held_bytes()
    shelf.put_again(1, 2)
    assert shelf.versions() == [1, 2]
    assert shelf.held_bytes() == held


def test_a_torn_version_is_an_error_of_ours(tmp_path: Path) -> None:
    shelf = VersionShelf(tmp_path)
    shelf.put(1, weights(0.1), {})
    path = next(tmp_path.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ModelLoadError):
        shelf.get(1)


def test_a_full_disk_leaves_the_older_version_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = VersionShelf(tmp_path)
    shelf.put(1, weights(0.1), {})
    monkeypatch.setattr("roborl.learning.publish.save_file", no_room)
    with pytest.raises(OSError, match="No space left"):
        shelf.put(2, weights(0.2), {})
    assert [path.name for path in tmp_path.iterdir()] == ["00000001.safetensors"]
