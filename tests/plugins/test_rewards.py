"""Our reward models inside LeRobot: found by its command line, built by its factory, equal to what we say ourselves."""

import json
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from lerobot.configs import parser
from lerobot.configs.rewards import RewardModelConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.rewards import make_reward_model, make_reward_model_config, make_reward_pre_post_processors

from roborl.errors import ConfigError, DeadlineExceeded, ShapeError
from roborl.loops.references import ReferencesConfig
from roborl.loops.serve import RewardServer, ServeConfig, serving
from roborl.plugins.rewards.batches import episodes_of
from roborl.rewards.fake import BrightnessFold, BrightnessModel
from roborl.rewards.model import missing, score_episode
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.prompts import own_prompt
from roborl.rewards.sarm.checkpoint import freeze_sarm, save_sarm
from roborl.rewards.sarm.config import SarmConfig
from roborl.rewards.sarm.network import SarmNetwork
from roborl.rewards.sole import CONTRACT, SoleConfig, SoleModel
from roborl.rewards.training.labels import StagePlan
from roborl.testing.check_reward_model import random_observations
from roborl.testing.episodes import CAMERAS, random_episode, write_episodes
from roborl.testing.vlms import ScriptedVlm

TASK = "put the cube into the bowl"


@pytest.fixture(autouse=True)
def plugin():
    parser.load_plugin("roborl.plugins.rewards")


@pytest.fixture(scope="module")
def sarm():
    torch.manual_seed(0)
    plan = StagePlan(names=("reach", "carry"), shares=(0.4, 0.6))
    network = SarmNetwork(SarmConfig(image_px=32), plan, ("front", "wrist"), 6)
    return freeze_sarm(network, plan, cameras=("front", "wrist"), tasks=("t",), state_dim=6)


def batch_of(*episodes, floats=True):
    """Episodes as a batch of LeRobot."""
    batch = {"task": [TASK] * len(episodes)}
    for name in episodes[0][0].frames:
        videos = np.stack([np.stack([o.images[name] for o in episode]) for episode in episodes])
        videos = torch.from_numpy(videos).permute(0, 1, 4, 2, 3)
        batch[f"observation.images.{name}"] = videos.float() / 255 if floats else videos
    states = np.stack([np.stack([o.state for o in episode]) for episode in episodes])
    return batch | {"observation.state": torch.from_numpy(states)}


def progress(model, *episodes):
    return [[s.progress for s in score_episode(model, TASK, episode)] for episode in episodes]


def built(kind, **settings):
    """What LeRobot's own factory makes of settings: the model, and its first pipeline."""
    config = make_reward_model_config(kind, **settings)
    return make_reward_model(config), make_reward_pre_post_processors(config)[0]


def test_lerobots_factory_builds_a_model_of_ours_and_it_scores_as_with_us(sarm, tmp_path):
    save_sarm(sarm, tmp_path)
    model, before = built("roborl", place=str(tmp_path))
    one, other = (random_observations(sarm, count=9, seed=seed) for seed in (1, 2))
    batch = before(batch_of(one, other))
    expected = progress(sarm, one, other)
    np.testing.assert_allclose(model.compute_progress(batch), expected, atol=1e-6)
    np.testing.assert_allclose(model.compute_reward(batch), [row[-1] for row in expected], atol=1e-6)
    assert not model.is_trainable
    assert list(model.parameters()) == []


def test_lerobots_factory_builds_a_model_that_asks_our_server_with_equal_scores(sarm):
    episodes = [random_observations(sarm, count=40, seed=seed) for seed in (1, 2)]
    with serving({"tiny": sarm, "bright": BrightnessModel()}) as server:
        model, before = built("remote", endpoint=server.endpoint, model="tiny", deadline_s=20.0)
        try:
            batch = before(batch_of(*episodes))
            rewards = model.compute_reward(batch)
            assert rewards.shape == (2,)
            assert rewards.dtype == torch.float32
            expected = progress(sarm, *episodes)
            np.testing.assert_allclose(rewards, [row[-1] for row in expected], atol=1e-6)
            np.testing.assert_allclose(model.compute_progress(batch), expected, atol=1e-6)
        finally:
            model.close()


PROGRAM = """
import sys
from dataclasses import dataclass
from lerobot.configs import parser
from lerobot.configs.rewards import RewardModelConfig
from lerobot.rewards import make_reward_model

@dataclass
class Told:
    reward_model: RewardModelConfig | None = None

@parser.wrap()
def main(cfg: Told):
    print(type(make_reward_model(cfg.reward_model)).__name__, "mujoco" in sys.modules, flush=True)

for options in (["type=roborl", "place=brightness"], ["type=remote", "model=x", "security.server=y"]):
    options = ["discover_packages_path=roborl.plugins.rewards", *options]
    sys.argv[1:] = [f"--reward_model.{option}" for option in options]
    main()
"""


def test_lerobots_command_line_finds_the_types_where_it_is_told_to_look():
    # In a process of its own, in which nothing of ours was imported before.
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    # A computer without the simulator can use them.
    assert done.stdout.split() == ["RoborlRewardModel", "False", "RemoteRewardModel", "False"]


def test_they_come_with_all_our_types_too():
    parser.load_plugin("roborl.plugins")
    assert {"roborl", "remote"} <= set(RewardModelConfig.get_known_choices())


@pytest.mark.parametrize(
    "settings", [{"place": "brightness"}, {"endpoint": "tcp://127.0.0.1:5999", "model": "m"}]
)
def test_settings_are_saved_and_read_as_lerobot_does(settings, tmp_path):
    kind = "roborl" if "place" in settings else "remote"
    model, _ = built(kind, **settings)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["type"] == kind
    again = type(model).from_pretrained(tmp_path)
    assert again.config == model.config
    assert (
        make_reward_model(make_reward_model_config(kind, **settings, pretrained_path=str(tmp_path))).name
        == kind
    )
    other = {"roborl": "remote", "remote": "roborl"}[kind]
    wrong = built(other, **({"place": "brightness"} if other == "roborl" else {}))[0]
    with pytest.raises(ConfigError, match="another kind"):
        type(wrong).from_pretrained(tmp_path)


def test_views_are_renamed_and_one_picture_is_an_episode_of_one(sarm):
    model, before = built(
        "roborl", place="brightness", rename_map={"observation.image": "observation.images.front"}
    )
    picture = torch.full((3, 16, 16), 0.2)
    batch = before({"observation.image": picture, "task": TASK})
    assert model.compute_reward(batch).tolist() == pytest.approx([0.2])


def test_a_score_that_is_missing_is_no_number():
    class Blind(BrightnessFold):
        def fold(self, observation_id, replies):
            if observation_id == 1:
                return missing(1, "blind", version=self._version)
            return super().fold(observation_id, replies)

    class Model(BrightnessModel):
        def start(self, task, references):
            return Blind(self.info.cameras, self.info.version)

    with serving({"blind": Model()}) as server:
        model, _ = built("remote", endpoint=server.endpoint)
        rows = model.compute_progress(batch_of(random_observations(Model(), count=3)))
        model.close()
    assert rows.isnan().tolist() == [[False, True, False]]


FRONT = "observation.images.front"


@pytest.mark.parametrize("kind", ["roborl", "remote"])
def test_a_history_as_lerobot_brings_it_begins_where_the_episode_does(sarm, tmp_path, kind):
    save_sarm(sarm, tmp_path / "model")
    write_episodes(tmp_path / "data", random_episode(0))
    keys = [*(f"observation.images.{name}" for name in CAMERAS), "observation.state"]
    back = {key: [-0.2, -0.1, 0.0] for key in keys}
    data = LeRobotDataset("a/b", root=tmp_path / "data", delta_timestamps=back)
    batch = torch.utils.data.default_collate([data[place] for place in (0, 1, 4)])
    with serving({"tiny": sarm}) as server:
        where = {"place": str(tmp_path / "model")} if kind == "roborl" else {"endpoint": server.endpoint}
        model, before = built(kind, **where)
        rows = model.compute_progress(before(batch)).numpy()
        if kind == "remote":
            model.close()
    for sample, begun in enumerate((2, 1, 0)):
        part = {key: batch[key][[sample], begun:] for key in keys} | {"task": batch["task"][sample]}
        (alone,) = episodes_of(part, default_task="")
        expected = [s.progress for s in score_episode(sarm, alone.task, alone.observations)]
        np.testing.assert_allclose(rows[sample], [np.nan] * begun + expected, atol=1e-6)


def test_padding_is_what_any_view_has_before_the_episode_and_a_last_picture_stays():
    # A view that the processor renamed has its mask under the old name.
    masks = {
        f"{FRONT}_is_pad": torch.tensor([[True, False, True], [True, True, True]]),
        "observation.image_is_pad": torch.tensor([[True, True, False], [False, False, False]]),
    }
    for one in episodes_of(GOOD | masks, default_task=""):
        assert (one.padding, one.cameras) == (2, ("front",))
        assert [o.frames["front"].id for o in one.observations] == [0]


@pytest.mark.parametrize("kind", ["roborl", "remote"])
@pytest.mark.parametrize(
    ("looks_back", "count", "told"),
    [
        ({"looks_back": True}, 1, 1),
        ({"looks_back": True, "trained_hz": 10.0}, 1, 1),
        ({"looks_back": True}, 2, 0),
        ({}, 1, 0),
    ],
)
def test_a_model_that_looks_back_and_is_shown_single_pictures_says_so_once(
    kind, looks_back, count, told, caplog, monkeypatch
):
    bright = BrightnessModel(("front",))
    bright.info = ModelInfo(version=f"{kind}-{count}-{len(looks_back)}", cameras=("front",), **looks_back)
    monkeypatch.setattr("roborl.plugins.rewards.modeling_rewards.load_reward_model", lambda place: bright)
    batch = batch_of(random_observations(bright, count=count))
    with serving({"bright": bright}) as server:
        model, _ = built(kind, **({"place": "b"} if kind == "roborl" else {"endpoint": server.endpoint}))
        for _ in range(3):
            model.compute_reward(batch)
        if kind == "remote":
            model.close()
    assert sum("delta_timestamps" in record.getMessage() for record in caplog.records) == told


def test_a_judge_that_compares_pictures_and_counts_on_no_rate_says_so_too(caplog, monkeypatch):
    sole = SoleModel(
        ScriptedVlm(lambda query: "<answer>0%</answer>"),
        own_prompt(CONTRACT),
        SoleConfig(cameras=("front",)),
    )
    monkeypatch.setattr("roborl.plugins.rewards.modeling_rewards.load_reward_model", lambda place: sole)
    model, _ = built("roborl", place="s")
    model.compute_reward(batch_of(random_observations(sole, count=1)))
    assert sum("delta_timestamps" in said for said in caplog.messages) == 1


@pytest.mark.parametrize("kind", ["roborl", "remote"])
def test_a_demonstration_is_shown_of_each_task(kind, tmp_path, monkeypatch):
    class Told(BrightnessModel):
        def start(self, task, references):
            told.append((task, sorted(references), references["demo/front"].tolist()))
            return super().start(task, references)

    told = []
    demos = {text: random_episode(seed, task=text) for seed, text in enumerate((TASK, "another"))}
    write_episodes(tmp_path / "demos", *demos.values())
    monkeypatch.setattr("roborl.plugins.rewards.modeling_rewards.load_reward_model", lambda place: Told())
    shown = random_observations(Told(), count=2)
    with serving({"told": Told()}) as server:
        where = {"place": "told"} if kind == "roborl" else {"endpoint": server.endpoint}
        model, _ = built(kind, references=ReferencesConfig(path=str(tmp_path / "demos")), **where)
        model.compute_progress(batch_of(shown, shown) | {"task": [TASK, "another"]})
        if kind == "remote":
            model.close()
    assert [task for task, _, _ in told] == list(demos)
    for task, names, pictures in told:
        assert names == [f"demo/{name}" for name in sorted(shown[0].frames) if name in CAMERAS]
        assert pictures == demos[task].images["front"].tolist()


def test_a_server_that_is_away_is_waited_for_and_then_given_up():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    model, _ = built("remote", endpoint=endpoint, deadline_s=0.3)
    shown = random_observations(BrightnessModel(), count=3)
    with pytest.raises(DeadlineExceeded, match="0 of 3 scores"):
        model.compute_reward(batch_of(shown))
    stop = threading.Event()

    def late():
        time.sleep(0.3)
        server = RewardServer({"b": BrightnessModel()}, ServeConfig(endpoint=endpoint))
        while not stop.is_set():
            server.turn(0.01)
        server.close()

    thread = threading.Thread(target=late)
    thread.start()
    try:
        model.config.deadline_s = 20.0
        np.testing.assert_allclose(
            model.compute_progress(batch_of(shown)), progress(BrightnessModel(), shown), atol=1e-6
        )
    finally:
        stop.set()
        thread.join()
        model.close()


def test_a_view_that_the_servers_model_wants_must_be_in_the_batch():
    with serving({"b": BrightnessModel(("wrist",))}) as server:
        model, _ = built("remote", endpoint=server.endpoint, deadline_s=10.0)
        with pytest.raises(ConfigError, match="wrist"):
            model.compute_reward(batch_of(random_observations(BrightnessModel(("front",)), count=2)))
        model.close()


# Batches


def test_bytes_and_floats_are_the_same_pictures():
    shown = random_observations(BrightnessModel(), count=4)
    for floats in (True, False):
        (episode,) = episodes_of(batch_of(shown, floats=floats), default_task="")
        assert episode.task == TASK
        for mine, theirs in zip(episode.observations, shown, strict=True):
            np.testing.assert_array_equal(mine.images["front"], theirs.images["front"])
            np.testing.assert_array_equal(mine.state, theirs.state)
            assert mine.frames["front"].id == theirs.frames["front"].id


GOOD = {"observation.images.front": torch.zeros(2, 3, 3, 8, 8), "task": TASK}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"observation.images.front": torch.full((2, 3, 3, 8, 8), 2.0)}, ShapeError, "out of range"),
        ({"observation.images.front": torch.full((2, 3, 3, 8, 8), torch.nan)}, ShapeError, "out of range"),
        ({"observation.images.front": torch.zeros(2, 3, 8, 8, 3)}, ShapeError, "wrong form"),
        ({"observation.images.front": torch.zeros(2, 3, 3, 8, 8).long()}, ShapeError, "int64"),
        ({"observation.images.wrist": torch.zeros(2, 4, 3, 8, 8)}, ShapeError, "another number"),
        ({"observation.state": torch.zeros(2, 4, 6)}, ShapeError, "does not match"),
        ({f"{FRONT}_is_pad": torch.zeros(2, 4, dtype=torch.bool)}, ShapeError, "front_is_pad"),
        ({f"{FRONT}_is_pad": torch.zeros(2, 3)}, ShapeError, "float32"),
        ({"task": [TASK]}, ConfigError, "for 2 samples"),
        ({"task": None}, ConfigError, "default_task"),
    ],
)
def test_a_batch_that_cannot_be_read_is_refused(change, error, words):
    assert len(episodes_of(GOOD, default_task="")) == 2
    with pytest.raises(error, match=words):
        episodes_of(GOOD | change, default_task="")


def test_a_batch_without_pictures_or_with_the_default_instruction():
    with pytest.raises(ConfigError, match="no pictures"):
        episodes_of({"task": TASK}, default_task="")
    assert episodes_of(GOOD | {"task": None}, default_task="wave")[1].task == "wave"


def test_a_model_without_a_place_is_refused():
    with pytest.raises(ValueError, match="not available") as caught:
        make_reward_model_config("roborl")
    assert "has no place" in str(caught.value.__cause__)
