"""What an actor's control process makes of its bench file."""

from __future__ import annotations

import ctypes
import gc
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from roborl.clock import NS, FakeClock, MonotonicClock
from roborl.envs.bench import load_bench
from roborl.errors import ConfigError
from roborl.hil.presses import Button, Presses, PressSender
from roborl.hil.supervisor import PolicyOnly
from roborl.loops.actor import control_process, teleop
from roborl.loops.actor.act import folder_of
from roborl.loops.actor.act_config import ActConfig, ActSettings, Card, shared_folder
from roborl.loops.actor.control_process import (
    announce,
    count_lost_episode,
    gate,
    make_judge_stop,
    make_operator,
    make_settings,
    memory_of,
    open_journal,
)
from roborl.loops.actor.control_settings import WaitReason
from roborl.loops.actor.judge_stop import LiveScore, LiveSlot
from roborl.loops.actor.live_config import LiveConfig
from roborl.loops.actor.status import StatusSlot
from roborl.loops.bench_scales import scales
from roborl.loops.launch import run_training
from roborl.loops.supervise import Child
from roborl.loops.train_config import TrainConfig
from roborl.records import Begin, End
from roborl.types import EndCause, EpisodeKey


class Scene:
    """A scene in which the task is done from the start."""

    succeeded = True

    def __init__(self) -> None:
        self.seeds: list[int | None] = []

    def reset(self, seed: int | None) -> None:
        self.seeds.append(seed)


@pytest.mark.parametrize(
    ("outcome", "mode", "said", "told"),
    [
        ("auto", "train", True, None),
        ("judge", "train", None, "judge"),
        # The reward model is shown no evaluation episodes.
        ("judge", "evaluate", True, None),
    ],
)
def test_a_simulation_keeps_its_verdict_to_itself_where_a_judge_gives_it(
    outcome: str, mode: str, said: bool | None, told: str | None
) -> None:
    bench = load_bench("so101_sim", [f"--outcome={outcome}"])
    config, scene = ActConfig(mode=mode), Scene()
    nothing: Any = None
    robot: Any = SimpleNamespace(scene=scene)
    operator = make_operator(config, bench, robot, nothing, nothing, MonotonicClock(), lambda: False)
    operator.reset(7)
    assert scene.seeds == [7]
    assert operator.verdict() is said
    assert make_settings(config, bench).meta.get("outcome") == told


def test_a_person_who_judges_a_simulation_gets_the_scene_that_the_seed_draws(tmp_path: Path) -> None:
    scene, clock = Scene(), MonotonicClock()
    robot: Any = SimpleNamespace(scene=scene)
    orders: Any = SimpleNamespace(hear=lambda press: None)
    bench = load_bench("so101_sim")
    presses = Presses(tmp_path)
    config = ActConfig(operator="keyboard")
    ready = PressSender(tmp_path, "test")

    def stopping() -> bool:
        assert scene.seeds == [], "the person is waited for first"
        ready.press(Button.READY)
        return False

    operator = make_operator(config, bench, robot, presses, orders, clock, stopping)
    operator.reset(7)
    assert scene.seeds == [7]
    assert operator.verdict() is None


def test_no_simulator_is_asked_for_on_a_physical_bench(tmp_path: Path) -> None:
    config = ActConfig(bench="so101_desk", operator="sim", run=tmp_path)
    with pytest.raises(ConfigError, match=r"operator sim.*Allowed: keyboard, none, auto.*--operator"):
        control_process.main(Child("control", None, ctypes.c_int64(0)), config)
    train = TrainConfig(bench="so101_desk", run=tmp_path / "run", act=ActSettings(operator="sim"))
    with pytest.raises(ConfigError, match=r"operator sim.*--act\.operator"):
        run_training(train)


@pytest.mark.parametrize(("mode", "purpose"), [("train", "online"), ("evaluate", "evaluation")])
def test_an_evaluation_runs_other_scenes_than_practice(mode: Any, purpose: str) -> None:
    assert make_settings(ActConfig(mode=mode), load_bench("so101_sim")).purpose == purpose


@pytest.mark.parametrize(("world_waits", "deadline_s"), [(True, 0.0), (False, 0.25)])
def test_a_late_tick_ends_no_episode_of_a_simulated_world_that_waits(
    world_waits: bool, deadline_s: float
) -> None:
    settings = make_settings(ActConfig(world_waits=world_waits), load_bench("so101_sim"))
    assert (settings.world_waits, settings.tick_deadline_s) == (world_waits, deadline_s)


@pytest.mark.parametrize(
    ("outcome", "mode", "live", "stops"),
    [
        ("judge", "train", {}, True),
        ("auto", "train", {}, False),
        ("judge", "evaluate", {}, False),
        # As where the verdict is a grade of the whole episode.
        ("judge", "train", {"stops": False}, False),
        ("judge", "train", {"use": "never"}, False),
        ("judge", "train", {"server": ""}, False),
    ],
)
def test_whoever_watches_ends_episodes_where_the_outcome_is_left_to_a_judge_alone(
    tmp_path: Path, outcome: str, mode: str, live: dict[str, Any], stops: bool
) -> None:
    bench = load_bench("so101_sim", [f"--outcome={outcome}", "--time_scale=4"])
    config = ActConfig(mode=mode, live=LiveConfig(**{"server": "tcp://127.0.0.1:1", "stale_s": 2.0} | live))
    clock: Any = FakeClock(NS)
    done = make_judge_stop(config, bench, tmp_path, clock)
    key = EpisodeKey(actor="arm", incarnation=1, episode=0)
    score = LiveScore(key=key, index=3, progress=1.0, done=True, valid=True, stamp_ns=clock.now_ns())
    slot = LiveSlot(tmp_path)
    # Seconds of the wall, of which the bench's clock makes four times as many.
    for age_s, fresh in ((7.9, True), (8.1, False)):
        slot.publish(replace(score, stamp_ns=clock.now_ns() - int(age_s * NS)))
        assert done(key) is (stops and fresh)


def test_no_episode_begins_under_a_learner_that_was_never_met_or_has_sent_no_weights(tmp_path: Path) -> None:
    inference, io = StatusSlot(tmp_path, "inference"), StatusSlot(tmp_path, "io")
    inference.begin()
    inference.ready(0.0)
    alone = gate(tmp_path, PolicyOnly(), learner=False)
    blocked = gate(tmp_path, PolicyOnly(), learner=True)
    assert (blocked(), alone()) == (WaitReason.NO_LEARNER, WaitReason.NOTHING)
    io["met"] = io["paused"] = 1
    assert (blocked(), alone()) == (WaitReason.LEARNER_PAUSED, WaitReason.LEARNER_PAUSED)
    io["paused"] = 0
    assert (blocked(), alone()) == (WaitReason.NO_WEIGHTS, WaitReason.NOTHING)
    inference["weights_seen"] = 1
    assert (blocked(), alone()) == (WaitReason.NOTHING, WaitReason.NOTHING)


def test_cameras_whose_pictures_cannot_be_sent_are_refused_before_anything_is_recorded(
    tmp_path: Path,
) -> None:
    cameras = {"front": (3000, 4000, 3), "wrist": (3000, 4000, 3)}
    card = Card(
        actor="arm", bench="b", cameras=cameras, state_dim=9, action_dim=4, real_time=True, policy_hz=10.0
    )
    with pytest.raises(
        ConfigError, match=r"72\.0 MB: front 3000 x 4000, wrist.*67\.1 MB.*height_px"
    ) as caught:
        open_journal(tmp_path / "ring.bin", card, max_steps=5, ring_mb=25)
    error = caught.value
    assert all((error.problem, error.seen, error.allowed, error.remedy))
    assert not (tmp_path / "ring.bin").exists()


def test_an_actor_says_how_long_its_learner_may_be_away(tmp_path: Path) -> None:
    cameras = {"front": (240, 320, 3), "wrist": (240, 320, 3)}
    card = Card(
        actor="arm", bench="b", cameras=cameras, state_dim=9, action_dim=4, real_time=True, policy_hz=10.0
    )
    with closing(open_journal(tmp_path / "ring.bin", card, max_steps=5, ring_mb=25)) as journal:
        told = memory_of(journal, 10.0, 25)
    assert "Memory for 53 steps, 5 s of them" in told
    assert "waits between episodes (ring_mb 25)" in told


def test_on_a_physical_bench_the_operator_is_told_what_the_arm_does_when_control_dies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = tmp_path / "bench.yaml"
    bench.write_text(
        "robot: {type: stub}\nmodel: so101_sim\ntask: wait\nmax_steps: 5\nif_control_dies: the arm sinks slowly\n"
        "cameras: {front: {height_px: 64, width_px: 64}}\n"
    )
    config = ActConfig(
        bench=str(bench),
        plugins=["roborl.testing.config_stub_robot"],
        run=tmp_path,
        operator="none",
        ring_mb=1,
        # It runs in this process, which tests other things afterwards.
        priority="normal",
    )
    child = Child("control", None, ctypes.c_int64(0))
    child.stop()
    try:
        control_process.main(child, config)
    finally:
        gc.unfreeze()
        shutil.rmtree(folder_of(config))
    assert "Should this control process die: the arm sinks slowly" in caplog.text


def test_a_robot_in_other_units_than_degrees_is_refused_before_it_is_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roborl.envs.devices.other_units", lambda robot: {"elbow_flex": "range_m100_100"})
    config = ActConfig(bench="so101_desk", run=tmp_path)
    with pytest.raises(ConfigError, match=r"other units than degrees.*elbow_flex"):
        control_process.main(Child("control", None, ctypes.c_int64(0)), config)


@pytest.mark.parametrize(
    ("main", "also"),
    [
        (control_process.main, r"control_hz 50\.0, max_steps \d+, image_px 64, outcome auto, .*"),
        (teleop.main, ""),
    ],
)
def test_a_process_that_starts_again_goes_on_with_no_other_bench_than_the_one_before_it(
    tmp_path: Path, main: Callable[[Child, ActConfig], None], also: str
) -> None:
    pad = tmp_path / "pad.yaml"
    pad.write_text("type: stub_pad\n")
    plugins = ["roborl.testing.config_stub_teleoperator"]
    config = ActConfig(run=tmp_path, teleop=str(pad), plugins=plugins)
    folder = shared_folder(config.run, config.actor)
    before = asdict(scales(load_bench("so101_sim", ["--action.step_m=0.005"])))
    Card(
        actor="arm",
        bench="so101_sim",
        cameras={},
        state_dim=9,
        action_dim=4,
        real_time=False,
        policy_hz=10.0,
        scales=before,
    ).write(folder)
    try:
        with pytest.raises(
            ConfigError, match=rf"edited while.*{also}action_unit \(0\.015.*action_unit \(0\.005"
        ):
            main(Child("control", None, ctypes.c_int64(0)), config)
    finally:
        shutil.rmtree(folder)


def test_each_episode_that_ended_with_its_process_is_counted_once_in_new_rings_too(tmp_path: Path) -> None:
    """A run that goes on has its counters still, and a ring whose records count from 1 again."""
    status, card = (
        StatusSlot(tmp_path, "control"),
        Card(actor="arm", bench="b", cameras={}, state_dim=1, action_dim=1, real_time=True),
    )

    def start(episodes: int) -> None:
        with closing(open_journal(tmp_path / "ring.bin", card, max_steps=4, ring_mb=1)) as journal:
            count_lost_episode(journal, status)
            for number in range(episodes):
                key = journal.next_key()
                journal.commit(Begin(key=key, task="t"))
                if number < episodes - 1:
                    journal.commit(End(key=key, index=0, cause=EndCause.TIME_LIMIT))

    lost = []
    for episodes in (50, 0, 0, 5, 0):
        start(episodes)
        lost.append(status["lost_episodes"])
        if lost == [0, 1, 1]:
            (tmp_path / "ring.bin").unlink()
    assert lost == [0, 1, 1, 1, 2]
    assert status["cut_short"] == status["episodes"] == 2


def test_what_is_pressed_before_the_first_episode_of_a_start_names_none_of_its_own(tmp_path: Path) -> None:
    status = StatusSlot(tmp_path, "control")
    for field, value in {"incarnation": 1, "episode": 3, "index": 9}.items():  # As a predecessor left them.
        status[field] = value
    card = Card(
        actor="arm",
        bench="so101_sim",
        cameras={},
        state_dim=1,
        action_dim=1,
        real_time=True,
        task="t",
        simulated=True,
        policy_hz=10.0,
        scales={},
    )
    with closing(open_journal(tmp_path / "ring.bin", card, max_steps=4, ring_mb=1)) as journal:
        announce(journal, status)
        assert (status["incarnation"], status["index"]) == (journal.incarnation, -1)
