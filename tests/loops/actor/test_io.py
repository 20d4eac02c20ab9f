"""The I/O loop between a real ring and a link that behaves as badly as links do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.codec import split
from roborl.data.ring import Ring
from roborl.loops.actor.io import IoLoop
from roborl.loops.actor.status import StatusSlot
from roborl.loops.actor.weights_slot import WeightsSlot
from roborl.serving.weight_layout import WeightSet


class Learner:
    """Keeps what it received; hands out acknowledgements when told to."""

    def __init__(self, window: int = 3) -> None:
        self.acknowledged = 0
        self.alive = self.connected = True
        self.control: dict[str, Any] = {}
        self.records: list[bytes] = []
        self.window = window
        self._offered: list[int] = []
        self.said: list[Any] = []

    @property
    def next_sequence(self) -> int:
        return self.acknowledged + len(self._offered) + 1

    def offer(self, seq: int, blob: Any) -> bool:
        if not self.alive or len(self._offered) >= self.window:
            return False
        assert seq == self.next_sequence
        self._offered.append(seq)
        if seq == len(self.records) + 1:
            self.records.append(bytes(split(blob)[0]))
        return True

    def poll(self, timeout_s: float = 0.0) -> int:
        return self.acknowledged

    def set_status(self, status: Any) -> None:
        self.said.append(status)

    def acknowledge(self, count: int) -> None:
        for _ in range(min(count, len(self._offered))):
            self.acknowledged = self._offered.pop(0)

    def lose_connection(self) -> None:
        self._offered.clear()


class Weights:
    def __init__(self) -> None:
        self.ready: WeightSet | None = None

    def newest(self, timeout_s: float = 0.0) -> WeightSet | None:
        ready, self.ready = self.ready, None
        return ready


@given(st.lists(st.sampled_from(["append", "turn", "ack", "cut", "away", "back", "restart"]), max_size=60))
@settings(max_examples=60)
def test_every_record_arrives_once_in_order_and_stays_until_it_is_durable(
    tmp_path_factory: pytest.TempPathFactory, events: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("io")
    ring = Ring.create(folder / "ring.bin", slots=8, slot_bytes=64)
    learner, status = Learner(), StatusSlot(folder, "io")

    def start() -> IoLoop:
        return IoLoop(Ring.attach(folder / "ring.bin"), learner, None, WeightsSlot(folder), status)

    loop, committed = start(), 0
    for event in [*events, "back", *["turn", "ack", "turn"] * 12]:
        match event:
            case "append" if ring.free_slots:
                ring.append([str(committed).encode()])
                committed += 1
            case "turn":
                loop.turn(0.0)
            case "ack":
                learner.acknowledge(2)
            case "cut":
                learner.lose_connection()
            case "away":
                learner.alive = False
            case "back":
                learner.alive = True
            case "restart":
                learner.lose_connection()
                loop = start()
        assert ring.acknowledged <= learner.acknowledged
    assert learner.records == [str(n).encode() for n in range(committed)]
    assert ring.acknowledged == ring.head == committed
    assert status["pending"] == 0


def test_weights_reach_the_slot_and_the_version_is_told_after_them(tmp_path: Path) -> None:
    weights, status = Weights(), StatusSlot(tmp_path, "io")
    ring = Ring.create(tmp_path / "ring.bin", slots=4, slot_bytes=64)
    rung: list[int] = []
    loop = IoLoop(
        ring,
        Learner(),
        weights,
        WeightsSlot(tmp_path),
        status,
        lambda: rung.append(status["weights_version"]),
    )
    loop.turn(0.0)
    assert status["weights_version"] == 0
    weights.ready = WeightSet.of(4, {"bias": np.float32([1, 2])})
    loop.turn(0.0)
    assert status["weights_version"] == 4
    assert rung == [4], "who is woken finds them"
    found = WeightsSlot(tmp_path).read()
    assert found is not None
    np.testing.assert_array_equal(found.arrays()["bias"], [1, 2])


def test_the_learner_can_ask_for_a_pause(tmp_path: Path) -> None:
    learner, status = Learner(), StatusSlot(tmp_path, "io")
    ring = Ring.create(tmp_path / "ring.bin", slots=4, slot_bytes=64)
    loop = IoLoop(ring, learner, None, WeightsSlot(tmp_path), status)
    for control, paused in (({"mode": "pause"}, 1), ({}, 0)):
        learner.control = control
        loop.turn(0.0)
        assert status["paused"] == paused


@pytest.mark.parametrize(("mode", "paused"), [("pause", 1), ("run", 0)])
def test_what_the_learner_asked_for_holds_until_a_new_process_has_met_it(
    tmp_path: Path, mode: str, paused: int
) -> None:
    learner, status = Learner(), StatusSlot(tmp_path, "io")
    ring = Ring.create(tmp_path / "ring.bin", slots=4, slot_bytes=64)
    learner.connected = False
    IoLoop(ring, learner, None, WeightsSlot(tmp_path), status).turn(0.0)
    assert not status["met"]
    learner.connected, learner.control = True, {"mode": mode}
    IoLoop(ring, learner, None, WeightsSlot(tmp_path), status).turn(0.0)
    learner.connected, learner.control = False, {}
    IoLoop(ring, learner, None, WeightsSlot(tmp_path), status).turn(0.0)
    assert (status["met"], status["paused"]) == (1, paused)
