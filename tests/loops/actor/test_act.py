"""The actor as real processes on the simulated bench, with SIGKILL at random instants."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from roborl.codec import split
from roborl.data.ring import Ring
from roborl.errors import ConfigError, DatasetError
from roborl.hil.presses import Button, Presses
from roborl.learning.publish import VersionShelf
from roborl.loops.actor.act import ActorProcesses, folder_of, keyboard_of, run_actor
from roborl.loops.actor.act_config import ActConfig
from roborl.loops.actor.control_settings import WaitReason
from roborl.loops.actor.status import StatusSlot
from roborl.policies.small import SmallPolicy, SmallPolicyConfig, to_arrays
from roborl.records import Arrival, Begin, End, Record, unpack_record
from roborl.serving.handshake import Handshake
from roborl.serving.steps_receiver import StepsReceiver
from roborl.serving.weights_publisher import WeightsPublisher
from roborl.types import EndCause, EpisodeKey

BENCH = ["--robot.scene=Reach", "--max_steps=20", "--time_scale=4"]


class Learner:
    """Receives on a thread, as the store process would, and publishes a bias now and then."""

    def __init__(self, *, durable_after_s: float = 0.0) -> None:
        self.steps = StepsReceiver("tcp://127.0.0.1:0", handshake=Handshake(), last_sequence=lambda ring: 0)
        self.weights = WeightsPublisher("tcp://127.0.0.1:0", handshake=Handshake())
        self.weights.publish(1, {"bias": np.zeros(4, np.float32)})
        self.records: list[tuple[int, Record]] = []
        self.duplicates = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            for ring, seq, blob in self.steps.poll(0.05):
                self.records.append((seq, unpack_record(split(bytes(blob)))))
                self.steps.acknowledge(ring, seq)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.steps.close()
        self.weights.close()


@pytest.fixture
def learner() -> Iterator[Learner]:
    learner = Learner()
    yield learner
    learner.close()


@pytest.fixture
def config(tmp_path: Path, learner: Learner) -> Iterator[ActConfig]:
    config = ActConfig(
        bench="so101_sim",
        bench_overrides=BENCH,
        run=tmp_path,
        steps=learner.steps.endpoint,
        weights=learner.weights.endpoint,
        policy_factory="roborl.testing.policies:random_policy",
        ring_mb=8,
    )
    yield config
    shutil.rmtree(folder_of(config))


def check_experience(records: list[tuple[int, Record]]) -> dict[EpisodeKey, End]:
    """Every record once and in order; every episode whole up to its end."""
    assert [seq for seq, _ in records] == list(range(1, len(records) + 1))
    ends: dict[EpisodeKey, End] = {}
    key, expected = None, 0
    for _, record in records:
        match record:
            case Begin():
                assert key is None
                assert record.key not in ends
                key, expected = record.key, 0
            case Arrival():
                assert (record.key, record.index) == (key, expected)
                assert (record.command is None) == (record.index == 0)
                expected += 1
            case End():
                assert record.key == key
                assert record.index == max(0, expected - 1)
                ends[record.key], key = record, None
    assert key is None
    return ends


def events(config: ActConfig) -> list[dict]:
    return [json.loads(line) for line in (config.run / "arm.events.jsonl").read_text().splitlines()]


def run_in_thread(actor: ActorProcesses) -> tuple[threading.Thread, list[dict]]:
    results: list[dict] = []
    thread = threading.Thread(target=lambda: results.append(actor.run()))
    thread.start()
    return thread, results


def wait_for(condition, timeout_s: float = 40.0) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def test_killing_any_process_at_any_instant_loses_and_doubles_nothing(
    config: ActConfig, learner: Learner
) -> None:
    stop = threading.Event()
    actor = ActorProcesses(config, stop.is_set)
    thread, results = run_in_thread(actor)
    random = np.random.default_rng(0)
    wait_for(lambda: actor.status["control"]["steps"] > 5)
    version, held = 1, {"control": 0, "inference": 0, "io": 0}
    for victim in ["control", "inference", "io"] * 3:
        version += 1
        learner.weights.publish(version, {"bias": np.full(4, 0.01 * version, np.float32)})
        time.sleep(random.uniform(0.05, 0.4))
        wait_for(lambda victim=victim: actor.group.ready(victim))
        before = actor.status["control"]["steps"]
        recoveries = len(actor.group.recoveries_s[victim])
        os.kill(actor.group.pid(victim), signal.SIGKILL)
        wait_for(lambda: len(actor.group.recoveries_s[victim]) > recoveries)  # noqa: B023
        wait_for(lambda: actor.status["control"]["steps"] > before + 3)  # noqa: B023
        held[victim] += 1
    wait_for(lambda: actor.status["inference"]["policy_version"] == version)
    stop.set()
    thread.join(30)
    (result,) = results
    ends = check_experience(learner.records)
    assert result["not_durable"] == 0
    assert result["restarts"] == held
    assert result["lost_episodes"] == sum(end.cause is EndCause.ACTOR_LOST for end in ends.values()) <= 3
    first = min(key.incarnation for key in ends)
    assert {key.incarnation - first for key in ends} == {0, 1, 2, 3}
    # A killed inference or I/O process costs no episode.
    assert result["watchdogs"] == 0
    back = [event for event in events(config) if event["event"] == "ready" and event["back_s"] is not None]
    assert {name: sum(event["child"] == name for event in back) for name in held} == held
    assert all(event["back_s"] - event["import_s"] < 3.0 for event in back), back
    versions = {r.command.policy_version for _, r in learner.records if isinstance(r, Arrival) and r.command}
    assert versions <= set(range(1, version + 1)), "no process began anew with the policy from before"
    assert len(versions) > 1


def test_episodes_go_on_while_the_learner_is_away_until_the_ring_is_full(
    tmp_path: Path, learner: Learner
) -> None:
    endpoint = learner.steps.endpoint
    learner.close()
    config = ActConfig(
        bench_overrides=[*BENCH, "--time_scale=100"],
        run=tmp_path,
        steps=endpoint,
        policy_factory="roborl.testing.policies:random_policy",
        ring_mb=1,
        drain_s=0.0,
    )
    stop = threading.Event()
    actor = ActorProcesses(config, stop.is_set)
    thread, results = run_in_thread(actor)
    ring_path = folder_of(config) / "ring.bin"
    wait_for(lambda: actor.status["control"]["waiting_for"] == 1)
    stop.set()
    thread.join(30)
    with Ring.attach(ring_path) as ring:
        assert ring.free_slots < 20 + 10
        assert ring.acknowledged == 0
        records = [(seq, unpack_record(split(ring.read(seq)))) for seq in range(1, ring.head + 1)]
        ends = check_experience(records)
        assert {end.cause for end in ends.values()} <= {EndCause.TIME_LIMIT, EndCause.SUCCESS}
        assert results[0]["not_durable"] == len(records)
        del records
    shutil.rmtree(folder_of(config))


def test_the_arm_waits_for_a_learner_that_it_has_not_met_at_this_start(
    config: ActConfig, learner: Learner
) -> None:
    learner.steps.set_control({"mode": "pause"})
    # An earlier start had met one.
    earlier = StatusSlot(folder_of(config), "io")
    earlier["met"] = 1
    stop = threading.Event()
    actor = ActorProcesses(replace(config, steps="ipc://" + str(config.run / "nobody")), stop.is_set)
    thread, _ = run_in_thread(actor)
    wait_for(lambda: actor.status["control"]["waiting_for"] == WaitReason.NO_LEARNER)
    wait_for(lambda: actor.status["inference"].fresh(1.0) and actor.status["io"].fresh(1.0))
    time.sleep(0.5)
    stop.set()
    thread.join(30)
    assert actor.status["control"]["begun"] == 0
    stop.clear()
    actor = ActorProcesses(config, stop.is_set)
    thread, _ = run_in_thread(actor)
    wait_for(lambda: actor.status["control"]["waiting_for"] == WaitReason.LEARNER_PAUSED)
    assert actor.status["control"]["begun"] == 0
    learner.steps.set_control({})
    wait_for(lambda: actor.status["control"]["steps"] > 3)
    stop.set()
    thread.join(30)


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_the_arm_waits_for_the_weights_of_this_start_and_goes_on_with_them_without_a_learner(
    config: ActConfig, learner: Learner, mode: Literal["train", "evaluate"]
) -> None:
    # An earlier start had some.
    folder = folder_of(config)
    StatusSlot(folder, "io")["weights_received"] = StatusSlot(folder, "inference")["weights_seen"] = 5
    publisher = WeightsPublisher("tcp://127.0.0.1:0", handshake=Handshake())
    stop = threading.Event()
    config = replace(config, weights=publisher.endpoint, drain_s=0.0, mode=mode)
    actor = ActorProcesses(config, stop.is_set)
    thread, _ = run_in_thread(actor)
    control = actor.status["control"]
    wait_for(lambda: control["waiting_for"] == WaitReason.NO_WEIGHTS)
    wait_for(lambda: actor.status["inference"].fresh(1.0) and actor.status["io"].fresh(1.0))
    time.sleep(0.5)
    assert control["begun"] == 0
    publisher.publish(17, {"bias": np.full(4, 0.1, np.float32)})
    wait_for(lambda: control["steps"] > 3)
    publisher.close()
    learner.close()
    begun = control["begun"]
    wait_for(lambda: control["begun"] > begun + 1)
    stop.set()
    thread.join(30)
    versions = {r.command.policy_version for _, r in learner.records if isinstance(r, Arrival) and r.command}
    assert versions == {17}


def test_a_signal_ends_the_arm_first_and_leaves_nothing_open(config: ActConfig, learner: Learner) -> None:
    stop = threading.Event()
    actor = ActorProcesses(config, stop.is_set)
    thread, _ = run_in_thread(actor)
    wait_for(lambda: actor.status["control"]["steps"] > 3)
    stop.set()
    thread.join(30)
    ends = check_experience(learner.records)
    assert list(ends.values())[-1].cause in (EndCause.OPERATOR_STOP, EndCause.TIME_LIMIT)
    finished = [event["child"] for event in events(config) if event["event"] == "finished"]
    assert finished == ["control", "inference", "io"]


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"action_dim": 7}, r"action_dim.*(7|4).*(4|7)"),
        # Of another bench file, that asks for the same sizes.
        ({"scales": {"action_unit": (9.0, 0.5, 0.5, 0.5)}}, r"action_unit.*9\.0"),
    ],
)
def test_a_learner_that_does_not_fit_ends_the_actor_with_both_values(
    tmp_path: Path, theirs: dict[str, Any], words: str
) -> None:
    learner = StepsReceiver("tcp://127.0.0.1:0", handshake=Handshake(**theirs), last_sequence=lambda ring: 0)
    stop = threading.Event()
    thread = threading.Thread(target=lambda: [learner.poll(0.05) for _ in iter(stop.is_set, True)])
    thread.start()
    config = ActConfig(
        bench_overrides=BENCH,
        run=tmp_path,
        steps=learner.endpoint,
        policy_factory="roborl.testing.policies:random_policy",
        ring_mb=8,
        drain_s=0.0,
    )
    try:
        with pytest.raises(ConfigError, match=words):
            ActorProcesses(config, lambda: False).run()
    finally:
        stop.set()
        thread.join()
        learner.close()
        shutil.rmtree(folder_of(config))


def test_a_second_actor_of_one_name_ends_before_it_moves_and_is_told_why(
    config: ActConfig, learner: Learner
) -> None:
    stop = threading.Event()
    actor = ActorProcesses(config, stop.is_set)
    thread, _ = run_in_thread(actor)
    wait_for(lambda: actor.status["control"]["steps"] > 3)
    second = replace(config, run=config.run / "elsewhere", drain_s=0.0)
    try:
        with pytest.raises(ConfigError, match=r"same name.*Found: arm\. .*--actor"):
            ActorProcesses(second, lambda: False).run()
        assert StatusSlot(folder_of(second), "control")["begun"] == 0
    finally:
        stop.set()
        thread.join(30)
        shutil.rmtree(folder_of(second))
    check_experience(learner.records)


def test_a_second_actor_on_the_same_run_is_refused_and_leaves_the_first_alone(config: ActConfig) -> None:
    stop = threading.Event()
    actor = ActorProcesses(config, stop.is_set)
    thread, _ = run_in_thread(actor)
    wait_for(lambda: actor.status["control"]["steps"] > 3)
    try:
        with pytest.raises(DatasetError, match=r"actor of this name.*--actor"):
            ActorProcesses(config, lambda: False)
        assert (folder_of(config) / "actor.json").exists()
        before = actor.status["control"]["steps"]
        wait_for(lambda: actor.status["control"]["steps"] > before + 30)
    finally:
        stop.set()
        thread.join(30)


def test_one_keyboard_is_heard_by_all_actors_and_none_by_those_without_an_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, terminal = os.openpty()
    actors = [
        ActorProcesses(ActConfig(run=tmp_path, actor=name, operator=operator), lambda: False)
        for name, operator in (("arm0", "auto"), ("arm1", "keyboard"), ("arm2", "sim"))
    ]
    arms = [Presses(actor.folder) for actor in actors]
    try:
        with monkeypatch.context() as closed:
            closed.setattr("sys.stdin", None)
            for unheard in (actors, actors[2:]):
                with keyboard_of(unheard) as keyboard:
                    assert keyboard is None
        with os.fdopen(terminal) as stdin, monkeypatch.context() as patch:
            patch.setattr("sys.stdin", stdin)
            with keyboard_of(actors) as keyboard:
                assert keyboard is not None
                os.write(keys, b"e")
                wait_for(lambda: keyboard.poll() == [Button.ESTOP])
        heard = [[press.button for press in arm.take() if press.button is Button.ESTOP] for arm in arms]
        assert heard == [[Button.ESTOP], [Button.ESTOP], []]
    finally:
        os.close(keys)
        for actor in actors:
            shutil.rmtree(actor.folder)


def test_an_actor_of_another_architecture_ends_before_it_takes_weights(
    tmp_path: Path, learner: Learner
) -> None:
    shape = SmallPolicyConfig(
        cameras=("front",), image_px=16, state_dim=9, action_dim=4, keypoints=2, width=8
    )
    SmallPolicy(shape).save(tmp_path / "policy")
    publisher = WeightsPublisher("tcp://127.0.0.1:0", handshake=Handshake(version="width=16"))
    publisher.publish(1, {"bias": np.zeros(4, np.float32)})
    config = ActConfig(
        bench_overrides=BENCH,
        run=tmp_path,
        steps=learner.steps.endpoint,
        weights=publisher.endpoint,
        policy=tmp_path / "policy",
        ring_mb=8,
        drain_s=0.0,
    )
    actor = ActorProcesses(config, lambda: False)
    try:
        with pytest.raises(ConfigError, match=r"disagree on version.*'width=16'.*width=8 #.*--policy"):
            actor.run()
        assert actor.status["io"]["weights_version"] == 0
    finally:
        publisher.close()
        shutil.rmtree(folder_of(config))


def test_what_a_run_has_learnt_is_measured_without_a_learner_and_anew_each_time(tmp_path: Path) -> None:
    shape = SmallPolicyConfig(
        cameras=("front",), image_px=16, state_dim=9, action_dim=4, keypoints=2, width=8
    )
    policy = SmallPolicy(shape)
    policy.save(tmp_path / "run" / "policy")
    VersionShelf(tmp_path / "run" / "versions").put(12, to_arrays(policy.actor), {})
    config = ActConfig(
        bench_overrides=[*BENCH, "--time_scale=100"],
        run=tmp_path / "act",
        policy=tmp_path / "run",
        mode="evaluate",
        episodes=5,
        ring_mb=1,  # Holds three of them.
    )
    with Ring.create(folder_of(config) / "ring.bin", slots=4, slot_bytes=64) as ring:
        ring.append([b"of an earlier start, which a learner is still to have"])
    killed = StatusSlot(folder_of(replace(config, run=config.run / "evaluation")), "control")
    killed["episodes"] = killed["successes"] = 3  # Of an evaluation of some other policy.
    figures = run_actor(config)
    assert (figures["episodes"], figures["policy_version"], figures["not_durable"]) == (5, 12, 0)
    assert figures["success_low"] <= figures["success"] == figures["successes"] / 5 <= figures["success_high"]
    with Ring.attach(folder_of(config) / "ring.bin") as ring:
        assert (ring.head, ring.acknowledged) == (1, 0)
    assert not list(folder_of(replace(config, run=config.run / "evaluation")).glob("*.status"))
    shutil.rmtree(folder_of(config))


@pytest.mark.parametrize("hurried", [False, True])
def test_whoever_asks_again_does_not_wait_for_a_learner_that_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, hurried: bool
) -> None:
    """Once the episodes are done the first wish to end is one; after another, the second."""
    monkeypatch.setattr("roborl.loops.actor.act._QUIET_S", 0.0)
    caplog.set_level("INFO")
    config, looks = ActConfig(run=tmp_path, drain_s=math.inf), iter(range(100))

    def again() -> bool:
        return next(looks) > 5

    actor = ActorProcesses(
        config, (lambda: True) if hurried else again, hurried=again if hurried else (lambda: False)
    )
    try:
        with Ring.create(actor.folder / "ring.bin", slots=4, slot_bytes=64) as ring:
            ring.append([b"a step"])
        actor._drain()
        assert actor.status["io"]["pending"] == 1
        assert "1 records wait for the learner, for inf s at most; Ctrl-C" in caplog.text
        assert "the next start sends them" in caplog.text
    finally:
        actor._lock.close()
        shutil.rmtree(actor.folder)


def test_a_status_names_the_process_it_belongs_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No status"):
        StatusSlot(tmp_path, "trainer")
