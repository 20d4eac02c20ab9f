"""Bad input to whole commands: each is told in four parts, and costs nothing that was there."""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from roborl.cli.main import main
from roborl.codec import join
from roborl.data.log import read_ordinal
from roborl.data.reader import StoreReader
from roborl.data.store import Store
from roborl.envs.bench import load_bench
from roborl.errors import ConfigError, DatasetError, HandshakeMismatch, ModelLoadError, RoborlError, WireError
from roborl.learning.cloning_data import _check_weights
from roborl.learning.weighted import WeightedConfig
from roborl.loops.actor.act_config import ActConfig
from roborl.loops.actor.control_process import main as control_main
from roborl.loops.actor.inference import policy_maker
from roborl.loops.demonstrations import DemosConfig, bench_demos
from roborl.loops.failed_episodes import verdicts
from roborl.loops.learner.learn import prepare
from roborl.loops.learner.learn_config import LearnConfig, ShapingConfig
from roborl.loops.learner.replay import MixConfig
from roborl.loops.learner.store import DemoImport
from roborl.loops.supervise import Child
from roborl.loops.train_config import TrainConfig
from roborl.loops.watch_sources import open_source
from roborl.policies.small import SmallPolicy, SmallPolicyConfig
from roborl.records import pack_record
from roborl.rewards.registry import load_reward_model
from roborl.serving.handshake import PROTOCOL_VERSION, Handshake
from roborl.serving.weights_publisher import WeightsPublisher
from roborl.testing.episodes import lerobot_recording, random_episode, write_episodes
from roborl.testing.experience import (
    check_arrival,
    episode_records,
    store_spec,
)
from roborl.types import EpisodeKey

SPEC = store_spec(max_steps=6, capacity_bytes=1 << 19)
KEYS = [EpisodeKey(actor="arm", incarnation=1, episode=n) for n in range(3)]
STEPS = 5


def told[E: RoborlError](kind: type[E], act: Callable[[], object]) -> E:
    """Return the error of an action, which must have all four parts."""
    with pytest.raises(kind) as caught:
        act()
    error = caught.value
    assert error.problem
    assert error.seen is not None
    assert error.allowed is not None
    assert error.remedy
    return error


def fill(root: Path) -> None:
    """Store two episodes sealed, and a third one that is still open."""
    records = [record for key in KEYS for record in episode_records(key, STEPS)][:-1]
    with Store(root, SPEC) as store:
        for sequence, record in enumerate(records, start=1):
            store.ingest("ring", sequence, join(pack_record(record)))
        assert store.wait_sealed(20)


def check_whole(root: Path) -> None:
    reader = StoreReader(root)
    assert [info.key for info in reader.episodes()] == KEYS
    for key in KEYS:
        arrivals = list(reader.arrivals(key))
        assert [arrival.index for arrival in arrivals] == list(range(STEPS + 1))
        for arrival in arrivals:
            check_arrival(arrival)


def test_a_camera_that_the_robot_does_not_have(tmp_path: Path) -> None:
    bench = tmp_path / "bench.yaml"
    bench.write_text(
        "robot: {type: stub}\nmodel: so101_sim\ntask: wait\nmax_steps: 5\nif_control_dies: nothing moves\n"
        "cameras:\n  front: {height_px: 240, width_px: 320}\n  ceiling: {height_px: 240, width_px: 320}\n"
    )
    config = ActConfig(bench=str(bench), plugins=["roborl.testing.config_stub_robot"], run=tmp_path / "run")
    error = told(ConfigError, lambda: control_main(Child("control", None, ctypes.c_int64(0)), config))
    assert "ceiling" in str(error.seen)
    assert "front" in str(error.allowed)


def test_a_dataset_whose_actions_have_another_size_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    fill(tmp_path / "store")
    bench = load_bench("so101_sim", ["--robot.scene=Reach"])
    lerobot_recording(tmp_path / "data", [5], fps=10)
    config = DemosConfig(path=str(tmp_path / "data"), actions="bench")
    with Store(tmp_path / "store", SPEC) as store:
        error = told(
            ConfigError,
            lambda: DemoImport("data", lambda: bench_demos(config, bench), store, tmp_path / "marker"),
        )
    assert str(error.seen).startswith("6")
    assert error.allowed == 4
    assert not (tmp_path / "marker").exists()
    check_whole(tmp_path / "store")


def test_a_policy_of_another_arm(tmp_path: Path) -> None:
    shape = SmallPolicyConfig(cameras=("front",), image_px=64, state_dim=9, action_dim=7)
    SmallPolicy(shape).save(tmp_path / "policy")
    error = told(
        ConfigError, lambda: prepare(LearnConfig(run=tmp_path / "run", policy=str(tmp_path / "policy")))
    )
    assert (error.seen, error.allowed) == (7, 4)


def test_a_policy_taken_for_a_reward_model(tmp_path: Path) -> None:
    SmallPolicy(SmallPolicyConfig(cameras=(), image_px=64, state_dim=9, action_dim=4)).save(tmp_path)
    told(ModelLoadError, lambda: load_reward_model(str(tmp_path)))


@pytest.mark.parametrize("damage", ["missing", "torn", "foreign", "fields", "not finite", "other shape"])
def test_a_policy_folder_that_is_none(tmp_path: Path, damage: str) -> None:
    policy = SmallPolicy(SmallPolicyConfig(cameras=(), image_px=64, state_dim=9, action_dim=4))
    if damage == "not finite":
        with torch.no_grad():
            next(policy.actor.parameters()).fill_(torch.nan)
    policy.save(tmp_path)
    weights, described = tmp_path / "policy.safetensors", tmp_path / "policy.json"
    fields = json.loads(described.read_text())
    match damage:
        case "missing":
            weights.unlink()
        case "torn":
            weights.write_bytes(weights.read_bytes()[:-7])
        case "foreign":
            described.write_text(json.dumps(fields | {"kind": "act"}))
        case "fields":
            described.write_text(json.dumps({"kind": "small", "layers": 3}))
        case "other shape":
            described.write_text(json.dumps(fields | {"state_dim": 8}))
    told(ModelLoadError, lambda: SmallPolicy.load(tmp_path))


@pytest.mark.parametrize(
    ("act", "remedy"),
    [
        (lambda: verdicts([3], 3), "numbers"),
        (lambda: MixConfig(final=0.9), "--mix"),
        (lambda: MixConfig().shares(1.0), "demo_fraction"),
        (lambda: WeightedConfig(temperature=0.0), "--weighted"),
        (lambda: ShapingConfig(doubt=0.0), "--shaping.doubt"),
        (lambda: ActConfig(actor="left arm"), "--actor"),
        (lambda: policy_maker(ActConfig(policy_factory="nowhere:f")), "spelling"),
        (lambda: TrainConfig(actors=3, episodes=2), "--episodes"),
        (lambda: _check_weights([], [np.zeros(1, np.float32)]), "--demos.weights"),
    ],
)
def test_settings_that_cannot_be_used_are_told_with_what_to_do(
    act: Callable[[], object], remedy: str
) -> None:
    assert remedy in told(RoborlError, act).remedy


def test_another_protocol_version() -> None:
    ours, theirs = Handshake(), Handshake.from_wire({"protocol": PROTOCOL_VERSION + 1})
    error = told(HandshakeMismatch, lambda: ours.check(theirs, peer="the learner"))
    assert str(PROTOCOL_VERSION + 1) in str(error.seen)
    assert str(PROTOCOL_VERSION) in str(error.allowed)


def test_weights_that_are_not_finite() -> None:
    publisher = WeightsPublisher("tcp://127.0.0.1:*", handshake=Handshake())
    try:
        told(WireError, lambda: publisher.publish(1, {"w": np.array([1.0, np.nan], np.float32)}))
    finally:
        publisher.close()
    policy = SmallPolicy(SmallPolicyConfig(cameras=(), image_px=64, state_dim=9, action_dim=4))
    before = {name: tensor.clone() for name, tensor in policy.actor.state_dict().items()}
    bad = {name: np.full(tensor.shape, np.inf, np.float32) for name, tensor in before.items()}
    told(ModelLoadError, lambda: policy.load_actor(bad, 2))
    assert policy.version == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.actor.state_dict().items())


def test_the_command_line_tells_misuse_from_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["act", "--bench", "no_such_bench"]) == 2
    assert main(["evaluate", "--policy", str(tmp_path), "--scene", "Reach"]) == 1
    assert main(["bench", "nothing"]) == 2
    words = capsys.readouterr().err
    assert all(part in words for part in ("Found:", "Allowed:", "no_such_bench", "so101_sim"))


@pytest.mark.parametrize(
    "command",
    [
        "train-reward --dataset blind --out out",
        "train-reward --model perceptual --dataset blind --out out",
        "train-reward --model pairs --dataset blind --out out",
        "bench-reward --model brightness --dataset blind --out out",
        "bench-reward --model brightness --dataset seen --references.path blind --out out",
        "annotate --dataset blind --page out.html --stages [reach]",
        "annotate --dataset blind --propose 2",
        "label --dataset blind --reward brightness",
        "watch blind --reward_model brightness",
        "relabel --source blind --out out",
    ],
)
def test_a_dataset_without_pictures_where_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    write_episodes(tmp_path / "blind", random_episode(1, images={}, provenance=None))
    if "seen" in command:
        write_episodes(tmp_path / "seen", random_episode(1))
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 1
    said = capsys.readouterr().err
    assert "The dataset has no cameras. Found: " in said
    assert "blind" in said
    assert "Allowed: a camera or more" in said
    assert "Record it again" in said


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filled") / "store"
    fill(root)
    return root


TORN = [
    *("store.json", "sequences.json", "last_ordinal", "store.zarr/zarr.json"),
    *("arena/layout.json", "arena/boot", "arena/episodes.table", "arena/state.f32"),
    *(f"store.zarr/{KEYS[0]}/{part}" for part in ("zarr.json", "state/zarr.json", "state/c/0/0")),
    f"store.zarr/{KEYS[0]}/frames/front/c/0/0/0/0",
    *(f"logs/{name}.log" for name in (KEYS[2], "late")),
]
REFUSED = {
    "store.json",
    *(f"store.zarr/{KEYS[0]}/{part}" for part in ("zarr.json", "state/zarr.json", "state/c/0/0")),
    f"store.zarr/{KEYS[0]}/frames/front/c/0/0/0/0",
}


@pytest.mark.parametrize("name", TORN)
@pytest.mark.parametrize("share", [0.0, 0.4, 0.99])
def test_a_store_with_a_torn_file_recovers_or_says_so(
    filled: Path, tmp_path: Path, name: str, share: float
) -> None:
    """What can be made again is; a torn log keeps its whole steps; a torn recording is refused, the others stay."""
    root = tmp_path / "torn"
    shutil.copytree(filled, root)
    whole = (root / name).read_bytes()
    (root / name).write_bytes(whole[: int(share * len(whole))])
    if name in REFUSED:
        error = told(DatasetError, lambda: (Store(root, SPEC).close(), check_whole(root)))
        assert str(root) in str(error.seen)
        (root / name).write_bytes(whole)
    with Store(root, SPEC) as store:
        assert store.last_sequence("ring") == 3 * (STEPS + 3) - 1
    if name.endswith(f"{KEYS[2]}.log"):
        kept = list(StoreReader(root).arrivals(KEYS[2])) if share else []
        for place, arrival in enumerate(kept):
            assert arrival.index == place
            check_arrival(arrival)
        assert len(kept) < STEPS + 1
        return
    check_whole(root)


def test_a_log_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "late.log").write_bytes(b"x" * 100)
    told(DatasetError, lambda: read_ordinal(tmp_path / "late.log"))


def test_a_video_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "front.mp4").write_bytes(b"")
    told(DatasetError, lambda: list(open_source(str(tmp_path / "front.mp4"), rate_hz=0.0).read()))
