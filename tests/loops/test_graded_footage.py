"""What `roborl relabel` wrote is what a judge of videos learns from: each row its score, no ladder on both sides."""

from __future__ import annotations

import json

import pytest
import yaml

from roborl.cli.main import main
from roborl.errors import DatasetError
from roborl.loops.graded_footage import is_graded, read_graded_footage, split_ladders
from roborl.loops.relabelling import sources
from roborl.loops.relabelling.config import RelabelConfig
from roborl.loops.relabelling.relabel import relabel
from roborl.rewards.adaptation.lessons import Album, TimeGuess
from roborl.rewards.adaptation.scores import ScoreConfig, ScoreLessons
from roborl.rewards.prompts import own_prompt
from roborl.rewards.roboreward import CONTRACT, RoboRewardModel
from roborl.rewards.roboreward_config import RoboRewardConfig
from roborl.testing.relabelling import bars
from roborl.testing.vlms import ScriptedVlm


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows of four short episodes, all of them for training, made without a network."""
    folder = tmp_path_factory.mktemp("relabelled")
    found = [bars(episode=str(i), task=f"put the {name} away", count=21) for i, name in enumerate("abcd")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "open_sources", lambda place, **_: found)
        patch.setattr("roborl.loops.relabelling.relabel.write_relabel_page", lambda folder, result: None)
        result = relabel(RelabelConfig(source=["x"], out=folder, val=0.0, test=0.0, video_hz=5.0))
    return folder / "train", result.rows


def test_every_row_teaches_its_own_score_once(rows):
    folder, written = rows
    assert is_graded(str(folder))
    episodes = read_graded_footage(str(folder), rate_hz=10.0)
    assert [(e.tasks, e.level, e.ladder) for e in episodes] == [
        ((r.task,), r.reward, r.ladder) for r in written
    ]
    assert [e.count for e in episodes] == [2 * r.video_frames - 1 for r in written], (
        "a frame of a slower video is several observations"
    )
    model = RoboRewardModel(
        ScriptedVlm(lambda query: None), own_prompt(CONTRACT), RoboRewardConfig(camera="front", frames=6)
    )
    lessons = ScoreLessons(model, "front", ScoreConfig())
    samples = lessons.samples(episodes, TimeGuess.of(episodes), 0)
    assert [sample.value for sample in samples] == [row.reward for row in written]
    assert all(s.spots[-1][2] == episodes[s.spots[0][0]].count - 1 for s in samples), "the end is not shown"
    album = Album(episodes, samples[:8])
    for sample, row in zip(samples[:8], written, strict=False):
        shown = album.pictures(sample)
        assert row.task in sample.ask(shown).parts[0]
        brightness = float(shown[-1][8:].mean()) / 250
        if row.kind in ("clip", "rewind"):
            assert brightness == pytest.approx(row.clip_fraction, abs=0.06)
    assert [e.level for e in read_graded_footage(str(folder), rate_hz=10.0, episodes=[3, 0])] == [
        written[3].reward,
        written[0].reward,
    ]
    with pytest.raises(DatasetError, match="no such graded"):
        read_graded_footage(str(folder), rate_hz=10.0, episodes=[999])


def test_what_is_made_from_one_episode_stays_on_one_side(rows):
    folder, _ = rows
    episodes = read_graded_footage(str(folder), rate_hz=10.0)
    for seed in range(3):
        train, rest = split_ladders(episodes, 0.25, seed)
        assert len(train) + len(rest) == len(episodes)
        assert len({e.ladder for e in rest}) == 1
        assert not {e.ladder for e in train} & {e.ladder for e in rest}
    assert split_ladders(episodes, 0.0, 0)[1] == []
    # One row that cannot be held out keeps all of its recording back.
    kept = {e.ladder for e in episodes} - {episodes[-1].ladder}
    rows_of = [next(e for e in episodes if e.ladder == ladder) for ladder in kept]
    for seed in range(3):
        _, rest = split_ladders(episodes, 0.5, seed, spare=lambda e: e not in rows_of)
        assert {e.ladder for e in rest} == {episodes[-1].ladder}


def test_copies_and_clips_of_a_recording_in_the_layout_of_roboreward_stay_on_one_side(rows, tmp_path):
    folder, _ = rows
    bytes_of = sorted(folder.glob("**/*.mp4"))[0].read_bytes()
    names = [
        "a_originalsplit_train_index_1.mp4",
        "a_originalsplit_train_index_1_2.mp4",
        "a_originalsplit_train_index_1_attempt_1_score_3.mp4",
        "a_originalsplit_train_index_12.mp4",
        "some_name.mp4",
        "some_copy.mp4",
    ]
    for name in names:
        (tmp_path / name).write_bytes(bytes_of)
    lines = [{"file_name": name, "task": f"t{i}", "reward": 3} for i, name in enumerate(names)]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ladders = [e.ladder for e in read_graded_footage(str(tmp_path), rate_hz=10.0)]
    assert [ladders.index(ladder) for ladder in ladders] == [0, 0, 0, 3, 4, 4]


def test_other_judges_refuse_grades(rows, tmp_path, capsys):
    folder, _ = rows
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "config.json").write_text("{}")
    checkpoint = ["--model.checkpoint", str(tmp_path / "judge")]
    network = ["--dataset", str(folder), "--out", str(tmp_path / "out"), *checkpoint]
    assert main(["train-reward", "--model", "dopamine", *network]) == 2
    assert "Graded videos are no episodes" in capsys.readouterr().err


@pytest.mark.slow
def test_a_tiny_judge_takes_a_step_on_them_and_is_graded_by_the_benchmark(rows, tmp_path, capsys):
    from roborl.testing.tiny_vlms import build_tiny_vlm

    folder, _ = rows
    network = build_tiny_vlm(tmp_path / "tiny", "qwen3_vl")
    brief = [
        "--training.steps",
        "1",
        "--training.measure",
        "2",
        "--training.batch",
        "1",
        "--training.report",
        "2",
    ]
    seen = [
        "--model.checkpoint",
        str(network),
        "--model.judge.device",
        "cpu",
        "--model.judge.dtype",
        "float32",
    ]
    seen += ["--model.frames", "4", "--model.min_cells", "1"]
    out = ["--dataset", str(folder), "--out", str(tmp_path / "judge")]
    assert main(["train-reward", "--model", "roboreward", *out, *seen, *brief]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 1
    settings = {
        "checkpoint": str(network),
        "judge": {"device": "cpu", "dtype": "float32"},
        "frames": 4,
        "min_cells": 1,
    }
    (tmp_path / "judge.yaml").write_text(yaml.safe_dump(settings))
    bench = ["--graded", str(folder), "--out", str(tmp_path / "bench"), "--probes", "false"]
    assert main(["bench-reward", "--model", f"roboreward:{tmp_path / 'judge.yaml'}", *bench]) == 0
    (figures,) = json.loads(capsys.readouterr().out)["models"].values()
    assert 0.0 <= figures["grade_mae"] <= 4.0
