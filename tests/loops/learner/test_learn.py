"""The learner's processes for real: what one of them loses when it is killed, namely nothing."""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from roborl.clock import Deadline
from roborl.data.arena import ArenaReader
from roborl.data.arena_writer import ArenaWriter
from roborl.data.columns import ProgressColumns
from roborl.data.journal import Journal
from roborl.data.reader import StoreReader
from roborl.data.verdict_log import VerdictReader
from roborl.envs.bench import load_bench
from roborl.envs.robot_env import RobotEnv
from roborl.errors import ConfigError, DatasetError, HandshakeMismatch, ModelLoadError
from roborl.learning.budget import BudgetConfig
from roborl.learning.clone import CloneConfig
from roborl.learning.publish import VersionShelf
from roborl.learning.rlpd import RlpdConfig
from roborl.loops import demonstrations
from roborl.loops.actor.act_config import ActConfig, Card
from roborl.loops.actor.io import weights_handshake
from roborl.loops.demonstrations import DemosConfig, bench_demos
from roborl.loops.launch import run_training, serve_main
from roborl.loops.learner import learn, learn_processes
from roborl.loops.learner.algorithms import mix_of, sampling_of, say_unused
from roborl.loops.learner.episode_labels import LabelConfig
from roborl.loops.learner.learn import learner_specs
from roborl.loops.learner.learn_config import (
    BenchForm,
    LearnConfig,
    RunFolder,
    ShapingConfig,
    StoreConfig,
)
from roborl.loops.learner.replay import MixConfig
from roborl.loops.learner.train import TrainerConfig
from roborl.loops.record import record_scripted
from roborl.loops.run_files import JsonLines, read_lines, read_status, write_status
from roborl.loops.scripts import script_maker
from roborl.loops.serve import ServeConfig
from roborl.loops.supervise import Child, ChildSpec, ProcessGroup
from roborl.loops.train_config import Addresses, TrainConfig, addresses
from roborl.policies.small import SmallPolicy, SmallPolicyConfig
from roborl.records import Arrival, Begin, End, Verdict
from roborl.serving.handshake import Handshake
from roborl.serving.steps_receiver import RingState, StepsReceiver
from roborl.serving.steps_sender import StepsSender
from roborl.serving.weights_subscriber import WeightsSubscriber
from roborl.types import (
    Command,
    EndCause,
    Episode,
    EpisodeKey,
    Frame,
    Observation,
    RewardSource,
    Source,
    Step,
)

pytestmark = pytest.mark.timeout(240)

SIDE, STATE, ACTION, STEPS = 16, 3, 2, 12
FORM = BenchForm(
    task="shine",
    cameras={"front": (SIDE, SIDE)},
    image_px=SIDE,
    state_dim=STATE,
    action_dim=ACTION,
    max_steps=STEPS,
    policy_hz=10.0,
)

# What a user may write: an algorithm that looks at pictures. The rig's pictures are as bright as its states say.
MINE = """
import numpy as np
from roborl.learning.rlpd import Rlpd

class Looking(Rlpd):
    images = True

    def update(self, batch):
        off = 0.0
        for pictures, state in ((batch.images, batch.state), (batch.next_images, batch.next_state)):
            shown = pictures["front"].reshape(len(batch), -1) / 255
            off = max(off, float(np.abs(shown - state[:, :1]).max()))
        return super().update(batch) | {"off": off}

def make(config, policy, arena):
    return Looking(config.rlpd, policy, arena, seed=config.seed)
"""


def config_in(run: Path, where: Addresses, hold_actors_at: float) -> LearnConfig:
    return LearnConfig(
        run=run,
        reward=where.scores,
        steps=where.steps,
        weights=where.weights,
        rlpd=RlpdConfig(batch_size=8, members=2, width=16),
        trainer=TrainerConfig(
            budget=BudgetConfig(
                # A debt of some seconds, so that the pause is there long enough to be seen.
                ratio=60.0 if hold_actors_at else 1.0,
                start_at=10,
                max_lead=8.0,
                hold_actors_at=hold_actors_at,
            ),
            publish_every=10,
            checkpoint_every_s=0.5,
            metrics_every_s=0.5,
            probes=2,
        ),
        labels=LabelConfig(deadline_s=60.0),
        store=StoreConfig(capacity_bytes=4 << 20),
    )


def place_policy(run: Path) -> None:
    torch.manual_seed(0)
    shape = SmallPolicyConfig(
        cameras=("front",), image_px=SIDE, state_dim=STATE, action_dim=ACTION, keypoints=4, width=16
    )
    SmallPolicy(shape).save(RunFolder(run).policy)


@dataclass
class Rig:
    """The learner's processes and one actor that lives in the test."""

    run: Path
    group: ProcessGroup
    journal: Journal
    sender: StepsSender
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    brightness: dict[EpisodeKey, list[float]] = field(default_factory=dict)

    def pump(self) -> None:
        """Keep the processes up and the records moving."""
        self.group.poll(0.005)
        ring = self.journal.ring
        ring.acknowledge(min(self.sender.poll(0.005), ring.head))
        while self.sender.next_sequence <= ring.head:
            if not self.sender.offer(self.sender.next_sequence, ring.read(self.sender.next_sequence)):
                break

    def act(self, steps: int = STEPS, *, bright_at: int | None = None, judged: bool = False) -> EpisodeKey:
        """Run one episode of noise.

        Args:
            steps: T.
            bright_at: The observation that the reward model calls done, where ``judged``.
            judged: Whether the outcome is left to the reward model, and time ends the episode; else it is a success.
        """
        key = self.journal.next_key()
        self.brightness[key] = []
        meta = {"mode": "train", **({"outcome": "judge"} if judged else {})}
        self.journal.commit(Begin(key=key, task="shine", meta=meta))
        for index in range(steps + 1):
            value = int(self.random.integers(0, 200 if judged else 256))
            value = 255 if index == bright_at else value
            self.brightness[key].append(value / 255)
            frame = Frame(
                rgb=np.full((SIDE, SIDE, 3), value, np.uint8), camera="front", stamp_ns=index, id=index
            )
            action = self.random.uniform(-1, 1, ACTION).astype(np.float32)
            command = Command(action=action, proposed=action, source=Source.POLICY, policy_version=1)
            last = index == steps and not judged
            self.journal.commit(
                Arrival(
                    key=key,
                    index=index,
                    observation=Observation(
                        frames={"front": frame},
                        state=np.full(STATE, value / 255, np.float32),
                        stamp_ns=index,
                    ),
                    command=command if index else None,
                    reward=float(last),
                    reward_source=RewardSource.NONE if judged else RewardSource.ENV,
                )
            )
            self.pump()
        cause = EndCause.TIME_LIMIT if judged else EndCause.SUCCESS
        self.journal.commit(End(key=key, index=steps, cause=cause))
        return key

    def until(self, what: str, happened: object, seconds: float = 90.0) -> None:
        assert callable(happened)
        deadline = Deadline(seconds)
        while not happened():
            self.pump()
            deadline.check(what)

    def kill(self, name: str) -> None:
        self.until(f"{name} runs", lambda: self.group.ready(name))
        pid = self.group.pid(name)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        self.until(f"{name} is noticed", lambda: self.group.pid(name) != pid)

    def status(self, name: str) -> dict[str, float]:
        return read_status(RunFolder(self.run).status(name))

    def labelled(self) -> bool:
        try:
            arena = ArenaReader(self.run / "store")
            columns = ProgressColumns(arena, "brightness-all")
        except DatasetError:
            return False  # not made yet
        return all(columns.labelled(key) == len(values) for key, values in self.brightness.items())


@pytest.fixture
def hold_actors_at() -> float:
    return 0.0


@pytest.fixture
def algorithm() -> str:
    return "rlpd"


@pytest.fixture
def rig(
    tmp_path: Path, hold_actors_at: float, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rig]:
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    where = addresses(run)
    place_policy(run)
    serving = ServeConfig(models={"reward": "brightness"}, endpoint=where.scores)
    specs = [
        *learner_specs(replace(config_in(run, where, hold_actors_at), algorithm=algorithm), FORM),
        ChildSpec(name="serve", target=serve_main, args=(serving,)),
    ]
    group = ProcessGroup(specs, preload=learn.PRELOAD, on_event=JsonLines(run / "events.jsonl"))
    journal = Journal(tmp_path / "ring.bin", actor="left", slots=256, slot_bytes=4096)
    sender = StepsSender(
        where.steps,
        ring_id=journal.ring.id,
        actor="left",
        handshake=Handshake(cameras=FORM.cameras, state_dim=STATE, action_dim=ACTION),
    )
    group.start()
    try:
        yield Rig(run=run, group=group, journal=journal, sender=sender)
    finally:
        sender.close()
        group.stop()
        journal.close()


def test_every_step_is_stored_once_labelled_right_and_learned_from_whoever_is_killed(rig: Rig) -> None:
    rig.until(
        "the learner is up", lambda: all(map(rig.group.ready, ("store", "labeller", "trainer", "serve")))
    )
    order = ["store", "labeller", "trainer", "serve"] * 2
    random.Random(1).shuffle(order)
    keys = []
    for victim in order:
        keys.append(rig.act())
        rig.kill(victim)
    keys.append(rig.act())
    rig.until("all steps are stored", lambda: rig.journal.ring.acknowledged == rig.journal.ring.head)
    rig.until("all frames are labelled", rig.labelled)
    rig.until("it was learned from", lambda: rig.status("trainer").get("episodes") == len(keys))
    steps = STEPS * len(keys)
    rig.until("all steps earn updates", lambda: rig.status("trainer").get("online_transitions") == steps)
    rig.until("the budget is spent", lambda: rig.status("trainer")["achieved_ratio"] >= 0.9)

    reader = StoreReader(rig.run / "store")
    infos = reader.episodes()
    assert [info.key for info in infos] == keys
    columns = ProgressColumns(ArenaReader(rig.run / "store"), "brightness-all")
    for info in infos:
        episode = reader.episode(info.key)
        seen = [float(observation.state[0]) for observation in episode.observations]
        np.testing.assert_allclose(seen, rig.brightness[info.key], rtol=1e-6)
        slot = columns.reader.slot(info.key)
        assert slot is not None
        first = int(columns.reader.table["start"][slot])
        np.testing.assert_allclose(columns.progress[first : first + len(seen)], seen, atol=1e-6)

    episodes = read_lines(RunFolder(rig.run).metrics, "episode")
    assert sorted(line["key"] for line in episodes) == sorted(map(str, keys))
    assert [line["number"] for line in episodes] == list(range(1, len(keys) + 1))
    versions = [line["version"] for line in read_lines(RunFolder(rig.run).metrics, "version")]
    assert versions == sorted(set(versions))
    assert rig.group.restarts == dict.fromkeys(rig.group.restarts, 2)
    assert rig.status("trainer")["achieved_ratio"] <= 1.0 + (8 + 1) / (steps - 10)
    assert max(max(times) for times in rig.group.recoveries_s.values()) < 30.0


def test_the_reward_model_judges_every_episode_once_whoever_is_killed(rig: Rig) -> None:
    rig.until(
        "the learner is up", lambda: all(map(rig.group.ready, ("store", "labeller", "trainer", "serve")))
    )
    done: dict[EpisodeKey, int | None] = {}
    for victim, bright_at in zip(
        ("labeller", "store", "serve", "labeller", "store"), (4, None) * 3, strict=False
    ):
        done[rig.act(bright_at=bright_at, judged=True)] = bright_at
        rig.kill(victim)
    done[rig.act(bright_at=STEPS, judged=True)] = STEPS
    rig.until("all are told", lambda: rig.status("trainer").get("episodes") == len(done))
    for info in StoreReader(rig.run / "store").episodes():
        at = done[info.key]
        wanted = Verdict(key=info.key, index=at or STEPS, success=at is not None, source=RewardSource.JUDGE)
        assert (info.verdict, info.terminal_index, info.end) == (wanted, at, EndCause.TIME_LIMIT)
    lines = read_lines(RunFolder(rig.run).metrics, "episode")
    assert {line["key"]: (line["success"], line["return"]) for line in lines} == {
        str(key): (at is not None, float(at is not None)) for key, at in done.items()
    }
    given = list(VerdictReader(rig.run / "store", lambda ring: 0).fresh())
    assert len(given) == len(done)
    steps = sum(STEPS if at is None else at for at in done.values())
    rig.until("all steps earn updates", lambda: rig.status("trainer").get("online_transitions") == steps)


def test_outcomes_are_not_left_to_a_reward_model_that_is_not_there(tmp_path: Path) -> None:
    config = LearnConfig(run=tmp_path / "run", bench_overrides=["--robot.scene=Reach", "--outcome=judge"])
    with pytest.raises(
        ConfigError, match=r"left to a reward model.*Found: outcome judge.*Allowed: .*--reward"
    ):
        learn.prepare(config)
    learn.prepare(replace(config, reward="tcp://127.0.0.1:1"))


def test_an_older_version_comes_back_into_force_under_a_new_number(rig: Rig) -> None:
    rig.until("the trainer is up", lambda: rig.group.ready("trainer"))
    for _ in range(3):
        rig.act()
    run = RunFolder(rig.run)
    rig.until("it has published", lambda: rig.status("trainer").get("version", 0) >= 3)
    learn.ask_rollback(run, 1)
    rig.until("it rolled back", lambda: bool(read_lines(run.metrics, "rollback")))
    (line,) = read_lines(run.metrics, "rollback")
    assert line["rolled_back_to"] == 1
    shelf = VersionShelf(run.versions)
    first, again = shelf.get(1), shelf.get(line["version"])
    assert line["version"] > 3
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])


def test_a_learner_that_starts_sends_nothing_before_it_has_gone_back(rig: Rig) -> None:
    run = RunFolder(rig.run)
    rig.until("it has published", lambda: rig.status("trainer").get("version", 0) >= 1)
    rig.kill("trainer")
    learn.ask_rollback(run, 1)
    rig.until("it rolled back", lambda: bool(read_lines(run.metrics, "rollback")))
    rig.until("the trainer is up", lambda: rig.group.ready("trainer"))
    (line,) = read_lines(run.metrics, "rollback")
    events = [json.loads(raw) for raw in run.events.read_text().splitlines()]
    ready = [e["at_ns"] for e in events if (e["event"], e["child"]) == ("ready", "trainer")]
    assert line["at_ns"] < ready[-1]
    assert not run.rollback.exists()


@pytest.mark.parametrize("algorithm", ["mine:make"])
def test_a_users_own_algorithm_gets_the_pictures_of_what_it_learns_from(rig: Rig, algorithm: str) -> None:
    rig.until("the learner is up", lambda: all(map(rig.group.ready, ("store", "labeller", "trainer"))))
    rig.act()
    rig.act()
    metrics = RunFolder(rig.run).metrics
    rig.until("it learns", lambda: any("off" in line for line in read_lines(metrics, "train")))
    assert max(line["off"] for line in read_lines(metrics, "train") if "off" in line) < 1e-6


def test_weights_go_to_actors_that_hold_the_runs_policy_and_to_no_others(rig: Rig, tmp_path: Path) -> None:
    card = Card(actor="left", bench="", cameras={}, state_dim=STATE, action_dim=ACTION, real_time=False)
    run, other = RunFolder(rig.run), tmp_path / "other"
    SmallPolicy(replace(SmallPolicy.load(run.policy).config, width=32)).save(other)
    for folder, fits in ((run.policy, True), (other, False)):
        handshake = weights_handshake(ActConfig(policy=folder), card)
        subscriber = WeightsSubscriber(addresses(rig.run).weights, name="left", handshake=handshake)
        try:
            if fits:
                rig.until("weights arrive", lambda: subscriber.newest() is not None)  # noqa: B023
            else:
                with pytest.raises(HandshakeMismatch, match="width=32"):
                    rig.until("it is refused", lambda: subscriber.newest() is not None)  # noqa: B023
        finally:
            subscriber.close()


@pytest.mark.parametrize("hold_actors_at", [200.0])
def test_actors_wait_for_a_learner_that_is_told_to_hold_them(rig: Rig) -> None:
    rig.until("the trainer is up", lambda: rig.group.ready("trainer"))
    for _ in range(4):
        rig.act()
    rig.until("actors are held", lambda: rig.sender.control.get("mode") == "pause")
    rig.until("actors go on", lambda: rig.sender.control.get("mode") is None)
    assert rig.status("trainer")["owed_updates"] <= 200.0


def test_a_run_folder_in_use_is_not_overwritten(tmp_path: Path) -> None:
    config = LearnConfig(run=tmp_path / "run", bench_overrides=["--robot.scene=Reach"])
    learn.prepare(config)
    with pytest.raises(ConfigError, match="holds a run") as caught:
        learn.prepare(config)
    assert "--resume" in caught.value.remedy
    learn.prepare(LearnConfig(run=tmp_path / "run", bench_overrides=["--robot.scene=Reach"], resume=True))


@pytest.mark.parametrize("asked", [{"resume": True}, {"rollback": 2}])
@pytest.mark.parametrize("command", [learn.run_learner, run_training])
def test_a_run_that_is_not_there_is_not_gone_on_with(
    tmp_path: Path, command: Callable[..., Any], asked: dict[str, Any]
) -> None:
    config = (LearnConfig if command is learn.run_learner else TrainConfig)(
        run=tmp_path / "mistyped", **asked
    )
    with pytest.raises(ConfigError, match=r"no run to go on with. Found: \S*/mistyped. .* beside it is none"):
        command(config)
    for age, name in enumerate(["typo", "older", "oldest", "forgotten"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "learn.yaml").touch()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    (tmp_path / "no run").mkdir()
    with pytest.raises(ConfigError, match=r"newest beside it: \S*/typo, \S*/older, \S*/oldest\."):
        command(config)
    assert not (tmp_path / "mistyped").exists()


@pytest.mark.parametrize("command", [learn.run_learner, run_training])
def test_no_run_begins_in_a_dataset_or_in_another_run_and_that_is_said_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: Callable[..., Any]
) -> None:
    kind = LearnConfig if command is learn.run_learner else TrainConfig
    (tmp_path / "demos" / "meta").mkdir(parents=True)
    (tmp_path / "demos" / "meta" / "info.json").touch()
    with pytest.raises(ConfigError, match=r"A dataset is in this folder.*/demos.*--run"):
        command(kind(run=tmp_path / "demos"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "learn.yaml").touch()
    with pytest.raises(ConfigError, match=r"holds a run already.*--resume true"):
        command(kind(run=tmp_path / "run"))
    assert not caplog.messages
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "demos",
        "info.json",
        "learn.yaml",
        "meta",
        "run",
    ]


def test_a_run_that_was_stopped_at_its_start_can_be_gone_on_with(tmp_path: Path) -> None:
    config = LearnConfig(run=tmp_path / "run", resume=True)
    with learn.hold(RunFolder(config.run)):
        pass  # It ended before it had a policy.
    learn.require_run(config)


def test_without_a_policy_one_is_cloned_from_the_demonstrations(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = load_bench("so101_sim", ["--robot.scene=Reach"])
    env = RobotEnv(bench)
    record_scripted(env, tmp_path / "demos", script_maker(), demonstrations=2)
    env.close()
    config = LearnConfig(
        run=tmp_path / "run",
        bench_overrides=["--robot.scene=Reach"],
        demos=DemosConfig(path=str(tmp_path / "demos")),
        clone=CloneConfig(keypoints=12, channels=8, from_first=True, encoder_updates=60, actor_updates=60),
    )
    stops = chain(repeat(False, 4), repeat(True))
    with pytest.raises(KeyboardInterrupt):
        learn.prepare(config, lambda: next(stops))
    assert not RunFolder(config.run).policy.exists(), "half a policy is none"
    learn.prepare(config)
    policy = SmallPolicy.load(RunFolder(config.run).policy)
    (demo, _) = bench_demos(config.demos, bench)
    proposed = np.concatenate([policy.act(step.observation) for step in demo.steps])
    shown = np.stack([step.command.action for step in demo.steps])
    assert np.square(proposed - shown).mean() < 0.5 * np.square(shown).mean(), "it has looked at them"
    shape = policy.config
    assert (shape.waypoints, shape.keypoints, shape.channels, shape.from_first) == (1, 12, 8, True)
    assert "another task" not in caplog.text
    learn.prepare(replace(config, bench_overrides=["--robot.scene=PushCube"], resume=True))
    assert caplog.text.count(f"{bench.task!r} (2)") == 1


def test_the_room_that_versions_may_take_is_said_beside_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10e9))
    for most_bytes, level in ((8e9, "INFO"), (20e9, "WARNING")):
        with caplog.at_level("INFO"):
            learn_processes.tell_of_versions(VersionShelf(tmp_path, most_bytes=most_bytes), 400_000_000)
        line = caplog.records[-1]
        assert line.levelname == level
        assert f"400.0 MB each, may come to take {most_bytes / 1e9:.1f} GB" in line.message
        assert "10.0 GB free" in line.message
        assert ("--trainer.versions_bytes" in line.message) is (level == "WARNING")


def test_a_run_that_may_need_more_replay_memory_than_there_is_says_so_at_its_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = load_bench("so101_sim", ["--robot.scene=Reach"])
    env = RobotEnv(bench)
    record_scripted(env, tmp_path / "demos", script_maker(), demonstrations=2)
    env.close()
    demos = DemosConfig(path=str(tmp_path / "demos"))
    shown = demonstrations.recorded_observations(demos, bench.task, bench.policy_hz)
    assert shown == sum(len(demo.steps) + 1 for demo in bench_demos(demos, bench))
    half = demonstrations.recorded_observations(replace(demos, limit=1), bench.task, bench.policy_hz / 2)
    assert 0.2 * shown < half < 0.4 * shown
    config = LearnConfig(run=tmp_path / "run", bench_overrides=["--robot.scene=Reach"], demos=demos)
    form = learn.form_of(config)
    fits = (form.arena(config.store).rows - shown) // (form.max_steps + 1)
    with caplog.at_level("WARNING"):
        learn.tell_of_memory(config, form, fits)
    assert not caplog.text
    with caplog.at_level("WARNING"):
        learn.tell_of_memory(config, form, fits + 1)
    (told,) = caplog.messages
    assert f"{shown} of demonstrations" in told
    enough = StoreConfig(capacity_bytes=int(told.rsplit(" ", 1)[1]))
    assert form.arena(enough).rows == pytest.approx(shown + (fits + 1) * (form.max_steps + 1), abs=1)
    caplog.clear()
    with caplog.at_level("INFO"):
        learn.tell_of_memory(config, form, 0)
    assert f"holds {fits} online episodes" in caplog.text


class Story:
    """A store process of this very process: what its actors are told, and where its import stands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, demos: Iterator[Episode]) -> None:
        self.told: list[str] = []
        self.child = Child("store", None, ctypes.c_int64(0))

        def tell(_: StepsReceiver, control: Mapping[str, str]) -> None:
            self.told.append(control.get("mode", "run"))

        def note(_: Path, status: Mapping[str, object]) -> None:
            self.noted = status
            if not status["importing"]:
                self.child.stop()

        monkeypatch.setattr(StepsReceiver, "set_control", tell)
        monkeypatch.setattr(learn_processes, "write_status", note)
        monkeypatch.setattr(demonstrations, "bench_demos", lambda *_: demos)

    def run(self, run: Path, *, head_start: int = 0) -> None:
        config = replace(config_in(run, addresses(run), 0.0), demos=DemosConfig(path="shown"))
        budget = replace(config.trainer.budget, head_start=head_start)
        config = replace(config, trainer=replace(config.trainer, budget=budget))
        learn_processes.store_main(self.child, config, FORM)


def shown(count: int) -> Iterator[Episode]:
    frame = Frame(rgb=np.zeros((SIDE, SIDE, 3), np.uint8), camera="front", stamp_ns=0, id=0)
    seen = Observation(frames={"front": frame}, state=np.zeros(STATE, np.float32), stamp_ns=0)
    action = np.zeros(ACTION, np.float32)
    command = Command(action=action, proposed=action, source=Source.PERSON, policy_version=0)
    step = Step(observation=seen, command=command, reward=1.0, reward_source=RewardSource.OPERATOR)
    for number in range(count):
        yield Episode(
            key=EpisodeKey(actor="demo", incarnation=1, episode=number),
            task="shine",
            steps=(step,),
            last_observation=seen,
            end=EndCause.SUCCESS,
            success=True,
        )


def test_actors_wait_until_all_demonstrations_are_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(monkeypatch, shown(3))
    story.run(tmp_path)
    assert story.told == ["pause", "run"]
    assert story.noted["imported"] == len(StoreReader(tmp_path / "store").episodes()) == 3


def test_the_stores_status_says_what_came_twice_and_what_came_too_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = RingState(actor="arm", received=9, durable=7, duplicates=2, gaps=1, status={})
    monkeypatch.setattr(StepsReceiver, "rings", {"r1": ring})
    story = Story(monkeypatch, shown(1))
    story.run(tmp_path)
    told = {"actor": "arm", "alive": True, "durable": 7, "duplicates": 2, "gaps": 1}
    assert story.noted["rings"] == {"r1": told}


def test_actors_wait_for_the_first_word_of_a_trainer_that_gets_a_head_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story, words = Story(monkeypatch, shown(1)), iter([{}, {"at_ns": 1}, {"holds_actors": True}])

    def heard(_: Path) -> dict[str, object]:
        """Tell what stands in the trainer's status: nothing, an earlier run's, that it holds them, then no more."""
        word = next(words, {"holds_actors": False})
        return word if not word or "at_ns" in word else {"at_ns": time.monotonic_ns(), **word}

    def note(_: Path, status: Mapping[str, object]) -> None:
        held.append(bool(status["holding"]))
        if not held[-1]:
            story.child.stop()

    held: list[bool] = []
    monkeypatch.setattr(learn_processes, "read_status", heard)
    monkeypatch.setattr(learn_processes, "write_status", note)
    story.run(tmp_path, head_start=10)
    assert story.told == ["pause", "run"]
    assert len(held) >= 3
    assert held.count(False) == 1


def test_a_bad_demonstration_after_good_ones_ends_the_run_before_an_actor_may_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Iterator[Episode]:
        yield from shown(2)
        raise DatasetError("The actions of episode 2 are not the bench's", seen=3.0, allowed="[-1, 1]")

    story = Story(monkeypatch, broken())
    with pytest.raises(ConfigError, match="actions of episode 2 are not the bench's"):
        story.run(tmp_path)
    assert story.child.is_ready, "it was after the start"
    assert story.told == ["pause"]


@pytest.mark.parametrize(("field", "seen", "allowed"), [("action_dim", 7, 4), ("image_px", 48, 64)])
def test_a_policy_of_another_bench_is_refused_by_field(
    tmp_path: Path, field: str, seen: int, allowed: int
) -> None:
    shape = SmallPolicyConfig(cameras=("front",), image_px=64, state_dim=9, action_dim=4)
    SmallPolicy(replace(shape, **{field: seen})).save(tmp_path / "policy")
    with pytest.raises(ConfigError, match=f"{field} differs") as caught:
        learn.prepare(LearnConfig(run=tmp_path / "run", policy=str(tmp_path / "policy")))
    assert (caught.value.seen, caught.value.allowed) == (seen, allowed)
    SmallPolicy(shape).save(tmp_path / "other")
    learn.prepare(LearnConfig(run=tmp_path / "run", policy=str(tmp_path / "other")))


def test_what_the_trainer_of_an_earlier_start_said_is_no_word_of_this_one(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shape = SmallPolicyConfig(cameras=("front",), image_px=64, state_dim=9, action_dim=4)
    SmallPolicy(shape).save(tmp_path / "policy")
    config = LearnConfig(run=run.root, policy=str(tmp_path / "policy"))
    learn.prepare(config)
    now_ns = time.monotonic_ns()
    # Of a machine that had been up for longer.
    write_status(run.status("trainer"), {"at_ns": now_ns + 10**15, "holds_actors": False})
    learn.prepare(replace(config, resume=True))
    assert learn_processes._actors_should_wait(run, now_ns), "it has still to speak"


def test_nobody_opens_a_replay_memory_that_the_store_is_to_make_anew(tmp_path: Path) -> None:
    """Labels of a new judge, of its form, would stand beside the one that takes its place."""
    run = RunFolder(tmp_path / "run")
    SmallPolicy(SmallPolicyConfig(cameras=("front",), image_px=64, state_dim=9, action_dim=4)).save(
        tmp_path / "policy"
    )
    config = LearnConfig(
        run=run.root, policy=str(tmp_path / "policy"), store=StoreConfig(capacity_bytes=20 << 20)
    )
    form = learn.prepare(config)
    ArenaWriter(run.store / "arena", form.arena(config.store)).mark_complete()
    learn.prepare(replace(config, resume=True))
    assert ArenaReader(run.store).layout == form.arena(config.store)
    learn.prepare(replace(config, resume=True, store=StoreConfig(capacity_bytes=30 << 20)))
    with pytest.raises(DatasetError, match="no replay memory"):
        ArenaReader(run.store)


def test_two_learners_do_not_work_on_one_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with learn.hold(run) as first, learn.hold(run) as second:
        assert first
        assert not second
    with learn.hold(run) as third:
        assert third


def test_a_rollback_reaches_the_learner_at_work(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    VersionShelf(run.versions).put(3, {"bias": np.zeros(2)}, {})
    with learn.hold(run):
        told = learn.run_learner(LearnConfig(run=run.root, rollback=3))
        assert told["told"] == "the learner at work"
        with pytest.raises(ConfigError, match="Another learner"):
            learn.run_learner(LearnConfig(run=run.root))
    assert run.rollback.read_text() == "3"


@pytest.mark.parametrize("at_work", [True, False])
@pytest.mark.parametrize("command", [learn.run_learner, run_training])
def test_a_version_that_is_not_kept_is_refused_before_anything_is_started(
    tmp_path: Path, command: Callable[..., Any], at_work: bool
) -> None:
    run = RunFolder(tmp_path / "run")
    shelf = VersionShelf(run.versions)
    for version in (1, 4):
        shelf.put(version, {"bias": np.zeros(2)}, {})
    config = (LearnConfig if command is learn.run_learner else TrainConfig)(run=run.root, rollback=3)
    with ExitStack() as held:
        held.enter_context(learn.hold(run))
        if not at_work:
            held.close()
        with pytest.raises(ModelLoadError, match="no such version") as caught:
            command(config)
    assert (caught.value.seen, caught.value.allowed) == (3, [1, 4])
    assert not any(path.exists() for path in (run.rollback, run.learner, run.events))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rlpd": RlpdConfig(lookahead=1.0)}, ("potential", "policy-invariant")),
        ({}, ("potential", "not policy-invariant until critics look all the way ahead")),
        (
            {"rlpd": RlpdConfig(lookahead_updates=0)},
            ("potential", "not policy-invariant until critics look all the way ahead"),
        ),
        (
            {"rlpd": RlpdConfig(lookahead_updates=0, lookahead_successes=0)},
            ("potential", "not policy-invariant"),
        ),
        ({"rlpd": RlpdConfig(critic_sees_potential=False)}, ("potential", "not policy-invariant")),
        ({"shaping": ShapingConfig(form="difference")}, ("difference", "not policy-invariant")),
        ({"reward": ""}, ("sparse", "policy-invariant")),
        ({"shaping": ShapingConfig(scale=0.0)}, ("sparse", "policy-invariant")),
    ],
)
def test_a_run_says_whether_its_reward_leaves_the_optimal_policy_alone(
    change: dict[str, Any], says: tuple[str, str]
) -> None:
    assert learn.reward_form(replace(LearnConfig(reward="tcp://127.0.0.1:1"), **change)) == says


@pytest.mark.parametrize(
    ("form", "inside"), [("potential", False), ("progress", True), ("difference", True), ("positive", True)]
)
def test_potentials_inside_transitions_are_drawn_for_the_forms_that_pay_for_them(
    form: Any, inside: bool
) -> None:
    config = LearnConfig(reward="tcp://127.0.0.1:1", shaping=ShapingConfig(form=form))
    assert sampling_of(config, None).every_potential is inside
    assert not sampling_of(replace(config, shaping=ShapingConfig(form=form, scale=0.0)), None).every_potential


@pytest.mark.parametrize("lerobot", [True, False])
def test_settings_that_change_nothing_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lerobot: bool
) -> None:
    policy = tmp_path / "policy"
    policy.mkdir()
    if lerobot:
        (policy / "config.json").write_text('{"type": "act"}')
    config = LearnConfig(
        run=tmp_path / "run", policy=str(policy), rlpd=RlpdConfig(n_step=4, lookahead_successes=0)
    )
    say_unused(config)
    assert ("--rlpd.n_step" in caplog.text) is lerobot
    assert "lookahead" not in caplog.text, "what a run of before goes on with was given by nobody"
    caplog.clear()
    say_unused(
        replace(config, demos=DemosConfig(path="demos", weights="w"), clone=CloneConfig(actor_updates=3))
    )
    assert "--demos.weights (with --policy none is cloned)" in caplog.text
    assert "--clone.actor_updates" in caplog.text
    caplog.clear()
    say_unused(LearnConfig(run=tmp_path / "run", demos=DemosConfig(path="demos", weights="w")))
    assert not caplog.text


@pytest.mark.parametrize(
    ("mix", "failures", "fits"),
    [
        (MixConfig(), False, False),
        (MixConfig(kind="linear"), False, False),
        (MixConfig(kind="proportional"), False, True),
        (MixConfig(), True, True),
    ],
)
def test_a_head_start_needs_a_share_for_what_is_recorded(
    tmp_path: Path, mix: MixConfig, failures: bool, fits: bool
) -> None:
    config = LearnConfig(
        run=tmp_path / "run",
        demos=DemosConfig(path="demos", failures=failures),
        rlpd=RlpdConfig(demo_fraction=0.0),
        mix=mix,
        trainer=TrainerConfig(budget=BudgetConfig(head_start=10)),
    )
    with nullcontext() if fits else pytest.raises(ConfigError, match="never end") as caught:
        mix_of(config)
    if not fits:
        assert all((caught.value.seen, caught.value.allowed, caught.value.remedy))
    assert mix_of(replace(config, trainer=TrainerConfig()))


def test_a_disk_with_little_room_is_warned_of_and_not_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(learn_processes.shutil, "disk_usage", lambda path: SimpleNamespace(free=3e9))
    room = learn_processes._Room(tmp_path)
    assert [room.look(), room.look()] == [3.0, 3.0]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "3.0 GB left" in caplog.text
    caplog.clear()
    monkeypatch.setattr(learn_processes.shutil, "disk_usage", lambda path: SimpleNamespace(free=300e9))
    assert learn_processes._Room(tmp_path).look() == 300.0
    assert not caplog.records
