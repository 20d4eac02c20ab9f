"""An RLDS dataset is taken wherever filmed episodes are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from roborl.data.relabel_sources import open_sources
from roborl.errors import ConfigError, DatasetError
from roborl.loops.footage import read_footage
from roborl.rewards.adaptation.scores import until_done
from roborl.testing.episodes import random_episode, write_episodes
from roborl.testing.rlds import rlds_episode, write_rlds


def test_episodes_of_rlds_are_footage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cut = rlds_episode(1, steps=3, is_last=np.zeros(4, bool))
    still = rlds_episode(2, steps=3)
    still["steps"]["action"][0] = 0
    root = write_rlds(tmp_path / "bridge" / "0.1.0", [rlds_episode(0, steps=4), cut, still])
    found, rate = read_footage(str(root), camera_map={"front": "image"}, failed=[1])
    assert rate == 5
    assert [(e.count, e.kind, e.keyframes, e.tasks) for e in found] == [
        (5, "success", (0, 4), ("put the cube in bowl 0",)),
        (5, "failure", (), ("put the cube in bowl 1",)),
        (3, "success", (0, 2), ("put the cube in bowl 0",)),
    ]
    for episode, given, steps in ((found[1], cut, [0, 3, 3]), (found[2], still, [1, 2, 3])):
        wanted = [0, 3, 4] if steps == [0, 3, 3] else [0, 1, 2]
        pictures = episode.footage.read({"front": wanted, "wrist_image": []})["front"]
        for index, step in zip(wanted, steps, strict=True):
            np.testing.assert_array_equal(pictures[index], given["steps"]["observation"]["image"][step])
    with pytest.raises(DatasetError, match=r"lacks a camera\. Found: \['top'\]"):
        found[0].footage.read({"top": [0]})
    with pytest.raises(DatasetError, match="no such episodes"):
        read_footage(str(root), episodes=[7])


def test_a_task_is_done_where_its_dataset_is_known_to_be_and_relabelling_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = "nyu_rot_dataset_converted_externally_to_rlds"
    root = write_rlds(tmp_path / name / "0.1.0", [rlds_episode(i, steps=20) for i in range(2)])
    port = tmp_path / "nyu_rot_dataset_lerobot"
    write_episodes(port, random_episode(0, 20, subtasks=()), random_episode(1, 20))
    for place, ends in ((root.parent, [14, 14]), (port, [14, 20])):
        found, _ = read_footage(str(place))
        assert [e.keyframes[-1] for e in until_done(found, 1.0)] == ends
        sources = list(open_sources(str(place)))
        assert [round((s.onset or 1.0) * (s.count - 1)) for s in sources] == ends
    # The clip that scores 4 ends before the task is done.
    assert found[0].index_at(0.7) == 10


def test_what_teaches_nothing_is_left_out_and_what_is_taken_on_trust_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cut = rlds_episode(1, steps=3, is_last=np.zeros(4, bool))
    silent = rlds_episode(2, steps=3, language_instruction=[""] * 4)
    root = write_rlds(tmp_path / "viola" / "0.1.0", [rlds_episode(0, steps=3), cut, silent])
    found, _ = read_footage(str(root))
    assert [e.name.split()[1] for e in found] == ["0"]
    assert "1 episodes without an instruction are left out" in caplog.text
    assert "1 episodes are left out, of which nobody says whether they succeeded" in caplog.text
    kept = write_rlds(tmp_path / "only" / "viola" / "0.1.0", [cut])
    assert [e.kind for e in read_footage(str(kept))[0]] == ["success"]
    assert "nobody says of 1 episodes whether they succeeded, and they are taken" in caplog.text
    with pytest.raises(DatasetError, match="have no instruction"):
        read_footage(str(root), episodes=[2])
    with pytest.raises(ConfigError, match=r"How many observations a second.*roborl import"):
        read_footage(str(write_rlds(tmp_path / "desk" / "0.1.0", [rlds_episode(0, steps=3)])))
