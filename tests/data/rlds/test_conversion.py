"""An RLDS episode becomes T steps and T + 1 observations, with no action that nobody took."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.oxe import known_dataset, known_datasets
from roborl.data.rlds.conversion import convert, tasks_of, verdict_of
from roborl.data.rlds.dataset import RldsDataset
from roborl.data.rlds.episode import RldsEpisode
from roborl.data.rlds.mapping import RldsMapping, map_features
from roborl.errors import ConfigError, DatasetError
from roborl.testing.rlds import example, rlds_episode, write_rlds
from roborl.types import EndCause


def written(tmp_path: Path, *episodes: dict[str, Any], name: str = "viola") -> RldsDataset:
    return RldsDataset(write_rlds(tmp_path / name / "1.0.0", episodes))


def first(dataset: RldsDataset, **options: Any) -> DatasetEpisode:
    mapping = map_features(dataset.info, **options)
    episode = convert(dataset.episode(0), mapping, cameras=list(mapping.cameras), index=3)
    assert episode is not None
    return episode


def test_the_last_step_is_there_for_its_observation(tmp_path: Path) -> None:
    one = rlds_episode(1, steps=4)
    steps = one["steps"]
    steps["action"][-1] = 1e9
    found = first(written(tmp_path, one))
    assert (found.steps, found.success, found.end, found.repeated_last) == (4, True, EndCause.SUCCESS, False)
    assert (found.task, found.index) == ("put the cube in bowl 1", 3)
    np.testing.assert_array_equal(found.action, steps["action"][:4])
    np.testing.assert_array_equal(found.state, steps["observation"]["state"])
    np.testing.assert_array_equal(found.images["image"], steps["observation"]["image"])
    assert found.reward.tolist() == [0, 0, 0, 1], "the 1 of a demonstration stands on the last step"


def test_a_demonstration_that_says_nothing_of_rewards_has_one_at_its_end(tmp_path: Path) -> None:
    assert first(written(tmp_path, rlds_episode(0, steps=3, reward=None))).reward.tolist() == [0, 0, 1]
    zeros = rlds_episode(0, steps=3, reward=np.zeros(4, np.float32))
    assert first(written(tmp_path / "b", zeros)).reward.tolist() == [0, 0, 1]


def test_an_episode_that_was_cut_loses_its_last_action(tmp_path: Path) -> None:
    cut = rlds_episode(0, steps=4, is_last=np.zeros(5, bool))
    dataset = written(tmp_path, cut)
    found = first(dataset)
    assert (found.steps, found.success, found.end, found.repeated_last) == (
        4,
        None,
        EndCause.TIME_LIMIT,
        False,
    )
    assert found.reward.tolist() == [0, 0, 0, 0], "what the lost action earned is lost with it"
    told = convert(dataset.episode(0), map_features(dataset.info), cameras=["image"], success=True)
    assert told is not None
    assert (told.steps, told.end, told.repeated_last) == (5, EndCause.SUCCESS, True)
    np.testing.assert_array_equal(told.images["image"][-1], told.images["image"][-2])
    assert told.reward[-1] == 1


@pytest.mark.parametrize("said", [True, False])
def test_what_the_dataset_says_of_the_outcome_counts(said: bool, tmp_path: Path) -> None:
    kuka = written(tmp_path, rlds_episode(0) | {"success": np.array(said)}, name="kuka")
    assert first(kuka).success is said
    assert first(kuka).end is (EndCause.SUCCESS if said else EndCause.FAILURE)
    path = f"/data/{'success' if said else 'failure'}/0.h5"
    droid = written(tmp_path, rlds_episode(0) | {"episode_metadata": {"file_path": path}}, name="droid")
    assert first(droid, images=["image"]).success is said
    own = written(tmp_path, rlds_episode(0) | {"success": np.array(said)}, name="desk")
    assert first(own, rate_hz=5).success is said


def test_of_an_unknown_dataset_a_reward_is_a_success_and_none_is_no_verdict(tmp_path: Path) -> None:
    assert first(written(tmp_path, rlds_episode(0), name="desk"), rate_hz=5).success is True
    silent = rlds_episode(0, steps=4, reward=np.zeros(5, np.float32))
    found = first(written(tmp_path, silent, name="other"), rate_hz=5)
    assert (found.success, found.end, float(found.reward.sum())) == (None, EndCause.TIME_LIMIT, 0.0)


def test_the_first_action_of_bridge_is_none_and_left_out(tmp_path: Path) -> None:
    one = rlds_episode(0, steps=4)
    one["steps"]["action"][0] = [1e-10, 0, 0, -2e-7, 0, 0, 1]
    still = first(written(tmp_path, one, name="bridge"))
    np.testing.assert_array_equal(still.action, one["steps"]["action"][1:4])
    np.testing.assert_array_equal(still.images["image"], one["steps"]["observation"]["image"][1:])
    moving = first(written(tmp_path / "b", rlds_episode(0, steps=4), name="bridge"))
    assert (moving.steps, still.steps) == (4, 3)
    elsewhere = first(written(tmp_path / "c", one))
    assert elsewhere.steps == 4, "only where it is known to mean nothing"


@pytest.mark.parametrize(
    ("name", "gripper", "values"),
    [
        ("bridge", "open_gripper", np.arange(5) < 2),
        ("toto", "open_gripper", np.arange(5) < 2),
        ("kuka", "gripper_closedness_action", np.ones((5, 1), np.float32)),
    ],
)
def test_the_parts_of_a_known_action_stand_in_order_the_gripper_last(
    tmp_path: Path, name: str, gripper: str, values: np.ndarray
) -> None:
    rng = np.random.default_rng(1)
    motion = {part: rng.normal(size=(5, 3)).astype(np.float32) for part in ("rotation_delta", "world_vector")}
    action = {gripper: values, **motion, "terminate_episode": np.zeros(5, np.float32)}
    found = first(written(tmp_path, rlds_episode(0, steps=4, action=action), name=name))
    wanted = np.column_stack([motion["world_vector"], motion["rotation_delta"], values])
    np.testing.assert_array_equal(found.action, wanted[:4].astype(np.float32))


def test_the_gripper_of_bc_z_is_not_lost(tmp_path: Path) -> None:
    ahead = np.zeros((7, 30), np.float32)
    action = {"future/xyz_residual": ahead, "future/axis_angle_residual": ahead}
    action |= {
        "future/target_close": np.ones((7, 10), np.int64),
        "terminate_episode": np.zeros((7, 3), np.int32),
    }
    found = first(written(tmp_path, rlds_episode(0, action=action), name="bc_z"))
    assert found.action.shape == (6, 70)
    assert (found.action[:, 60:] == 1).all()


def test_of_an_action_in_parts_the_gripper_alone_may_move_in_a_still_start(tmp_path: Path) -> None:
    still = np.zeros((5, 3), np.float32)
    action = {"world_vector": still.copy(), "rotation_delta": still.copy(), "open_gripper": np.ones(5, bool)}
    assert first(written(tmp_path, rlds_episode(0, steps=4, action=action), name="bridge")).steps == 3
    action["world_vector"][0, 2] = 0.1
    moving = written(tmp_path / "b", rlds_episode(0, steps=4, action=action), name="bridge")
    assert first(moving).steps == 4, "the last dimension of a part is no gripper"


def test_blue_and_red_of_one_dataset_are_swapped_back(tmp_path: Path) -> None:
    one = rlds_episode(0)
    name = "nyu_rot_dataset_converted_externally_to_rlds"
    found = first(written(tmp_path, one, name=name)).images["image"]
    np.testing.assert_array_equal(found, one["steps"]["observation"]["image"][..., ::-1])


def test_parts_of_state_and_action_are_put_side_by_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    action = {
        "world_vector": rng.normal(size=(5, 3)).astype(np.float32),
        "gripper": rng.normal(size=5).astype(np.float32),
        "terminate_episode": np.zeros(5, np.float32),
        "open": np.arange(5) < 2,
        "mode": np.arange(5, dtype=np.int64),
        "name": ["go"] * 5,
    }
    observation = {
        "rgb_gripper": rng.integers(9, 99, (5, 8, 8, 3), np.uint8),
        "rgb_static": rng.integers(9, 99, (5, 8, 8, 3), np.uint8),
        "pose": rng.normal(size=(5, 7)).astype(np.float32),
        "closed": rng.normal(size=(5, 1)).astype(np.float32),
        "natural_language_embedding": rng.normal(size=(5, 16)).astype(np.float32),
        "seen": rng.normal(size=(5, 900)).astype(np.float32),
    }
    dataset = written(tmp_path, rlds_episode(0, steps=4, action=action, observation=observation), name="desk")
    mapping = map_features(dataset.info, rate_hz=4)
    assert mapping.action_names == (
        "action_gripper",
        "action_mode",
        "action_open",
        "action_world_vector_0",
        "action_world_vector_1",
        "action_world_vector_2",
    )
    assert mapping.unused_action == ("steps/action/name", "steps/action/terminate_episode")
    assert mapping.state == ("steps/observation/closed", "steps/observation/pose")
    assert list(mapping.cameras) == ["rgb_static", "rgb_gripper"], "the view from outside first"
    found = first(dataset, rate_hz=4)
    parts = [action[name] for name in ("gripper", "mode", "open", "world_vector")]
    np.testing.assert_array_equal(found.action, np.column_stack(parts)[:4].astype(np.float32))
    assert found.state.shape == (5, 8)


def test_the_task_is_the_first_that_is_not_empty(tmp_path: Path) -> None:
    words = {"language_instruction": [""] * 7, "language_instruction_2": [""] + ["  open \n it "] * 6}
    dataset = written(tmp_path, rlds_episode(0, **words), name="droid")
    assert tasks_of(dataset.episode(0), map_features(dataset.info, images=["image"])) == ("open it",)
    letters = np.zeros((7, 12), np.int32)
    letters[:, :7] = [*map(ord, "push it")]
    observation = {"instruction": letters, "rgb": np.ones((7, 4, 4, 3), np.uint8)}
    table = written(tmp_path, rlds_episode(0, observation=observation), name="language_table")
    assert first(table).task == "push it"
    assert first(table, instruction="language_instruction").task == "put the cube in bowl 0"
    silent = written(tmp_path, rlds_episode(0, language_instruction=None), name="viola")
    assert first(silent).task == ""


def test_what_nobody_knows_has_to_be_said(tmp_path: Path) -> None:
    info = written(tmp_path, rlds_episode(0), name="desk").info
    with pytest.raises(ConfigError, match=r"How many observations a second.*desk.*Say it with rate_hz"):
        map_features(info)
    with pytest.raises(ConfigError, match="How many observations a second"):
        map_features(info, rate_hz=-1)
    with pytest.raises(DatasetError, match=r"no such feature\. Found: top\. Allowed: .*steps/action"):
        map_features(info, rate_hz=5, images=["top"])
    with pytest.raises(
        DatasetError, match=r"no such pictures\. Found: .*state.*Allowed: \['image', 'wrist_image'\]"
    ):
        map_features(info, rate_hz=5, images=["state"])
    with pytest.raises(DatasetError, match="no such feature"):
        map_features(info, rate_hz=5, instruction="words")
    blind = written(tmp_path, rlds_episode(0, observation={"state": np.ones((7, 2), np.float32)}), name="b")
    with pytest.raises(DatasetError, match="has no pictures"):
        map_features(blind.info, rate_hz=5)
    idle = written(tmp_path, rlds_episode(0, action=None), name="c")
    with pytest.raises(DatasetError, match="has no action"):
        map_features(idle.info, rate_hz=5)


def test_an_episode_without_a_step_is_none(tmp_path: Path) -> None:
    dataset = written(tmp_path, rlds_episode(0), rlds_episode(0, steps=0), rlds_episode(0, steps=-1))
    mapping = map_features(dataset.info)
    for place, count in ((1, 1), (2, 0)):
        record = dataset.episode(place)
        assert record.count == count
        assert convert(record, mapping, cameras=list(mapping.cameras)) is None
    assert verdict_of(record, mapping) is None, "of no observation at all nobody says what it showed"


def test_a_reward_that_is_a_vector_of_one_counts_and_a_wider_one_is_told(tmp_path: Path) -> None:
    reward = np.array([[0], [0.5], [0], [1]], np.float32)
    assert first(written(tmp_path, rlds_episode(0, steps=3, reward=reward))).reward.tolist() == [0, 0.5, 1]
    wide = written(tmp_path / "b", rlds_episode(0, steps=3, reward=np.zeros((4, 2), np.float32)))
    with pytest.raises(DatasetError, match=r"not have one reward each\. Found: steps/reward \(4, 2\)"):
        first(wide)


def test_pictures_of_several_sizes_in_an_episode_are_told(tmp_path: Path) -> None:
    one = rlds_episode(0, steps=2)
    root = write_rlds(tmp_path / "viola" / "1.0.0", [one])
    features = root / "features.json"
    features.write_text(features.read_text().replace('["16", "20", "3"]', '["-1", "-1", "3"]'))
    flat = {name: one["steps"][name] for name in ("is_last", "action")}
    sizes = [np.zeros((8, 8 + t, 3), np.uint8) for t in range(3)]
    pictures = [cv2.imencode(".png", picture)[1].tobytes() for picture in sizes]
    record = example(
        {f"steps/{n}": v for n, v in flat.items()}
        | {
            "steps/observation/image": pictures,
            "steps/observation/state": one["steps"]["observation"]["state"],
        }
    )
    dataset = RldsDataset(root)
    episode = RldsEpisode(record, dataset.info.features, "it")
    with pytest.raises(DatasetError, match=r"differ in size\. Found: \[\(8, 8, 3\), .*image"):
        convert(episode, map_features(dataset.info), cameras=["image"])


SMALL = {"image": np.full((3, 2, 2, 3), 50, np.uint8), "state": np.ones((3, 1), np.float32)}
FUZZED = rlds_episode(0, steps=2, observation=SMALL, language_embedding=None)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> RldsDataset:
    return RldsDataset(write_rlds(tmp_path_factory.mktemp("fuzz") / "viola" / "1.0.0", [FUZZED]))


@settings(max_examples=60)
@given(changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4))
def test_nothing_but_our_error_leaves_a_damaged_episode(
    fuzzed: RldsDataset, changes: list[tuple[int, int]]
) -> None:
    steps = {f"steps/{n}": v for n, v in FUZZED["steps"].items() if n != "observation"}
    pictures = [cv2.imencode(".png", picture)[1].tobytes() for picture in SMALL["image"]]
    seen = {"steps/observation/image": pictures, "steps/observation/state": SMALL["state"]}
    record = bytearray(example({**steps, **seen}))
    for place, byte in changes:
        record[place % len(record)] = byte
    mapping = map_features(fuzzed.info)
    with contextlib.suppress(DatasetError):
        convert(RldsEpisode(bytes(record), fuzzed.info.features, "it"), mapping, cameras=["image"])


def test_the_table_of_datasets_is_whole_and_found_by_ports_names() -> None:
    table = known_datasets()
    assert len(table) > 40
    assert {name for name, facts in table.items() if facts.bgr} == {
        "nyu_rot_dataset_converted_externally_to_rlds"
    }
    assert known_dataset("fractal20220817_data_lerobot") is table["fractal20220817_data"]
    assert known_dataset("austin_sirius") is table["austin_sirius_dataset_converted_externally_to_rlds"]
    assert known_dataset("desk") is None


def test_real_episodes_of_bridge_are_read(bridge_data: Path) -> None:
    dataset = RldsDataset(bridge_data, strict=True)
    mapping: RldsMapping = map_features(dataset.info)
    found = [convert(dataset.episode(i), mapping, cameras=["image_0"]) for i in range(len(dataset))]
    assert len(found) == 25
    assert {e.task for e in found if e} == {
        "put cup from counter or drying rack into sink",
        "flip pot upright which is in sink",
        "turn lever vertical to front",
        "put carrot on plate",
    }
    # Cut to ten steps, of which the first is no motion and the last has nothing after it.
    assert {(e.steps, e.success, e.images["image_0"].shape) for e in found if e} == {
        (8, None, (9, 64, 64, 3))
    }
    assert all(float(np.abs(e.action[0, :-1]).max()) > 1e-4 for e in found if e)
