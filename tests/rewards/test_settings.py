"""The settings of a model that training wrote, by its folder and by the file in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from roborl import config as configuration
from roborl.rewards.dopamine import DopamineConfig
from roborl.rewards.prompts import PromptConfig
from roborl.rewards.settings import ADAPTER, RECORD, SETTINGS, read_settings


def test_the_settings_file_of_a_trained_judge_stands_for_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "judge"
    folder.mkdir()
    asked = DopamineConfig(references={"goal/front": "goal.png"}, prompt=PromptConfig(file="wording.txt"))
    (folder / SETTINGS).write_text(configuration.dump(asked))
    (folder / ADAPTER).write_text("{}")
    (folder / RECORD).write_text("{}")
    whole = read_settings(DopamineConfig, str(folder))
    assert whole.judge.adapter == str(folder)
    assert whole.references == {"goal/front": str(folder / "goal.png")}
    assert whole.prompt.file == str(folder / "wording.txt")
    assert read_settings(DopamineConfig, str(folder / SETTINGS)) == whole
    monkeypatch.chdir(folder)
    assert read_settings(DopamineConfig, SETTINGS) == whole
    (folder / RECORD).unlink()
    assert read_settings(DopamineConfig, SETTINGS) == asked, "a file of somebody's own"
