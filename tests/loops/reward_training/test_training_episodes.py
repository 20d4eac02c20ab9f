"""Episodes for the stage-aware model from videos and datasets: which, how many a second, how large, with which marks."""

import json
import weakref
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from roborl.cli.main import main
from roborl.data.dataset_episode import Subtask
from roborl.data.lerobot_io import read_episodes
from roborl.errors import ConfigError, DatasetError
from roborl.loops.footage import read_footage
from roborl.loops.reward_training import training_episodes
from roborl.loops.reward_training.train_reward import TrainRewardConfig, train_reward
from roborl.loops.reward_training.training_episodes import read_training
from roborl.loops.video import write_video
from roborl.rewards.sarm.checkpoint import load_sarm
from roborl.rewards.training.episodes import TrainingEpisode, label_episode, resize_episode
from roborl.rewards.training.labels import plan_stages
from roborl.testing.episodes import crossing_episode, lerobot_recording, random_episode, write_episodes
from roborl.types import EndCause

FPS, FRAMES = 30, 60


def film(folder, *, frames=FRAMES):
    """Grey that says the time, in two views of different brightness."""
    folder.mkdir(parents=True)
    for name, factor in (("high", 3), ("wrist", 2)):
        pictures = (np.full((48, 64, 3), factor * i, np.uint8) for i in range(frames))
        write_video(folder / f"{name}.mp4", pictures, fps=FPS)
    marks = [("reach", 7, 30), ("place", 30, frames - 2)]
    rows = [{"annotation": n, "start_frame_id": a, "end_frame_id": b} for n, a, b in marks]
    (folder / "annotated_keyframes.json").write_text(json.dumps(rows))
    (folder.parent / "task_instruction.json").write_text('["clear the table", "tidy up"]')


@pytest.fixture
def filmed(tmp_path):
    film(tmp_path / "data" / "one")
    film(tmp_path / "data" / "two", frames=FRAMES + 6)
    return str(tmp_path / "data")


def read(dataset, **wanted):
    episodes, rate_hz = read_training(str(dataset), **wanted)
    return list(episodes.values()), rate_hz


def test_videos_are_thinned_out_and_shrunk_and_their_marks_go_along(filmed):
    episodes, rate_hz = read_training(filmed, rate_hz=5, side_px=16)
    assert rate_hz == 5
    assert list(episodes) == [0, 1]
    one = episodes[0]
    assert {name: rgb.shape for name, rgb in one.images.items()} == {
        "high": (10, 16, 16, 3),
        "wrist": (10, 16, 16, 3),
    }
    assert one.images["high"][:, 8, 8, 0] == pytest.approx(np.arange(5, 60, 6) * 3, abs=4)
    assert one.images["wrist"][:, 8, 8, 0] == pytest.approx(np.arange(5, 60, 6) * 2, abs=4)
    # Frames 5, 11, … 59: "reach" begins with the first one from frame 7 on.
    assert one.subtasks == [("reach", 1, 5), ("place", 5, 9)]
    assert one.state.shape == (10, 0)
    assert (one.task, one.success) == ("clear the table", True)


@given(
    steps=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    before=st.integers(0, 10),
    rate=st.floats(5, 30),
)
def test_marks_of_a_thinned_out_success_stay_in_order_and_only_its_last_observation_is_finished(
    steps, before, rate
):
    edges = np.cumsum([before, *steps]).tolist()
    spans = [(f"stage {i}", a, b) for i, (a, b) in enumerate(pairwise(edges))]
    count = edges[-1] + 1
    episode = TrainingEpisode(
        images={"front": np.zeros((count, 1, 1, 3), np.uint8)},
        state=np.arange(count, dtype=np.float32)[:, None],
        task="t",
        success=True,
        subtasks=spans,
        kind="success",
    )
    assume(count * rate / FPS > len(spans) + 1)
    thinned = training_episodes._thinned(episode, FPS, rate)
    assert thinned.state[-1] == count - 1, "the observation in which the work is done is left out"
    labels = label_episode(thinned, plan_stages([spans]), failure_ceiling=1.0)
    assert [name for name, _, _ in thinned.subtasks] == [name for name, _, _ in spans]
    assert np.flatnonzero(labels.stage == len(spans)).tolist() == [thinned.frames - 1]


def test_without_a_rate_every_frame_is_kept_and_cameras_and_episodes_are_chosen(filmed):
    episodes, rate_hz = read_training(filmed, episodes=[1], cameras=["wrist"])
    assert rate_hz == pytest.approx(FPS)
    assert list(episodes) == [1]
    assert {name: rgb.shape for name, rgb in episodes[1].images.items()} == {"wrist": (66, 48, 64, 3)}
    assert episodes[1].subtasks == [("reach", 7, 30), ("place", 30, 64)]
    with pytest.raises(DatasetError, match=r"lacks a camera.*left.*--camera_map"):
        read_training(filmed, cameras=["left"])
    with pytest.raises(DatasetError, match="no such episodes"):
        read_training(filmed, episodes=[2])


def test_a_dataset_is_thinned_out_in_the_same_way(tmp_path):
    write_episodes(tmp_path / "data", random_episode(0, steps=9), random_episode(1, steps=9))
    (whole,), rate_hz = read(tmp_path / "data", episodes=[1])
    assert rate_hz == 10
    (half,), rate_hz = read(tmp_path / "data", episodes=[1], rate_hz=5)
    assert rate_hz == 5
    assert whole.frames == 10
    assert half.frames == 5
    np.testing.assert_array_equal(half.images["front"], whole.images["front"][1::2])
    np.testing.assert_array_equal(half.state, whole.state[1::2])
    with pytest.raises(DatasetError, match="no such episodes"):
        read_training(str(tmp_path / "data"), episodes=[7])


def test_what_came_after_the_task_was_judged_done_is_not_learnt_from(tmp_path):
    """A time-out that a person calls a success at observation 3: what the arm did afterwards is no part of the task."""
    judged = replace(random_episode(0).provenance, verdict_index=3)
    late = random_episode(0, end=EndCause.TIME_LIMIT, provenance=judged)
    write_episodes(tmp_path / "data", late, random_episode(1))
    (cut, whole), _ = read(tmp_path / "data")
    assert (cut.frames, whole.frames) == (4, 7)
    np.testing.assert_array_equal(cut.images["front"], late.images["front"][:4])
    assert cut.subtasks == [("reach", 0, 2), ("lift", 2, 3)]
    (filmed, other), _ = read_footage(str(tmp_path / "data"))
    assert [(e.count, e.keyframes) for e in (filmed, other)] == [(4, (0, 2, 3)), (7, (0, 3, 6))]
    # Models of earlier releases learnt from all of it, and know the episode again.
    assert cut.origin == filmed.origin
    assert cut.origin.content == late.content


def test_pictures_of_a_dataset_are_shrunk_as_they_are_read_and_are_those_that_a_model_would_make_of_them(
    tmp_path, monkeypatch
):
    write_episodes(tmp_path / "data", *(random_episode(seed) for seed in range(5)))
    wholes, _ = read(tmp_path / "data")
    held, most, cameras = [], [], set()

    def watched(*args, **options):
        for episode in read_episodes(*args, **options):
            most.append(sum(one() is not None for one in held))
            held.extend(weakref.ref(pixels) for pixels in episode.images.values())
            cameras.update(episode.images)
            yield episode

    monkeypatch.setattr(training_episodes, "read_episodes", watched)
    smalls, _ = read(tmp_path / "data", cameras=["front"], side_px=8)
    # The one before it: never a whole dataset at its own size.
    assert max(most) <= 1
    assert cameras == {"front"}
    for whole, small in zip(wholes, smalls, strict=True):
        (frames,) = resize_episode(whole, ["front"], 8)
        np.testing.assert_array_equal(small.images["front"], frames)
        np.testing.assert_array_equal(small.state, whole.state)


def test_cameras_are_mapped_to_the_models_names(tmp_path):
    lerobot_recording(tmp_path / "data", [4])
    (plain,), _ = read(tmp_path / "data")
    (mapped,), _ = read(tmp_path / "data", camera_map={"front": "laptop"})
    assert list(mapped.images) == ["front", "phone"]
    np.testing.assert_array_equal(mapped.images["front"], plain.images["laptop"])
    (one,), _ = read(tmp_path / "data", cameras=["wrist"], camera_map={"wrist": "phone"})
    assert list(one.images) == ["wrist"]
    np.testing.assert_array_equal(one.images["wrist"], plain.images["phone"])
    # What a map gives away is not seen twice.
    (turned,), _ = read(tmp_path / "data", camera_map={"phone": "laptop"})
    np.testing.assert_array_equal(turned.images["phone"], plain.images["laptop"])
    for wrong in ({"cameras": ["front"]}, {"camera_map": {"front": "top"}}):
        with pytest.raises(DatasetError, match=r"lacks a camera.*laptop.*phone.*--camera_map"):
            read(tmp_path / "data", **wrong)


def test_cameras_of_videos_are_mapped_in_the_same_way(filmed):
    (one, _), _ = read(filmed, camera_map={"front": "high"}, rate_hz=1, side_px=16)
    assert list(one.images) == ["front", "wrist"]
    assert one.images["front"][0, 8, 8, 0] == pytest.approx(29 * 3, abs=4)


def test_failed_episodes_are_named(tmp_path, filmed):
    lerobot_recording(tmp_path / "recorded", [4, 4, 4])
    episodes, _ = read(tmp_path / "recorded", failed=[1])
    assert [(episode.success, episode.kind) for episode in episodes] == [
        (True, "success"),
        (False, "failure"),
        (True, "success"),
    ]
    episodes, _ = read(filmed, failed=[0], rate_hz=1, side_px=16)
    assert [episode.kind for episode in episodes] == ["failure", "success"]
    for data, count in ((tmp_path / "recorded", 3), (filmed, 2)):
        with pytest.raises(DatasetError, match=rf"failed.*Found: \[{count}\].*0 to {count - 1}"):
            read(data, failed=[count])


def test_a_model_learns_from_one_film_and_is_measured_on_another(filmed, tmp_path, capsys):
    out = tmp_path / "model"
    words = f"--dataset {filmed} --episodes [0] --held_out [1] --rate_hz 10 --out {out}"
    tiny = "--model.image_px 16 --model.frame_dim 8 --model.dim 8 --model.members 1 --training.steps 3"
    assert main(["train-reward", *words.split(), *tiny.split()]) == 0
    report, shown = json.loads((out / "report.json").read_text()), capsys.readouterr().err
    assert list(report["stages"]) == ["reach", "place"]
    # A third as many observations a second as frames; 66 of them make 22, and the clock's 20 end at 1.
    assert report["time_only"]["final"] == 1.0
    assert report["time_only"]["forward"] > 0.99
    for figures in (report["held_out"], report["time_only"]):
        assert figures["successes"] == 1
        assert -1 <= figures["spliced"] <= 1
        assert 0 < figures["spliced_error"] < 1
    assert "order of a splice" in shown
    assert (out / "held_out.png").read_bytes().startswith(b"\x89PNG")
    model = load_sarm(out)
    assert model.info.trained_hz == 10
    assert (model.info.cameras, model.state_dim) == (("high", "wrist"), 0)


def test_a_model_learns_under_the_names_of_a_bench_and_that_some_episodes_failed(tmp_path, capsys):
    lerobot_recording(tmp_path / "data", [6, 6, 6, 6])
    words = f"--dataset {tmp_path / 'data'} --failed [1,2] --rate_hz 15 --out {tmp_path / 'model'}"
    tiny = "--model.image_px 16 --model.frame_dim 8 --model.dim 8 --model.members 1 --training.steps 3"
    cameras = ["--camera_map", "{front: laptop, wrist: phone}"]
    assert main(["train-reward", *words.split(), *tiny.split(), *cameras]) == 0
    held_out = json.loads(capsys.readouterr().out)["held_out"]
    assert held_out["successes"] == 1
    assert [(one["kind"], one["episodes"]) for one in held_out["failures"]] == [("failure", 1)]
    model = load_sarm(tmp_path / "model")
    assert (model.info.cameras, model.info.trained_hz) == (("front", "wrist"), 15)


def test_an_episode_is_learnt_from_or_held_out(tmp_path):
    with pytest.raises(ConfigError, match="held out"):
        TrainRewardConfig(dataset="d", out=tmp_path, episodes=[0, 1], held_out=[1])


def test_the_real_videos_fit_into_memory_at_a_few_frames_a_second(table_data):
    (episode,), _ = read(table_data, episodes=[0], cameras=["cam_high"], rate_hz=2, side_px=64)
    assert episode.images["cam_high"].shape == (86, 64, 64, 3)
    assert [name for name, _, _ in episode.subtasks] == [f"subtask{i}" for i in range(1, 17)]


@pytest.mark.parametrize("wrong", [["acros", "down"], ["down"], ["across", "acros", "across"]])
def test_a_held_out_success_that_is_marked_otherwise_is_refused_before_anything_is_trained(tmp_path, wrong):
    marks = tuple(Subtask(name=name, start=5 * k, end=5 * k + 5) for k, name in enumerate(wrong))
    good = [crossing_episode(seed, turns=9) for seed in range(2)]
    write_episodes(tmp_path / "data", *good, replace(crossing_episode(2, turns=9), subtasks=marks))
    config = TrainRewardConfig(dataset=str(tmp_path / "data"), out=tmp_path / "out", held_out=[2])
    with pytest.raises(
        DatasetError, match=r"not marked as those.*in episode 2\. Allowed: \['across', 'down'\]"
    ):
        train_reward(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        "--held_out=[3, 3]",
        "--episodes=[1, 1]",
        "--rate_hz=-3",
        "--training.failure_share=1.5",
        "--training.failure_share=-0.5",
        "--training.wrong_task=2",
        "--training.failure_ceiling=-1",
        "--training.windows.rewind=5",
        "--training.learning_rate=-1",
        "--training.weight_decay=-1",
        "--training.shift_px=-1",
        "--training.held_out=1.0",
        "--training.seed=-1",
        "--training.threads=-1",
    ],
)
def test_settings_that_mean_nothing_are_refused_before_the_dataset_is_read(tmp_path, capsys, wrong):
    arguments = ["--dataset", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    assert main(["train-reward", *arguments, wrong]) == 2
    said = capsys.readouterr().err
    assert "Allowed: " in said
    assert "none" not in said


@pytest.mark.parametrize("kind", ["perceptual", "dopamine"])
def test_an_episode_that_is_named_twice_is_refused(tmp_path, capsys, kind):
    arguments = ["--model", kind, "--dataset", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["train-reward", *arguments, "--episodes", "[0, 1, 1]"]) == 2
    assert "named more than once. Found: --episodes with [1] again" in capsys.readouterr().err
