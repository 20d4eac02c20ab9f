"""The whole way: episodes on disk to an adapted judge that the registry opens, for each kind and both kinds of dataset."""

import json
import re
from collections import Counter
from importlib.metadata import PackageNotFoundError, version

import cv2
import numpy as np
import pytest
import torch
import yaml

from roborl.cli.main import main
from roborl.data.dataset_episode import DatasetEpisode, Subtask
from roborl.data.lerobot_writer import DatasetWriter
from roborl.errors import DatasetError
from roborl.loops import footage
from roborl.loops.footage import read_footage
from roborl.loops.record import spans
from roborl.loops.reward_training import adapt_reward as adapting
from roborl.loops.reward_training.adapt_reward import AdaptRoboRewardConfig, adapt_reward, draw_some
from roborl.loops.video import write_video
from roborl.rewards.adaptation.scores import ScoreConfig
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.judges.transformers_judge import TransformersJudge
from roborl.rewards.registry import load_reward_model
from roborl.rewards.roboreward_config import RoboRewardConfig
from roborl.rewards.training.learnt_from import read_learnt
from roborl.testing.tiny_vlms import build_tiny_vlm
from roborl.types import EndCause

PX, STEPS = 48, 20
WORDS = "<image>".join(["Do {task}. <score>", *(f" before {i} after" for i in range(7)), "{task}: how far?"])
BRIEF = [
    "--training.steps",
    "2",
    "--training.measure",
    "4",
    "--training.batch",
    "2",
    "--training.accumulate",
    "1",
    "--training.report",
    "8",
]
HERE = ["--model.judge.device", "cpu", "--model.judge.dtype", "float32"]


def bar(index, level=200):
    rgb = np.full((PX, PX, 3), 20, np.uint8)
    rgb[8:24, : round(PX * index / STEPS)] = level
    return rgb


def recorded(number, *, subtasks=(), **known):
    success = known.get("success", True)
    return DatasetEpisode(
        **{
            "task": "fill the bar",
            "images": {"front": np.stack([bar(i, 150 + 10 * number) for i in range(STEPS + 1)])},
            "state": np.zeros((STEPS + 1, 1), np.float32),
            "action": np.zeros((STEPS, 1), np.float32),
            "reward": np.zeros(STEPS, np.float32),
            "success": success,
            "end": EndCause.SUCCESS if success else EndCause.TIME_LIMIT,
            "subtasks": tuple(Subtask(name=n, start=a, end=b) for n, a, b in subtasks),
        }
        | known
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "data"
    stages = [("begin", 2, 8), ("end", 8, 20)]
    episodes = [recorded(i, subtasks=stages) for i in range(4)]
    episodes += [
        recorded(4, success=False, failure="stall", subtasks=stages[:1]),
        recorded(5, success=False, failure="stall"),
        recorded(6, discarded=True),
    ]
    with DatasetWriter(
        folder, fps=10, cameras={"front": (PX, PX)}, state_names=["x"], action_names=["dx"]
    ) as writer:
        for episode in episodes:
            writer.append(episode)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two episodes in the layout of Robo-Dopamine's example, one sub-task longer than the other."""
    root = tmp_path_factory.mktemp("filmed")
    (root / "task_instruction.json").write_text(json.dumps(["fill the bar", "make the bar full"]))
    for number in (1, 2):
        folder = root / f"episode_{number:03}"
        folder.mkdir()
        for camera in ("cam_high", "cam_left"):
            size, code = (PX, PX), cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(folder / f"{camera}.mp4"), code, 30, size)
            for index in range(STEPS + 1):
                writer.write(bar(index, 120 if camera == "cam_left" else 220))
            writer.release()
        marks = [
            {"annotation": "one", "start_frame_id": 1, "end_frame_id": 5},
            {"annotation": "two", "start_frame_id": 5, "end_frame_id": 21},
        ]
        (folder / "annotated_keyframes.json").write_text(json.dumps(marks))
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    (folder / "words.txt").write_text(WORDS)
    return build_tiny_vlm(folder / "tiny", "qwen3_vl", words=[WORDS])


def run(capsys, *arguments):
    assert main(["train-reward", *map(str, arguments), *BRIEF, *HERE]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_a_failure_reached_what_it_completed_and_work_that_was_undone_is_no_lesson(caplog):
    """By the marks that the recorder writes: the last span of a failure was not completed."""
    names = ["reach", "grasp", "lift"]

    def of(number, stages, success):
        return recorded(
            number,
            success=success,
            index=number,
            subtasks=[(s.name, s.start, s.end) for s in spans(stages, names, success=success)],
        )

    straight = of(0, [0] * 8 + [1] * 6 + [2] * 7, True)
    undone = of(1, [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4 + [2] * 5, True)
    failed = [
        of(2, [0] * 21, False),
        of(3, [0] * 8 + [1] * 13, False),
        of(4, [0] * 4 + [1] * 4 + [2] * 13, False),
    ]
    episodes = footage.recorded([undone, straight, *failed], "data", {})
    assert [(e.kind, e.keyframes, e.reached and round(e.reached, 2)) for e in episodes] == [
        ("success", (0, 8, 14, 20), None),
        ("failure", (), 0.0),
        ("failure", (), 0.33),
        ("failure", (), 0.67),
    ]
    assert "marked more than once: [1]" in caplog.text
    (again,) = footage.recorded([undone], "data", {})
    assert again.keyframes == (0, 4, 8, 12, 16, 20), "where all repeat, that is the task"


def test_episodes_say_what_is_known_about_them(dataset):
    episodes, rate = read_footage(str(dataset))
    assert rate == 10
    assert [e.kind for e in episodes] == ["success"] * 4 + ["stall"] * 2
    assert episodes[0].keyframes == (2, 8, 20)
    assert episodes[0].progress([0, 5, 8, 14]).tolist() == [0.0, 0.25, 0.5, 0.75]
    assert [e.reached for e in episodes[4:]] == [0.0, None]
    assert np.array_equal(episodes[1].footage.read({"front": [7]})["front"][7], bar(7, 160))
    (third,), _ = read_footage(str(dataset), episodes=[3], camera_map={"top": "front"})
    assert np.array_equal(third.footage.read({"top": [7]})["top"][7], bar(7, 180))
    with pytest.raises(DatasetError, match="lacks a camera"):
        episodes[0].footage.read({"top": [0]})
    ordered, _ = read_footage(str(dataset), episodes=[2, 0])
    assert [e.footage.index for e in ordered] == [2, 0]
    said, _ = read_footage(str(dataset), failed=[1])
    assert [(e.kind, e.keyframes != (), e.reached) for e in said[:3]] == [
        ("success", True, None),
        ("failure", False, 0.5),
        ("success", True, None),
    ]
    with pytest.raises(DatasetError, match="could have failed"):
        read_footage(str(dataset), failed=[7])
    for wrong in ([9], [0, 9], [0, 6]):  # the last one is discarded
        with pytest.raises(DatasetError, match="no such episodes"):
            read_footage(str(dataset), episodes=wrong)


def test_videos_with_keyframes_say_the_same(videos):
    episodes, rate = read_footage(str(videos), camera_map={"front": "cam_high"})
    assert rate == pytest.approx(30)
    assert [(e.count, e.keyframes) for e in episodes] == [(21, (1, 5, 20))] * 2
    assert episodes[0].tasks == ("fill the bar", "make the bar full")
    pictures = episodes[0].footage.read({"front": [3, 20], "cam_left": [20]})
    assert abs(int(pictures["front"][20][16, 24, 0]) - 220) < 12
    assert abs(int(pictures["front"][3][16, 24, 0]) - 20) < 12
    assert abs(int(pictures["cam_left"][20][16, 24, 0]) - 120) < 12
    assert [e.name[-1] for e in read_footage(str(videos), episodes=[1, 0])[0]] == ["2", "1"]
    assert [(e.kind, e.keyframes) for e in read_footage(str(videos), episodes=[1, 0], failed=[1])[0]] == [
        ("failure", ()),
        ("success", (1, 5, 20)),
    ]
    with pytest.raises(DatasetError, match="could have failed"):
        read_footage(str(videos), failed=[2])
    with pytest.raises(DatasetError, match="no such episodes"):
        read_footage(str(videos), episodes=[2])
    with pytest.raises(DatasetError, match=r"no .*front\.mp4"):
        read_footage(str(videos))[0][0].footage.read({"front": [0]})


def film_greys(folder, *, fps=30, marks=None):
    folder.mkdir(parents=True)
    write_video(folder / "front.mp4", [np.full((32, 32, 3), 8 * i, np.uint8) for i in range(12)], fps=fps)
    own = [{"annotation": "one", "start_frame_id": 0, "end_frame_id": 11}]
    (folder / "annotated_keyframes.json").write_text(json.dumps(own if marks is None else marks))
    (folder.parent / "task_instruction.json").write_text('["do it"]')


@pytest.mark.parametrize(
    "marks", [{}, {"0": [], "1": []}, {"0": [{"name": "a", "start": 0, "end": 3}], "1": []}]
)
def test_keyframes_of_no_episode_or_several_are_refused(tmp_path, marks):
    film_greys(tmp_path / "data" / "one", marks=marks)
    words = (
        rf"not those of one episode\. Found: .*of {len(marks)} episodes\. Allowed: a list.*folder of its own"
    )
    with pytest.raises(DatasetError, match=words):
        read_footage(str(tmp_path / "data"))


def test_videos_of_different_rates_are_refused_and_both_are_named(tmp_path):
    film_greys(tmp_path / "data" / "one", fps=10)
    film_greys(tmp_path / "data" / "two", fps=30)
    words = r"different rates\. Found: .*one/front\.mp4: 10 frames per second, .*two/front\.mp4: 30\."
    with pytest.raises(DatasetError, match=words):
        read_footage(str(tmp_path / "data"))
    assert read_footage(str(tmp_path / "data"), episodes=[0])[1] == pytest.approx(10)


def test_what_is_measured_with_is_of_all_other_episodes_and_cameras():
    questions = [
        (episode, camera) for episode in range(5) for camera in ("front", "wrist") for _ in range(80)
    ]
    some = draw_some(questions, 256, seed=0)
    counts = Counter(some[:64])
    assert len(some) == 256
    assert set(counts) == set(questions)
    assert max(counts.values()) < 3 * 64 / len(counts)
    assert some == draw_some(questions, 256, seed=0) != draw_some(questions, 256, seed=1)
    assert draw_some(questions, 1000, seed=0) == questions


def test_one_demonstration_adapts_a_judge_of_hops(videos, network, tmp_path, capsys, caplog, monkeypatch):
    out = tmp_path / "judge"
    arguments = ["--model", "dopamine", "--dataset", videos, "--out", out, "--one_shot", "true"]
    cameras = ["--model.left_wrist", "left", "--camera_map", "{front: cam_high, left: cam_left}"]
    words = ["--model.checkpoint", network, "--model.prompt.file", network.parent / "words.txt"]
    pairs = ["--samples.pairs", "30", "--samples.interval_frames", "4", "--model.min_pixels", "1024"]
    pairs += ["--model.max_pixels", "2048", "--model.max_tokens", "8"]
    report, err = run(capsys, *arguments, *cameras, *words, *pairs)
    assert report["episodes"] == [str(videos / "episode_001")]
    assert (report["held_out"]["of"], report["held_out"]["questions"]) == ("other episodes", 8)
    assert (report["steps"], report["skipped"]) == (2, 0)
    assert f"dopamine:{out}" in err
    caplog.clear()
    model = load_reward_model(f"dopamine:{out}")
    assert "may never reach" not in caplog.text
    assert (model.config.front, model.config.left_wrist) == ("front", "left")
    assert model.prompt.sha256 == report["prompt_sha256"]
    # The demonstration's goal goes with it, for sessions that bring none.
    assert abs(int(model.references["goal/front"][16, 24, 0]) - 220) < 12
    assert model.start("fill the bar", {})
    record = json.loads((out / "training.json").read_text())
    assert record["settings"]["samples"]["pairs"] == 30
    assert record["packages"].keys() == {"torch", "transformers", "peft", "python"}
    # Asked again, it has nothing left to do; on a card without room for all questions of the report it says the same.
    answer = TransformersJudge.answer

    def answer_few(judge, queries):
        if len(queries) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return answer(judge, queries)

    monkeypatch.setattr(TransformersJudge, "answer", answer_few)
    (out / "reward.yaml").unlink()
    again, _ = run(capsys, *arguments, *cameras, *words, *pairs)
    assert (out / "reward.yaml").is_file()
    assert (again["steps"], again["seconds"] < report["seconds"]) == (2, True)
    assert again["held_out"] == report["held_out"]


def without_peft(name):
    if name == "peft":
        raise PackageNotFoundError(name)
    return version(name)


def test_a_dataset_adapts_a_judge_of_videos(dataset, network, tmp_path, capsys, monkeypatch):
    # All weights are trained, for which peft need not be there.
    monkeypatch.setattr("roborl.loops.run_files.version", without_peft)
    seen = ["--model.camera", "front", "--model.frames", "4", "--model.min_cells", "1"]
    report, _ = run(
        capsys, "--model", "roboreward", "--dataset", dataset, "--out", tmp_path, *seen,
        "--model.checkpoint", network, "--training.method", "full",
        "--training.held_out", "0.3",
    )  # fmt: skip
    # Three of four successes and one of two failures, of which only the marked one teaches.
    assert len(report["episodes"]) == 4
    assert [re.search(r"\d", name).group() for name in report["taught_nothing"]] in ([], ["5"])
    assert report["questions"] == 3 * 20 + (not report["taught_nothing"])
    assert load_reward_model(f"roboreward:{tmp_path}").config.frames == 4
    assert len(read_learnt(f"roboreward:{tmp_path}").origins) == 4
    packages = json.loads((tmp_path / "training.json").read_text())["packages"]
    assert packages.keys() == {"torch", "transformers", "python"}


def test_what_the_checkpoint_learnt_from_is_never_held_out_from_it(dataset, network, tmp_path, capsys):
    names = [f"episode {number} of {dataset}" for number in range(6)]
    common = ["--model", "roboreward", "--dataset", dataset, "--training.method", "full"]
    common += ["--model.camera", "front", "--model.frames", "4", "--model.min_cells", "1"]
    common += ["--training.held_out", "0.3"]
    first, _ = run(capsys, *common, "--model.checkpoint", network, "--out", tmp_path / "first")
    assert first["learnt_before"] == []
    learnt = sorted(first["episodes"])
    for seed in range(4):
        again, _ = run(
            capsys, *common, "--model.checkpoint", tmp_path / "first", "--out", tmp_path / str(seed),
            "--training.seed", seed,
        )  # fmt: skip
        assert sorted(again["episodes"]) == sorted(again["learnt_before"]) == learnt
        assert again["held_out"]["of"] == "other episodes"
    again, _ = run(
        capsys, *common, "--model.checkpoint", tmp_path / "first", "--out", tmp_path / "all",
        "--episodes", f"[{', '.join(str(names.index(name)) for name in learnt)}]",
    )  # fmt: skip
    assert again["held_out"]["of"].endswith("of which the checkpoint had learnt from 4")


def test_unmarked_episodes_are_cut_by_the_time_until_their_task_is_done(network, tmp_path, monkeypatch):
    write = {"fps": 10, "cameras": {"front": (PX, PX)}, "state_names": ["x"], "action_names": ["dx"]}
    with DatasetWriter(tmp_path / "data", **write) as writer:
        for number in range(2):
            writer.append(recorded(number))
    seen = []

    def learn(lessons, samples, *rest, **more):
        seen.extend(samples)
        raise KeyboardInterrupt

    monkeypatch.setattr(adapting, "adapt", learn)
    judge = JudgeConfig(device="cpu", dtype="float32")
    model = RoboRewardConfig(checkpoint=str(network), judge=judge, camera="front", frames=4, min_cells=1)
    config = AdaptRoboRewardConfig(
        dataset=str(tmp_path / "data"),
        out=tmp_path / "out",
        model=model,
        samples=ScoreConfig(jitter=0.0, wrong_task=0, onset=0.5),
    )
    with pytest.raises(KeyboardInterrupt):
        adapt_reward(config)
    ends = {(s.value, s.spots[-1][2]) for s in seen}
    assert ends == {(1, 1), (2, 3), (3, 5), (4, 7), (5, STEPS)}
    assert all(s.guess == s.value for s in seen), "what knows the time alone is told as well"


def test_a_dataset_adapts_a_pair_critic(dataset, tmp_path, capsys):
    network = build_tiny_vlm(tmp_path / "tiny", "internvl")
    settings = {"checkpoint": str(network), "image_px": 56, "reference_frames": 2}
    (tmp_path / "settings.yaml").write_text(
        yaml.safe_dump({"dataset": str(dataset), "out": str(tmp_path / "critic"), "model": settings})
    )
    report, _ = run(
        capsys, "--model", "vlac", "--config_path", tmp_path / "settings.yaml", "--samples.groups", "3",
        "--episodes", "[0]",
    )  # fmt: skip
    assert report["held_out"]["of"] == "other questions about the same episodes"
    assert report["questions"] + report["held_out"]["questions"] == 3 * 4 + 8
    model = load_reward_model(f"vlac:{tmp_path / 'critic'}")
    assert model.wording.sha256 == report["prompt_sha256"]
    assert model.config.reference_frames == 2


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (["--model", "gvl"], "no such kind"),
        (["--model", "roboreward"], "which camera"),
        (["--model", "roboreward", "--model.camera", "front", "--model.observation_hz", "30"], "rate"),
        (
            ["--model", "dopamine", "--model.judge.quantisation", "int4", "--training.method", "full"],
            "few bits",
        ),
        (["--model", "dopamine", "--model.judge.adapter", "x"], "on top of another"),
        (
            ["--model", "dopamine", "--model.judge.kind", "openai", "--model.judge.endpoints", "[http://x]"],
            "in this process",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(dataset, tmp_path, capsys, wrong, complaint):
    places = ["--model.checkpoint", str(tmp_path), "--dataset", str(dataset), "--out", str(tmp_path)]
    assert main(["train-reward", *wrong, *places]) == 2
    assert complaint in capsys.readouterr().err


def test_real_videos_with_their_keyframes_are_read(table_data):
    episodes, rate = read_footage(str(table_data))
    assert rate == pytest.approx(30)
    assert [(e.count, len(e.keyframes)) for e in episodes] == [(1277, 17), (1715, 17)]
    assert episodes[0].keyframes[:3] == (8, 147, 211)
    assert "clean the table" in episodes[0].tasks
    picture = episodes[0].footage.read({"cam_left_wrist": [8]})["cam_left_wrist"][8]
    assert picture.shape == (480, 640, 3)


@pytest.mark.parametrize("kind", ["dopamine", "roboreward", "vlac"])
def test_without_a_checkpoint_the_present_folder_is_not_taken_for_one(kind, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert main(["train-reward", "--model", kind, "--dataset", "d", "--out", "judge"]) == 2
    assert "No checkpoint is named. Found: nothing. Allowed: a folder" in (said := capsys.readouterr().err)
    assert "--model.checkpoint" in said
