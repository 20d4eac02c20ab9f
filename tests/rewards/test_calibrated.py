"""A calibrated model is the model with its progress mapped, and nothing else of it changes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roborl.errors import ConfigError, ModelLoadError, RoborlError
from roborl.rewards.calibrated import CalibratedModel, calibrated
from roborl.rewards.calibration import Calibration
from roborl.rewards.fake import BrightnessModel
from roborl.rewards.measured import FORMAT
from roborl.rewards.model import missing, score_episode
from roborl.rewards.registry import load_reward_model
from roborl.rewards.verdicts import DoneRule
from roborl.testing import check_reward_model as conformance
from roborl.types import Frame, Observation, Score

reward_model_check = conformance.reward_model_check

# Full progress reads 0.6 with this model; below 0.2 it says nothing.
MAP = Calibration(raw=(0.2, 0.6), calibrated=(0.0, 1.0))


def video(*levels: float) -> list[Observation]:
    shades = [np.full((8, 8, 3), round(255 * level), np.uint8) for level in levels]
    return [
        Observation(
            frames={"front": Frame(rgb=shade, camera="front", stamp_ns=0, id=index)},
            state=np.zeros(2, np.float32),
            stamp_ns=0,
        )
        for index, shade in enumerate(shades)
    ]


def written(folder: Path, calibration: Calibration | None = MAP, version: str = "brightness-all") -> Path:
    row = {"version": version, "calibration": None if calibration is None else calibration.as_dict()}
    path = folder / "bench_reward.json"
    path.write_text(json.dumps({"format": FORMAT, "models": {"one": row}}))
    return path


def test_progress_is_mapped_and_raw_is_kept() -> None:
    plain, mapped = BrightnessModel(), CalibratedModel(BrightnessModel(), MAP)
    levels = video(0.2, 0.4, 0.6, 1.0, 0.0)
    before, after = (score_episode(model, "t", levels) for model in (plain, mapped))
    assert [s.progress for s in after] == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.0])
    assert [s.progress for s in before] == pytest.approx([0.2, 0.4, 0.6, 1.0, 0.0])
    assert [s.raw for s in after] == [s.raw for s in before]
    assert [s.done for s in after] == [s.done for s in before], "its own word, which progress does not tell"
    assert {s.version for s in after} == {mapped.info.version}


def test_a_calibrated_model_conforms(reward_model_check: Any) -> None:
    reward_model_check(CalibratedModel(BrightnessModel(("front",), image_px=16), MAP))


def test_the_map_is_part_of_the_version() -> None:
    versions = {
        CalibratedModel(BrightnessModel(cameras), calibration).info.version
        for cameras in (("front",), ("wrist",))
        for calibration in (MAP, replace(MAP, calibrated=(0.0, 0.9)))
    }
    assert len(versions) == 4
    assert not versions & {"brightness-front", "brightness-wrist"}
    assert (
        CalibratedModel(BrightnessModel(), MAP).info.version
        == CalibratedModel(BrightnessModel(), MAP).info.version
    )


def test_how_done_is_read_off_the_map_is_part_of_the_version() -> None:
    def of(**reading: Any) -> str:
        model = BrightnessModel()
        model.info = replace(model.info, **reading)
        return CalibratedModel(model, MAP).info.version

    rules = (DoneRule(progress=0.9), DoneRule(progress=0.9, readings=2), DoneRule(progress=0.8))
    assert (
        len({of(), *(of(done_rule=rule, done_holds=holds) for rule in rules for holds in (False, True))}) == 7
    )
    assert of() == "brightness-all-cal8a4d852a0c6e", "of a model without a rule it is the map's alone"


class Told(BrightnessModel):
    """Has a done rule, and says what it is told."""

    def __init__(self, scores: list[Score], rule: DoneRule) -> None:
        super().__init__()
        self.scores, self.info = scores, replace(self.info, done_rule=rule)

    def start(self, task: str, references: Any) -> Any:
        fold, scores = super().start(task, references), self.scores
        fold.fold = lambda observation_id, replies: scores[observation_id]
        return fold


def test_a_done_rule_reads_calibrated_progress_and_a_missing_score_stays_missing() -> None:
    score = Score(frame_id=0, progress=0.6, raw=0.6, spread=0.1, done=False, version="v")
    told = Told(
        [score, score, missing(2, "lost", version="v"), score, score], DoneRule(progress=0.95, readings=2)
    )
    after = score_episode(CalibratedModel(told, MAP), "t", video(0, 0, 0, 0, 0))
    assert [s.done for s in after] == [None, True, None, None, True]
    assert (after[2].valid, after[2].reply) == (False, "lost")
    # One side of the spread is mapped away, beyond the outermost bend.
    assert after[0].spread == pytest.approx(0.125)
    told.info = replace(told.info, done_holds=True)
    after = score_episode(CalibratedModel(told, MAP), "t", video(0, 0, 0, 0, 0))
    assert [s.done for s in after] == [None, True, None, True, True]


@pytest.mark.parametrize(("of_model", "says"), [(None, None), (False, False), (True, False)])
def test_a_reading_of_which_the_model_itself_says_nothing_is_not_called_unfinished(
    of_model: bool | None, says: bool | None
) -> None:
    """As the first one of a model that knows a change alone: its progress is 0 by definition."""
    told = Told([Score(frame_id=0, progress=0.0, raw=0.0, done=of_model, version="v")], DoneRule(readings=2))
    (score,) = score_episode(CalibratedModel(told, MAP), "t", video(0))
    assert score.done is says


def test_a_done_rule_above_all_that_the_map_gives_is_told(caplog: pytest.LogCaptureFixture) -> None:
    low = Calibration(raw=(0.2, 0.6), calibrated=(0.0, 0.93))
    CalibratedModel(Told([], DoneRule(progress=0.93)), low)
    CalibratedModel(Told([], DoneRule(progress=0.95)), MAP)
    CalibratedModel(BrightnessModel(), low)
    assert "never says done" not in caplog.text
    CalibratedModel(Told([], DoneRule(progress=0.95)), low)
    assert "never says done: that takes a progress of 0.95" in caplog.text
    assert "0.930" in caplog.text


def test_a_calibrated_model_says_of_itself_what_its_model_says_but_for_what_the_map_changes() -> None:
    model = BrightnessModel(("front",), image_px=16)
    model.info = replace(model.info, about={"kind": "bright"}, observation_hz=30.0, trained_hz=15.0)
    info = CalibratedModel(model, MAP).info
    assert replace(info, version=model.info.version) == model.info
    assert info.about == {"kind": "calibrated", "of": {"kind": "bright"}, "calibration": MAP.as_dict()}
    model.info = replace(model.info, says_done=False)
    assert not CalibratedModel(model, MAP).info.says_done
    model.info = replace(model.info, done_rule=DoneRule(progress=0.5))
    assert CalibratedModel(model, MAP).info.says_done
    assert CalibratedModel(model, MAP).info.about["done_rule"] == asdict(DoneRule(progress=0.5))


def test_a_model_is_opened_calibrated_by_name(tmp_path: Path) -> None:
    result = written(tmp_path)
    model = load_reward_model(f"calibrated:{result}:brightness")
    assert model.info.version == calibrated(BrightnessModel(), result).info.version
    (score,) = score_episode(model, "t", video(0.4))
    assert score.progress == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"version": "sarm-1"},
            r"another reward model\. Found: version brightness-all\. Allowed: sarm-1\. Run roborl bench-reward",
        ),
        (
            {"calibration": None},
            r"fitted no calibration .*Found: version brightness-all.*Allowed: .*Run roborl bench-reward",
        ),
    ],
)
def test_a_file_that_has_no_map_for_the_version_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    place = f"calibrated:{written(tmp_path, **changes)}:brightness"
    with pytest.raises(ConfigError, match=words):
        load_reward_model(place)


@pytest.mark.parametrize(
    ("place", "error", "words"),
    [
        ("calibrated:brightness", ModelLoadError, r"not named\. Found: .*Allowed: .*For example"),
        ("calibrated:absent.json:brightness", ConfigError, "cannot be read"),
        ("calibrated:absent.json:nobody", ModelLoadError, "no reward model"),
    ],
)
def test_a_place_that_leads_nowhere_is_refused(place: str, error: type[RoborlError], words: str) -> None:
    with pytest.raises(error, match=words):
        load_reward_model(place)
