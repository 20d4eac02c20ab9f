"""A reward model is judged on episodes that it did not learn from, or whoever reads its figures is told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from roborl.cli.main import main
from roborl.data.lerobot_io import read_episodes
from roborl.errors import ConfigError, ModelLoadError
from roborl.loops.benchmarks.reward import bench_reward
from roborl.loops.benchmarks.reward_cohort import Cohort, read_cohort
from roborl.loops.benchmarks.reward_config import RESULT, BenchRewardConfig
from roborl.loops.graded_footage import read_graded_footage
from roborl.loops.relabelling.config import RelabelConfig
from roborl.loops.relabelling.relabel import relabel
from roborl.loops.reward_gate import RewardGate
from roborl.loops.reward_training.training_episodes import read_training
from roborl.rewards.adaptation.config import Method
from roborl.rewards.adaptation.hops import HopLessons
from roborl.rewards.adaptation.saving import save_adapted
from roborl.rewards.dopamine import DopamineConfig, DopamineModel
from roborl.rewards.dopamine_question import CONTRACT
from roborl.rewards.graded_videos import read_graded
from roborl.rewards.hop_pairs import PairConfig
from roborl.rewards.prompts import own_prompt
from roborl.rewards.settings import RECORD
from roborl.rewards.training.learnt_from import FILE, Origin, learnt, read_learnt, write_learnt
from roborl.testing.episodes import crossing_episode, write_episodes
from roborl.testing.vlms import ScriptedVlm

TINY = "--model.image_px 16 --model.frame_dim 8 --model.dim 8 --model.members 1 --training.steps 2 --training.threads 1"


def crossings(path: Path, seeds: range, *, failures: int = 0, steps: int = 8) -> str:
    write_episodes(
        path,
        *(crossing_episode(seed, turns=4, steps=steps) for seed in seeds),
        *(crossing_episode(100 + seed, turns=4, steps=steps, stops_at=3) for seed in range(failures)),
    )
    return str(path)


def train(dataset: str, out: Path, *more: str) -> str:
    words = ["train-reward", "--dataset", dataset, "--out", str(out), *TINY.split(), *more]
    assert main(words) == 0
    return str(out)


def pictures(cohort: Cohort) -> set[bytes]:
    return {s.episode.read().images["front"].tobytes() for s in (*cohort.validation, *cohort.test)}


def test_what_a_model_learnt_from_is_left_out_for_all_models_of_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = crossings(tmp_path / "data", range(10), failures=10)
    model = train(data, tmp_path / "model")
    out = tmp_path / "out"
    config = BenchRewardConfig(model=[model, "brightness"], dataset=[data], out=out)
    cohort = read_cohort(config)
    # Of ten of either kind two were held out, and those alone are left to fit on and to judge.
    assert (len(cohort.validation), len(cohort.test), cohort.left_out_learnt) == (2, 2, 16)
    read, _ = read_training(data)
    learnt_from = read_learnt(model)
    assert learnt_from is not None
    taught = {e.images["front"].tobytes() for e in read.values() if learnt_from.holds(e.origin)}
    assert len(taught) == 16
    assert not pictures(cohort) & taught
    code = main(
        [
            *("bench-reward", "--model", model, "--model", "brightness", "--dataset", data),
            *("--out", str(out), "--require", "voc>=-1"),
        ]
    )
    assert code == 0
    assert "16 left out that a model learnt from" in capsys.readouterr().err
    result = json.loads((out / RESULT).read_text())
    assert result["episodes"]["left_out_learnt"] == 16
    assert result["models"]["model"]["learnt_from"] == {"episodes": 16, "measured_on": 0}
    assert result["models"]["brightness"]["learnt_from"] == {"episodes": None, "measured_on": 0}
    RewardGate(result=str(out / RESULT)).check(result["models"]["model"]["version"])


def test_where_too_few_are_left_it_is_said_and_no_bar_is_met_unless_that_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = crossings(tmp_path / "data", range(3), failures=1)
    model = train(data, tmp_path / "model")
    out = tmp_path / "out"
    words = ["bench-reward", "--model", model, "--dataset", data, "--out", str(out), "--require", "voc>=-1"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "model: measured on 3 episodes that it learnt from\n" in said
    assert "model is measured on 3 episodes that it learnt from" in caplog.text
    assert "voc>=-1: not met" in said
    result = json.loads((out / RESULT).read_text())
    assert result["met"] is False
    assert result["models"]["model"]["learnt_from"] == {"episodes": 3, "measured_on": 3}
    version = result["models"]["model"]["version"]
    with pytest.raises(
        ConfigError, match=r"measured on episodes that the model learnt from.*3 of them.*learnt_too"
    ):
        RewardGate(result=str(out / RESULT)).check(version)
    RewardGate(result=str(out / RESULT), learnt_too=True).check(version)
    assert main([*words, "--learnt_too", "true"]) == 0
    assert json.loads((out / RESULT).read_text())["models"]["model"]["learnt_from"]["measured_on"] == 3


def test_no_calibration_is_fitted_on_what_was_learnt_from(tmp_path: Path) -> None:
    data = crossings(tmp_path / "data", range(6), failures=2)
    model = train(data, tmp_path / "all", "--training.held_out", "0")
    config = BenchRewardConfig(
        model=[model, "brightness"], dataset=[data], out=tmp_path / "out", probes=False
    )
    result = bench_reward(config)
    assert result.learnt("all") == len(result.cohort.test)
    assert result.measured["all"].calibration is None
    assert result.learnt("brightness") == 0
    assert result.measured["brightness"].calibration is not None


def test_a_calibrated_model_is_not_measured_on_what_its_calibration_was_fitted_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = crossings(tmp_path / "data", range(10), failures=10)
    config = BenchRewardConfig(
        model=["brightness"], dataset=[data], out=tmp_path / "first", probes=False, validation=0.5
    )
    fitted = {s.episode.origin for s in bench_reward(config).cohort.validation}
    place = f"calibrated:{tmp_path / 'first' / RESULT}:brightness"
    again = replace(config, model=[place], out=tmp_path / "again", validation=0.1, seed=3)
    result = bench_reward(again)
    judged = {s.episode.origin for s in (*result.cohort.validation, *result.cohort.test)}
    assert (len(fitted), len(judged), fitted & judged) == (10, 10, set())
    (row,) = json.loads((again.out / RESULT).read_text())["models"].values()
    assert row["learnt_from"] == {"episodes": 10, "measured_on": 0}
    # It is known again in a dataset that has grown, and counts beside what the model itself learnt from.
    crossings(tmp_path / "data", range(50, 51), failures=1)
    assert read_cohort(again).left_out_learnt == 10
    model = train(
        crossings(tmp_path / "other", range(20, 24)), tmp_path / "model", "--training.held_out", "0"
    )
    known = read_learnt(place.replace("brightness", model))
    assert known is not None
    assert len(known.origins) == 14
    # A result of an earlier release does not say.
    path = tmp_path / "first" / RESULT
    stated = json.loads(path.read_text())
    path.write_text(json.dumps(stated | {"fitted_on": [{}]}))
    with pytest.raises(ModelLoadError, match=r"fitted on cannot be read\. Found: .*Allowed: .*Run roborl"):
        read_learnt(place)
    del stated["fitted_on"]
    path.write_text(json.dumps(stated))
    assert read_learnt(place) is None
    assert "does not say which episodes its calibrations were fitted on" in caplog.text


def test_an_episode_is_known_again_in_a_dataset_that_was_moved_or_merged(tmp_path: Path) -> None:
    data = crossings(tmp_path / "data", range(4))
    model = train(data, tmp_path / "model", "--episodes", "[0, 1]", "--held_out", "[2, 3]")
    shutil.move(data, tmp_path / "elsewhere")
    shutil.move(model, tmp_path / "there")
    model = str(tmp_path / "there")
    config = BenchRewardConfig(model=[model], dataset=[str(tmp_path / "elsewhere")])
    assert read_cohort(config).left_out_learnt == 2
    merged = crossings(tmp_path / "merged", range(6, 8))
    crossings(tmp_path / "merged", range(4))
    cohort = read_cohort(replace(config, dataset=[merged]))
    assert (cohort.left_out_learnt, len(cohort.validation) + len(cohort.test)) == (2, 4)


def test_every_kind_of_training_says_what_it_learnt_from_and_a_judge_that_goes_on_what_came_before(
    tmp_path: Path,
) -> None:
    data = crossings(tmp_path / "data", range(6), failures=1, steps=24)
    other = crossings(tmp_path / "other", range(20, 22), steps=24)
    out = tmp_path / "perceptual"
    words = ["--dataset", data, "--out", str(out), "--demonstrations", "3"]
    assert main(["train-reward", "--model", "perceptual", *words]) == 0
    known = read_learnt(str(out))
    assert known is not None
    assert len(known.origins) == 3
    first, second = tmp_path / "first", tmp_path / "second"
    small = "--model.left_wrist= --network.image_px 32 --network.keypoints 2 --network.channels 2"
    common = [
        "train-reward",
        "--model",
        "pairs",
        *small.split(),
        "--training.steps",
        "1",
        "--training.episodes",
        "2",
    ]
    assert main([*common, "--dataset", f"[{other}]", "--out", str(first)]) == 0
    again = [*common, "--dataset", f"[{data}]", "--start", str(first), "--out", str(second)]
    assert main(again) == 0
    one, two = read_learnt(str(first)), read_learnt(str(second))
    assert one is not None
    assert two is not None
    assert (len(one.origins), len(two.origins)) == (2, 9)
    assert one.origins < two.origins


def test_a_judge_whose_weights_all_went_on_learning_says_what_both_trainings_learnt_from(
    tmp_path: Path,
) -> None:
    first, out = tmp_path / "first", tmp_path / "second"
    write_learnt(first, learnt([Origin(content="a")]))
    (first / "tokenizer.json").write_text("{}")
    (first / RECORD).write_text("{}")
    both = learnt([Origin(content="b")], read_learnt(str(first)))
    write_learnt(out, both)
    judge: Any = ScriptedVlm(lambda query: None)
    model = DopamineModel(judge=judge, prompt=own_prompt(CONTRACT), config=DopamineConfig())
    weights: Any = SimpleNamespace(write=lambda folder: None)
    save_adapted(
        out, HopLessons(model, PairConfig()), weights, method=Method.FULL, base=first, record={"steps": 1}
    )
    assert read_learnt(f"dopamine:{out}") == both
    assert json.loads((out / RECORD).read_text()) == {"steps": 1}
    assert (out / "tokenizer.json").is_file()


def test_a_place_names_the_folder_that_says_what_was_learnt_from(tmp_path: Path) -> None:
    known = learnt([Origin(content="a", dataset="d", index=3), Origin(content="b", index=0), None])
    write_learnt(tmp_path / "judge", known)
    (tmp_path / "judge.yaml").write_text(f"checkpoint: {tmp_path / 'judge'}\n")
    (tmp_path / "lora.yaml").write_text(f"checkpoint: GRM\njudge: {{adapter: {tmp_path / 'judge'}}}\n")
    folder = str(tmp_path / "judge")
    places = (folder, f"vlac:{folder}", f"calibrated:x.json:vlac:{folder}")
    for place in (*places, f"vlac:{tmp_path / 'judge.yaml'}", f"vlac:{tmp_path / 'lora.yaml'}"):
        assert read_learnt(place) == known, place
    assert known.unnamed == 1
    for place in ("brightness", "clip:GRM", str(tmp_path), f"vlac:{tmp_path / 'none.yaml'}"):
        assert read_learnt(place) is None
    assert known.holds(Origin(content="b", dataset="elsewhere", index=7))
    assert known.holds(Origin(content="other", dataset="d", index=3))
    # Within one dataset the number tells apart what was recorded alike.
    assert not known.holds(Origin(content="a", dataset="d", index=4))
    assert not known.holds(Origin(dataset="elsewhere", index=3))
    assert not known.holds(None)
    (tmp_path / "judge" / FILE).write_text("{}")
    with pytest.raises(ModelLoadError, match="learnt from cannot be read"):
        read_learnt(folder)


def test_an_episode_and_what_was_relabelled_of_it_are_known_for_one_recording(tmp_path: Path) -> None:
    data = crossings(tmp_path / "data", range(8), failures=8)
    relabel(RelabelConfig(source=[data], out=tmp_path / "rows", episodes=4))
    rows = tmp_path / "rows" / "train"
    videos = read_graded(rows)
    taught = read_graded_footage(str(rows), rate_hz=10.0)
    model = tmp_path / "model"
    write_learnt(model, learnt(episode.origin for episode in taught))
    cohort = read_cohort(BenchRewardConfig(model=[str(model)], dataset=[data]))
    from_rows = {int(json.loads(line)["source_episode"]) for line in (rows / "metadata.jsonl").open()}
    assert cohort.left_out_learnt == len(from_rows) > 0
    # And the other way round.
    origins = [Origin(content=episode.content) for episode in read_episodes(data, with_images=False)]
    write_learnt(model, learnt(origins[: min(from_rows) + 1]))
    graded = read_cohort(BenchRewardConfig(model=[str(model)], graded=[str(rows)]))
    assert 0 < len(graded.graded) < len(videos)


def test_graded_videos_of_a_recording_that_was_learnt_from_are_left_out(tmp_path: Path) -> None:
    from roborl.loops.video import write_video

    lines = []
    for number in range(4):
        frames = [np.full((32, 32, 3), 20 * number + i, np.uint8) for i in range(5)]
        write_video(tmp_path / "graded" / "x" / f"{number}.mp4", frames, fps=10)
        row = {"file_name": f"x/{number}.mp4", "task": "t", "reward": number + 1, "ladder": str(number // 2)}
        lines.append(json.dumps(row))
    folder = tmp_path / "graded"
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    config = BenchRewardConfig(model=[str(tmp_path / "m")], graded=[str(folder)])
    first = read_cohort(config).graded
    write_learnt(tmp_path / "m", learnt([Origin(content=first[0].digest())]))
    cohort = read_cohort(config)
    assert ([v.file.stem for v in cohort.graded], cohort.left_out_learnt) == (["2", "3"], 2)
    write_learnt(tmp_path / "m", learnt([Origin(content=v.digest()) for v in first]))
    cohort = read_cohort(config)
    assert (len(cohort.graded), cohort.left_out_learnt, cohort.learnt_by(str(tmp_path / "m"))) == (4, 0, 4)


def test_copies_and_clips_of_a_recording_in_the_layout_of_roboreward_are_left_out_with_it(
    tmp_path: Path,
) -> None:
    names = [f"a_originalsplit_train_index_{end}.mp4" for end in ("1", "1_2", "1_attempt_1_score_3", "12")]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes([number]))
    lines = [json.dumps({"file_name": name, "task": "t", "reward": 3}) for name in names]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    config = BenchRewardConfig(model=[str(tmp_path / "m")], graded=[str(tmp_path)])
    write_learnt(tmp_path / "m", learnt([Origin(content=read_cohort(config).graded[2].digest())]))
    assert [video.file.name for video in read_cohort(config).graded] == names[3:]
