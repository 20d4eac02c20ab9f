from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from roborl import config as configuration
from roborl.codec import join
from roborl.data.store import Store, StoreSpec
from roborl.envs.bench import load_bench
from roborl.errors import ConfigError
from roborl.hil.supervisor import InterventionConfig, Trigger
from roborl.learning.budget import BudgetConfig
from roborl.loops.actor.act import run_actor
from roborl.loops.actor.act_config import ActConfig, ActSettings, shared_folder
from roborl.loops.actor.live_config import LiveConfig
from roborl.loops.actor.status import StatusSlot
from roborl.loops.launch import (
    forget_earlier_run,
    recall_earlier_episodes,
    require_actors,
    require_arms,
    run_training,
    train_specs,
)
from roborl.loops.learner.episode_labels import LabelConfig
from roborl.loops.learner.learn import learner_specs
from roborl.loops.learner.learn_config import BenchForm, LearnConfig, LearnSettings, RunFolder
from roborl.loops.learner.train import TrainerConfig
from roborl.loops.references_config import ReferencesConfig
from roborl.loops.run_settings import keep_settings
from roborl.loops.train_config import Addresses, TrainConfig, act_configs, addresses, learn_config
from roborl.records import pack_record
from roborl.testing.experience import ACTION_DIM, CAMERAS, STATE_DIM, episode_records
from roborl.types import EpisodeKey

WHERE = Addresses(steps="ipc:///steps", weights="ipc:///weights", scores="ipc:///scores")
FORM = BenchForm(
    task="shine",
    cameras={"front": (8, 8)},
    image_px=8,
    state_dim=3,
    action_dim=2,
    max_steps=5,
    policy_hz=10.0,
)


@pytest.mark.parametrize(("episodes", "actors"), [(150, 1), (150, 2), (7, 3), (3, 3)])
def test_the_episodes_are_dealt_out_whole(episodes: int, actors: int) -> None:
    configs = act_configs(TrainConfig(episodes=episodes, actors=actors), WHERE)
    shares = [config.episodes for config in configs]
    assert sum(shares) == episodes
    assert max(shares) - min(shares) <= 1
    assert len({config.actor for config in configs}) == actors
    assert len({config.seed for config in configs}) == actors
    assert {(config.steps, config.weights) for config in configs} == {(WHERE.steps, WHERE.weights)}


@pytest.mark.parametrize(("episodes", "actors"), [(0, 1), (2, 3), (5, 0)])
def test_an_actor_without_an_episode_is_refused(episodes: int, actors: int) -> None:
    with pytest.raises(ConfigError, match="nothing to do"):
        TrainConfig(episodes=episodes, actors=actors)


def test_the_learner_gets_every_setting_it_shares() -> None:
    budget = BudgetConfig(ratio=3.0)
    config = TrainConfig(
        run=Path("a"), seed=5, policy="p", reward="model", trainer=TrainerConfig(budget=budget), resume=True
    )
    made = learn_config(config, WHERE)
    for field in dataclasses.fields(LearnSettings):
        assert getattr(made, field.name) == getattr(config, field.name)
    assert made.reward == WHERE.scores
    assert made.shaped
    sparse = learn_config(dataclasses.replace(config, reward=""), WHERE)
    assert sparse.reward == ""
    assert not sparse.shaped


def test_the_actors_get_every_setting_they_share() -> None:
    act = ActSettings(
        operator="keyboard",
        teleop="pad.yaml",
        intervention=InterventionConfig(trigger=Trigger.MOTION),
        priority="nice",
        ring_mb=3,
    )
    config = TrainConfig(bench_overrides=["--robot.scene=Reach"], plugins=["json"], explore=False, act=act)
    (made,) = act_configs(config, WHERE)
    for field in dataclasses.fields(ActSettings):
        assert getattr(made, field.name) == getattr(act, field.name)
    assert not made.explore
    assert (made.bench_overrides, made.plugins) == (config.bench_overrides, config.plugins)
    specs = train_specs(config, WHERE, learner_specs(learn_config(config, WHERE), FORM))
    assert [spec.name for spec in specs][:4] == ["control-arm", "inference-arm", "io-arm", "teleop-arm"]


def test_every_process_that_reads_a_network_has_the_time_that_the_largest_one_takes() -> None:
    config = TrainConfig(bench_overrides=["--robot.scene=Reach"], reward="brightness")
    specs = train_specs(config, WHERE, learner_specs(learn_config(config, WHERE), FORM))
    patient = {spec.name for spec in specs if spec.start_s >= 600.0}
    assert patient == {"inference-arm", "trainer", "serve"}


JUDGED = ["--outcome=judge"]
GRADES = LabelConfig(verdict="terminal01")


@pytest.mark.parametrize(
    ("bench", "reward", "labels", "live", "watched", "stops"),
    [
        (JUDGED, "brightness", LabelConfig(), LiveConfig(), True, True),
        ([], "brightness", LabelConfig(), LiveConfig(), False, None),
        (JUDGED, "", LabelConfig(), LiveConfig(), False, None),
        (JUDGED, "brightness", GRADES, LiveConfig(), False, None),
        (JUDGED, "brightness", LabelConfig(), LiveConfig(use="never"), False, None),
        # To be told of an arm that is stuck.
        (JUDGED, "brightness", LabelConfig(), LiveConfig(stops=False), False, None),
        (JUDGED, "brightness", LabelConfig(), LiveConfig(stops=False, use="always"), True, False),
        ([], "brightness", LabelConfig(), LiveConfig(use="always"), True, True),
        (JUDGED, "brightness", GRADES, LiveConfig(use="always"), True, False),
    ],
)
def test_the_arm_is_watched_live_where_the_word_of_the_reward_model_is_the_verdict(
    bench: list[str],
    reward: str,
    labels: LabelConfig,
    live: LiveConfig,
    watched: bool,
    stops: bool | None,
) -> None:
    references = ReferencesConfig(path="demos", frames=3)
    act = ActSettings(live=dataclasses.replace(live, stale_s=3.0))
    config = TrainConfig(
        bench_overrides=bench, reward=reward, labels=labels, references=references, act=act, actors=2
    )
    for made in act_configs(config, WHERE):
        assert made.live.on is watched
        assert made.live.stale_s == 3.0
        if watched:
            assert (made.live.server, made.live.references) == (WHERE.scores, references)
            assert made.live.stops is stops
    names = [spec.name for spec in train_specs(config, WHERE, [])]
    assert ("live-arm0" in names, "live-arm1" in names) == (watched, watched)


def test_another_server_that_watches_live_keeps_its_own_settings_and_ends_no_graded_episode() -> None:
    live = LiveConfig(server="tcp://127.0.0.1:7", model="fast")
    config = TrainConfig(
        bench_overrides=JUDGED, reward="brightness", labels=GRADES, act=ActSettings(live=live)
    )
    (made,) = act_configs(config, WHERE)
    assert made.live == dataclasses.replace(live, stops=False)


def test_a_live_watch_is_not_asked_of_a_reward_model_that_is_not_there() -> None:
    config = TrainConfig(act=ActSettings(live=LiveConfig(use="always")))
    with pytest.raises(ConfigError, match="no reward server to watch"):
        act_configs(config, WHERE)


def test_one_device_takes_over_one_arm() -> None:
    with pytest.raises(ConfigError, match="one arm"):
        TrainConfig(act=ActSettings(teleop="pad.yaml"), actors=2)


def stub_bench(folder: Path) -> Path:
    bench = folder / "bench.yaml"
    bench.write_text(
        "robot: {type: stub}\nmodel: so101_sim\ntask: wait\nmax_steps: 5\nif_control_dies: nothing moves\n"
        "cameras: {front: {height_px: 240, width_px: 320}}\n"
    )
    return bench


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("leadr.yaml", r"cannot be opened.*leadr\.yaml"),
        ("leader.yaml", r"not there.*nothing\..*correct port"),
    ],
)
def test_a_device_that_is_not_there_is_missed_before_anything_is_prepared(
    tmp_path: Path, file: str, said: str
) -> None:
    (tmp_path / "leader.yaml").write_text(f"type: so101_leader\nport: {tmp_path}/nothing\nid: leader\n")
    missing = ActSettings(teleop=str(tmp_path / file))
    with pytest.raises(ConfigError, match=said):
        run_training(TrainConfig(run=tmp_path / "run", act=missing))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=said):
        run_actor(ActConfig(run=tmp_path / "run", policy=tmp_path, teleop=missing.teleop))
    assert not (tmp_path / "run").exists()


def test_two_actors_do_not_drive_one_physical_arm(tmp_path: Path) -> None:
    bench = stub_bench(tmp_path)
    plugins = ["roborl.testing.config_stub_robot"]
    config = TrainConfig(bench=str(bench), plugins=plugins, run=tmp_path / "run", actors=2)
    with pytest.raises(ConfigError, match=r"one physical arm.*actors=2.*roborl act --actor NAME"):
        run_training(config)
    assert not config.run.exists()
    require_arms(dataclasses.replace(config, actors=1), load_bench(str(bench), plugins=plugins))
    require_arms(TrainConfig(actors=2), load_bench("so101_sim"))


@pytest.mark.parametrize(("before", "now"), [(1, 2), (3, 2)])
def test_a_run_goes_on_with_as_many_actors_as_it_began_with(tmp_path: Path, before: int, now: int) -> None:
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    began = TrainConfig(run=run.root, actors=before)
    keep_settings(run.settings("train"), began)
    keep_settings(run.learner, learn_config(began, WHERE))
    with pytest.raises(
        ConfigError, match=rf"as many actors.*actors={now}.*Allowed: {before}\..*--actors {before}"
    ):
        run_training(dataclasses.replace(began, actors=now, resume=True))
    require_actors(run.settings("train"), began)
    require_actors(tmp_path / "none.yaml", began)


def test_a_bench_of_a_plugin_is_known_to_the_learner_too(tmp_path: Path) -> None:
    bench = stub_bench(tmp_path)
    script = (
        "from roborl.loops.learner.learn import form_of; from roborl.loops.learner.learn_config import LearnConfig; "
        f"print(form_of(LearnConfig(bench={str(bench)!r}, plugins=['roborl.testing.config_stub_robot'])).task)"
    )
    # In a process of its own: here the stub may be known already.
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "wait", done.stderr


def test_processes_end_with_the_arms_first_and_the_judge_last() -> None:
    config = TrainConfig(actors=2, reward="brightness")
    specs = train_specs(config, WHERE, learner_specs(learn_config(config, WHERE), FORM))
    assert [spec.name for spec in specs] == [
        *("control-arm0", "inference-arm0", "io-arm0", "control-arm1", "inference-arm1", "io-arm1"),
        *("trainer", "labeller", "store", "serve"),
    ]
    assert [spec.name for spec in specs if not spec.lasting] == ["control-arm0", "control-arm1"]


def test_a_large_reward_model_has_minutes_to_load_in_the_run_as_at_its_gate() -> None:
    (serve,) = (spec for spec in train_specs(TrainConfig(reward="model"), WHERE, []) if spec.name == "serve")
    assert serve.start_s >= 600.0


def test_without_a_reward_model_nobody_labels() -> None:
    config = TrainConfig()
    specs = train_specs(config, WHERE, learner_specs(learn_config(config, WHERE), FORM))
    assert [spec.name for spec in specs] == ["control-arm", "inference-arm", "io-arm", "trainer", "store"]


def test_addresses_are_short_enough_stable_and_of_one_run_alone(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 90) / ("y" * 90)
    where, other = addresses(deep), addresses(tmp_path)
    assert len(where.weights) < 108
    assert addresses(deep) == where
    assert {where.steps, where.weights, where.scores}.isdisjoint({other.steps, other.weights, other.scores})


def test_counts_of_an_earlier_run_in_a_folder_of_the_same_name_are_forgotten(tmp_path: Path) -> None:
    config = TrainConfig(run=tmp_path)
    left = shared_folder(tmp_path, "arm") / "control.status"
    left.write_bytes(b"150 episodes")
    forget_earlier_run(config, WHERE)
    assert not left.exists()


def test_counts_that_memory_has_lost_are_recalled_from_the_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two episodes of each arm and one that is open; the first arm's counts are gone, as after a restart of the machine."""
    config = TrainConfig(run=tmp_path, episodes=9, actors=2)
    store = StoreSpec(
        cameras=CAMERAS,
        image_px=8,
        state_dim=STATE_DIM,
        action_dim=ACTION_DIM,
        max_steps=6,
        capacity_bytes=1 << 19,
    )
    keys = [
        EpisodeKey(actor=actor, incarnation=1, episode=n)
        for n, actor in enumerate(("arm0", "arm1", "arm0", "arm1", "arm0"))
    ]
    records = [record for key in keys for record in episode_records(key, 5)][:-1]
    with Store(RunFolder(tmp_path).store, store) as opened:
        for sequence, record in enumerate(records, start=1):
            opened.ingest("ring", sequence, join(pack_record(record)))
    kept = StatusSlot(shared_folder(tmp_path, "arm1"), "control")
    kept["begun"], kept["episodes"] = 4, 3
    recall_earlier_episodes(config, WHERE)
    recalled = StatusSlot(shared_folder(tmp_path, "arm0"), "control")
    assert (recalled["begun"], recalled["episodes"]) == (3, 3)
    assert recalled["steps"] == 15
    assert (kept["begun"], kept["episodes"]) == (4, 3)
    assert "has all" not in caplog.text
    recall_earlier_episodes(dataclasses.replace(config, episodes=6), WHERE)
    assert "has all of its 6 episodes" in caplog.text
    forget_earlier_run(config, WHERE)


def test_before_the_first_start_there_is_nothing_to_recall(tmp_path: Path) -> None:
    config = TrainConfig(run=tmp_path)
    recall_earlier_episodes(config, WHERE)
    assert StatusSlot(shared_folder(tmp_path, "arm"), "control")["begun"] == 0
    forget_earlier_run(config, WHERE)


@pytest.mark.parametrize("made", [LearnConfig(), TrainConfig(episodes=3)])
def test_the_resolved_configuration_reads_back_equal(tmp_path: Path, made: LearnSettings) -> None:
    path = tmp_path / "resolved.yaml"
    path.write_text(configuration.dump(made))
    assert configuration.load(type(made), path) == made
