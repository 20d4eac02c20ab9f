"""A demonstration, named once: read, bounded, and brought by every session that is opened anywhere."""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roborl.cli.main import main
from roborl.clock import Deadline
from roborl.codec import join
from roborl.data.arena import ArenaReader
from roborl.data.columns import ProgressColumns, active_version
from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.lerobot_io import read_episodes
from roborl.data.store import Store, StoreSpec
from roborl.envs.bench import load_bench
from roborl.errors import ConfigError, DatasetError
from roborl.loops import references
from roborl.loops.benchmarks import reward as bench_reward
from roborl.loops.benchmarks.reward_config import RESULT, BenchRewardConfig
from roborl.loops.demonstrations import DemosConfig
from roborl.loops.launch import run_training
from roborl.loops.learner.learn_config import (
    BenchForm,
    LearnConfig,
    RunFolder,
)
from roborl.loops.learner.learn_processes import labeller_main
from roborl.loops.references import NoDemonstration, ReferencesConfig, read_demonstration
from roborl.loops.reward_gate import RewardGate
from roborl.loops.run_files import read_status
from roborl.loops.serve import RewardServer, ServeConfig, serving
from roborl.loops.supervise import Child
from roborl.loops.train_config import TrainConfig
from roborl.loops.train_gate import pass_gate
from roborl.loops.video import write_video
from roborl.loops.watch import WatchConfig, watch
from roborl.records import pack_record
from roborl.rewards.fake import BrightnessFold, BrightnessModel
from roborl.rewards.references import digest, told
from roborl.rewards.vlac.checkpoint import native_checkpoint
from roborl.serving.score_client import ScoreClient
from roborl.serving.score_events import SessionOpened
from roborl.testing.episodes import CAMERAS, random_episode, write_episodes
from roborl.testing.experience import ACTION_DIM, STATE_DIM, arrival, episode_records
from roborl.testing.experience import CAMERAS as SEEN
from roborl.testing.tiny_vlac import IMAGE_PX, write_published_vlac
from roborl.types import EndCause, EpisodeKey, Score

TASK = "light the lamp"
FORM = BenchForm(
    task=TASK,
    cameras=SEEN,
    image_px=8,
    state_dim=STATE_DIM,
    action_dim=ACTION_DIM,
    max_steps=20,
    policy_hz=10.0,
)


class TowardsModel(BrightnessModel):
    """Progress is brightness in units of the demonstration's last picture of the front camera, which it must be told."""

    def start(self, task: str, references: Any) -> BrightnessFold:
        demo = references.get("demo/front")
        goal = references.get("goal/front") if demo is None else demo[-1]
        if goal is None:
            raise ConfigError(
                "The reward model lacks a reference",
                seen=sorted(references) or "none",
                allowed="demo/front",
                remedy="Show it a demonstration: --references.path DATASET",
            )
        return TowardsFold(self, float(goal.mean()) / 255)


class TowardsFold(BrightnessFold):
    def __init__(self, model: TowardsModel, goal: float) -> None:
        super().__init__(model.info.cameras, model.info.version)
        self._goal = goal

    def fold(self, observation_id: int, replies: Any) -> Score:
        score = super().fold(observation_id, replies)
        return replace(score, progress=min(1.0, score.progress / self._goal))


def lamp(seed: int, *, to: int, steps: int = 10, **changes: Any) -> DatasetEpisode:
    """Pictures of one grey level each, from 0 to ``to``."""
    levels = np.linspace(0, to, steps + 1).round().astype(np.uint8)
    images = {
        name: np.broadcast_to(levels[:, None, None, None], (steps + 1, *size, 3)).copy()
        for name, size in CAMERAS.items()
    }
    changes = {"task": TASK, "images": images, "subtasks": ()} | changes
    return random_episode(seed, steps, **changes)


@pytest.fixture
def lamps(tmp_path: Path) -> Path:
    """A failure, a success, a success of another task, a success."""
    write_episodes(
        tmp_path / "lamps",
        lamp(0, to=60, success=False, end=EndCause.TIME_LIMIT),
        lamp(1, to=100),
        lamp(2, to=150, task="put out the lamp"),
        lamp(3, to=200),
    )
    return tmp_path / "lamps"


def last_level(found: dict[str, Any], name: str = "demo/front") -> int:
    return int(found[name].reshape(-1)[-1])


def test_the_first_success_of_the_task_is_shown_thinned_out(lamps: Path) -> None:
    config = ReferencesConfig(path=str(lamps), frames=3)
    found = read_demonstration(config, ["front", "wrist", "ceiling"], TASK)
    assert {name: pictures.shape for name, pictures in found.items()} == {
        "demo/front": (3, 16, 20, 3),
        "demo/wrist": (3, 12, 12, 3),
    }
    assert found["demo/front"][:, 0, 0, 0].tolist() == [0, 50, 100]
    assert last_level(read_demonstration(config, ["front"], "put out the lamp")) == 150
    named = replace(config, episode=3, camera_map={"top": "front"})
    assert last_level(read_demonstration(named, ["top"], "other words"), "demo/top") == 200
    goal = read_demonstration(replace(config, frames=1), ["front"], TASK)
    assert {name: pictures.shape for name, pictures in goal.items()} == {"goal/front": (16, 20, 3)}
    assert last_level(goal, "goal/front") == 100
    assert read_demonstration(ReferencesConfig(), ["front"], TASK) == {}


def test_a_demonstration_is_shown_as_far_as_it_was_judged(tmp_path: Path) -> None:
    """A lamp that is lit at observation 6, and goes out again before the time is up."""
    lit = lamp(0, to=100)
    assert lit.provenance is not None
    images = {name: rgb.copy() for name, rgb in lit.images.items()}
    for rgb in images.values():
        rgb[7:] = 0
    judged = replace(lit.provenance, verdict_index=6)
    write_episodes(tmp_path / "d", replace(lit, images=images, end=EndCause.TIME_LIMIT, provenance=judged))
    for frames, name in ((1, "goal/front"), (3, "demo/front")):
        config = ReferencesConfig(path=str(tmp_path / "d"), frames=frames)
        assert last_level(read_demonstration(config, ["front"], TASK), name) == 60


def test_a_failure_that_only_the_command_line_knows_of_is_not_shown(lamps: Path) -> None:
    config = ReferencesConfig(path=str(lamps))
    first, *others = [
        e.index for e in read_episodes(lamps, with_images=False) if e.success and e.task == TASK
    ]
    assert last_level(read_demonstration(replace(config, episode=first), ["front"], TASK)) == last_level(
        read_demonstration(config, ["front"], TASK)
    )
    told = replace(config, failed=[first])
    assert last_level(read_demonstration(told, ["front"], TASK)) == last_level(
        read_demonstration(replace(config, episode=others[0]), ["front"], TASK)
    )
    learn = TrainConfig(references=config, demos=DemosConfig(path=str(lamps), failed=[first]))
    assert learn.demonstration == told
    spelt = replace(learn, references=replace(config, path=f"{lamps}/"))
    assert spelt.demonstration.failed == [first]
    other = replace(learn, references=ReferencesConfig(path="elsewhere"))
    assert other.demonstration.failed == []


@pytest.mark.parametrize(
    ("changes", "cameras", "task", "kind", "words"),
    [
        (
            {},
            ["front"],
            "mend the lamp",
            NoDemonstration,
            r"of the task\. Found: 'mend.*light the lamp.*--ref",
        ),
        ({"episode": 0}, ["front"], TASK, DatasetError, "is no success. Found: episode 0"),
        ({"episode": 9}, ["front"], TASK, DatasetError, "is no success. Found: episode 9"),
        ({}, ["ceiling"], TASK, DatasetError, r"none of the cameras\. Found: \['front', 'wrist'\]"),
    ],
)
def test_what_cannot_be_shown_is_told(
    lamps: Path, changes: dict[str, Any], cameras: list[str], task: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        read_demonstration(ReferencesConfig(**{"path": str(lamps)} | changes), cameras, task)


def filmed(folder: Path, height: int = 48, width: int = 64, **levels: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for camera, to in levels.items():
        pictures = (np.full((height, width, 3), level, np.uint8) for level in np.linspace(0, to, 20))
        write_video(folder / f"{camera}.mp4", pictures, fps=10)
    return folder


def test_folders_of_videos_are_demonstrations_too(tmp_path: Path) -> None:
    for number, to in enumerate((100, 200)):
        folder = filmed(tmp_path / f"episode_{number}", front=to, wrist=to)
        (folder / "annotated_keyframes.json").write_text(
            json.dumps([{"annotation": "light", "start_frame_id": 0, "end_frame_id": 19}])
        )
    (tmp_path / "task_instruction.json").write_text(json.dumps([TASK, "make light"]))
    config = ReferencesConfig(path=str(tmp_path), frames=4)
    for task, episode, level in (("make light", -1, 100), (TASK, 1, 200)):
        found = read_demonstration(replace(config, episode=episode), ["front"], task)
        assert found["demo/front"].shape == (4, 48, 64, 3)
        assert last_level(found) == pytest.approx(level, abs=8)
    alone = replace(config, path=str(tmp_path / "episode_1"))
    assert last_level(read_demonstration(alone, ["wrist"], "any"), "demo/wrist") == pytest.approx(200, abs=8)


def test_the_largest_demonstration_of_three_cameras_opens_a_session_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, views = (700, 1000), ["front", "left", "right"]
    config = ReferencesConfig(path=str(filmed(tmp_path, *size, **dict.fromkeys(views, 200))))
    found = read_demonstration(config, views, TASK)
    assert [len(pictures) for pictures in found.values()] == [7, 7, 7]
    with serving({"m": TowardsModel()}) as server:
        client = ScoreClient(server.endpoint, name="test")
        client.wait_connected(10)
        session = client.open_session(TASK, views, references=found)
        deadline = Deadline(20.0)
        while not any(isinstance(event, SessionOpened) for event in client.poll(0.02)):
            deadline.check(session)
        assert client.alive
        client.close()
    monkeypatch.setattr(references, "_MOST_BYTES", 3 * size[0] * size[1] + 1)
    with pytest.raises(ConfigError, match=r"too large.*Found: 2 MB each from front.*--references.frames 1"):
        read_demonstration(config, ["front"], TASK)


class Learner:
    """The labeller as it runs in its process, here in a thread, between a real store and a reward server."""

    def __init__(self, folder: Path, config: ReferencesConfig) -> None:
        self.endpoint = f"ipc://{folder / 'scores.sock'}"
        self.config = LearnConfig(run=folder / "run", reward=self.endpoint, references=config)
        spec = StoreSpec(
            cameras=SEEN,
            image_px=8,
            state_dim=STATE_DIM,
            action_dim=ACTION_DIM,
            max_steps=20,
            capacity_bytes=1 << 20,
        )
        self.store = Store(RunFolder(self.config.run).store, spec)
        self.child = Child("labeller", None, ctypes.c_int64(0))
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._label)
        self.thread.start()
        self._sequence = 0
        self._stop: Callable[[], None] = lambda: None

    def _label(self) -> None:
        try:
            labeller_main(self.child, self.config, FORM)
        except Exception as error:
            self.error = error

    def serve(self) -> None:
        """Put a reward server up, in place of the one before."""
        self._stop()
        server, over = (
            RewardServer({"m": TowardsModel(("front",))}, ServeConfig(endpoint=self.endpoint)),
            threading.Event(),
        )

        def work() -> None:
            while not over.is_set():
                server.turn(0.01)
            server.close()

        thread = threading.Thread(target=work)
        thread.start()
        self._stop = lambda: (over.set(), thread.join(), None)[-1]

    def ingest(self, *records: Any) -> None:
        for record in records:
            self._sequence += 1
            self.store.ingest("ring", self._sequence, join(pack_record(record)))

    def until(self, happened: Callable[[], bool], what: str) -> None:
        deadline = Deadline(60.0)
        while not happened():
            deadline.check(what)
            self.thread.join(0.02)

    def labels(self, key: EpisodeKey, version: str) -> list[float]:
        arena = ArenaReader(RunFolder(self.config.run).store)
        columns, slot = ProgressColumns(arena, version), arena.slot(key)
        assert slot is not None
        first = int(arena.table["start"][slot])
        return [float(p) for p in columns.progress[first : first + columns.labelled(key)]]

    def close(self) -> None:
        self.child.stop()
        self.thread.join()
        self._stop()
        self.store.close()


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Callable[[ReferencesConfig], Learner]]:
    made: list[Learner] = []

    def make(config: ReferencesConfig) -> Learner:
        made.append(Learner(tmp_path, config))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_labels_are_made_by_the_demonstration_under_a_version_of_its_own_whoever_dies(
    lamps: Path, learner: Callable[[ReferencesConfig], Learner]
) -> None:
    config = ReferencesConfig(path=str(lamps))
    version = told(TowardsModel(("front",)).info.version, digest(read_demonstration(config, ["front"], TASK)))
    other = read_demonstration(replace(config, episode=3), ["front"], TASK)
    assert version not in ("brightness-front", told("brightness-front", digest(other)))
    run = learner(config)
    run.serve()
    key = EpisodeKey(actor="left", incarnation=1, episode=0)
    *records, end = episode_records(key, 9, EndCause.TIME_LIMIT)
    run.ingest(*records[:6])
    folder = run.config.run / "store"
    run.until(lambda: active_version(folder) == version, "the column is there")
    run.until(lambda: len(run.labels(key, version)) >= 4, "some labels")
    run.serve()
    run.ingest(*records[6:], end)
    run.until(lambda: len(run.labels(key, version)) == 10, "all labels")
    seen = [arrival(key, index).observation.images["front"].mean() / 100 for index in range(10)]
    assert run.labels(key, version) == pytest.approx(np.minimum(seen, 1.0), abs=1e-3)
    assert run.error is None
    status = RunFolder(run.config.run).status("labeller")
    run.until(lambda: read_status(status).get("rebuilt", 0) > 0, "the session was rebuilt")
    assert read_status(status)["changed"] == read_status(status)["foreign"] == 0


def test_a_learner_whose_judge_lacks_a_demonstration_ends_before_there_is_an_episode(
    learner: Callable[[ReferencesConfig], Learner],
) -> None:
    run = learner(ReferencesConfig())
    run.serve()
    run.until(lambda: not run.thread.is_alive(), "the labeller ends")
    assert isinstance(run.error, ConfigError)
    words = "refuses to judge the task. Found: The reward model lacks a reference. Found: none. Allowed: demo/front."
    assert words in str(run.error)
    assert "--references.path" in str(run.error)


def test_training_is_refused_before_any_arm_has_a_process(
    lamps: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = tmp_path / "critic.yaml"
    # Converted here, for the process that loads it does not know of this cache.
    checkpoint = str(native_checkpoint(str(write_published_vlac(tmp_path / "published"))))
    asked = {"image_px": IMAGE_PX, "reference_frames": 3}
    settings.write_text(json.dumps({"checkpoint": checkpoint, "judge": {"device": "cpu"}} | asked))
    config = TrainConfig(run=tmp_path / "run", reward=f"vlac:{settings}")
    with pytest.raises(
        ConfigError, match=r"gate process.*lacks a reference.*Found: none.*--references\.path"
    ):
        run_training(config)
    assert not (tmp_path / "run").exists()
    write_episodes(lamps, lamp(5, to=90, task=load_bench("so101_sim").task))
    pass_gate(replace(config, references=ReferencesConfig(path=str(lamps))))


def test_a_monitor_shows_the_demonstration_with_every_session(lamps: Path, tmp_path: Path) -> None:
    source = str(filmed(tmp_path / "watched", front=100))
    with serving({"m": TowardsModel(("front",))}) as server:
        config = WatchConfig(source=source, server=server.endpoint, task=TASK)
        with pytest.raises(
            ConfigError, match=r"refuses to judge the task\. Found: The reward model lacks a reference"
        ):
            watch(config)
        closed: list[str] = []

        def lose(score: Score, time_s: float) -> None:
            if not closed:
                closed.extend(server.pool._sessions)
                server.pool.close(closed[0])

        shown = replace(config, references=ReferencesConfig(path=str(lamps), episode=3))
        figures = watch(shown, on_score=lose).figures()
    assert closed
    assert figures["scored"] == 20
    assert figures["last"] == pytest.approx(0.5, abs=0.05)
    told_of = digest(read_demonstration(shown.references, ["front"], TASK))
    assert figures["version"] == f"brightness-front-{told_of}"


def test_an_evaluation_shows_it_and_says_before_the_first_episode_that_it_is_lacking(
    lamps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("roborl.rewards.registry.load_reward_model", lambda place: TowardsModel(("front",)))
    table = tmp_path / "t.jsonl"
    command = ["evaluate", "--policy", "scripted", "--scene", "Reach", "--episodes", "1", "--reward", "stub"]
    assert main([*command, "--table", str(table)]) == 2
    assert "lacks a reference" in (said := capsys.readouterr().err)
    assert "episode 1" not in said
    assert not table.exists()
    finals = []
    for episode in ("1", "3"):
        shown = ["--references.path", str(lamps), "--references.episode", episode]
        assert main([*command, "--table", str(table), *shown]) == 0
        finals.append(json.loads(table.read_text())["final_progress"])
    assert finals[0] > finals[1] > 0, "the darker the lamp that is shown, the closer it is"


def test_a_benchmark_shows_what_training_shows_and_the_gate_asks_for_the_same(
    lamps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_episodes(lamps, *(lamp(seed, to=100 + seed) for seed in range(10, 14)))
    monkeypatch.setattr(bench_reward, "load_reward_model", lambda place: TowardsModel(("front",)))
    config = BenchRewardConfig(
        model=["stub"], dataset=[str(lamps)], out=tmp_path, require=["voc>=0.9"], probes=False
    )
    with pytest.raises(ConfigError, match="lacks a reference"):
        bench_reward.bench_reward(config)
    shown = ReferencesConfig(path=str(lamps))
    assert bench_reward.bench_reward(replace(config, references=shown)).met
    gate = RewardGate(result=str(tmp_path / RESULT))
    gate.check("brightness-front", digest(read_demonstration(shown, ["front"], TASK)))
    other = digest(read_demonstration(replace(shown, episode=3), ["front"], TASK))
    for wrong, said in (("", "none"), (other, other)):
        with pytest.raises(ConfigError, match=rf"another demonstration.*Found: {said}\."):
            gate.check("brightness-front", wrong)
