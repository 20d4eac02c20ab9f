"""A dopamine model from its checkpoint: by name or by a file of settings, and where the words of its question come from."""

import dataclasses
import json
import logging
import shutil

import cv2
import numpy as np
import pytest
import yaml

from roborl.errors import ConfigError, ModelLoadError
from roborl.rewards.calibration import Calibration
from roborl.rewards.dopamine import DopamineModel, load_dopamine
from roborl.rewards.dopamine_question import CONTRACT
from roborl.rewards.fusion import FusionRule, Perspective
from roborl.rewards.measured import FORMAT
from roborl.rewards.prompts import digest_of, own_prompt
from roborl.rewards.registry import load_reward_model
from roborl.rewards.sarm.checkpoint import freeze_sarm, save_sarm
from roborl.rewards.sarm.config import SarmConfig
from roborl.rewards.sarm.network import SarmNetwork
from roborl.rewards.training.labels import StagePlan
from roborl.testing.tiny_vlms import build_tiny_vlm

SEGMENTS = [
    "Do {instruction}. <score> start",
    *(f" before {i} after" for i in range(7)),
    "{instruction}: how far?",
]
WORDS = "<image>".join(SEGMENTS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return build_tiny_vlm(tmp_path_factory.mktemp("models") / "tiny", "qwen3_vl")


@pytest.fixture
def load(checkpoint, tmp_path):
    def read(**settings):
        place = tmp_path / "dopamine.yaml"
        place.write_text(yaml.safe_dump({"checkpoint": str(checkpoint)} | settings))
        return load_dopamine(str(place))

    return read


def test_the_registry_reads_a_checkpoint_by_its_kind(checkpoint, load):
    model = load_reward_model(f"dopamine:{checkpoint}")
    assert isinstance(model, DopamineModel)
    assert model.info.cameras == ("front",)
    assert model.info.version == load().info.version


def test_a_file_of_settings_sets_everything(load):
    model = load(
        front="high",
        right_wrist="wrist",
        observation_hz=30.0,
        hop_s=0.1,
        start_reference="demo",
        fusion={"perspectives": ["forward", "backward"], "rule": "consistency", "floor": 0.2},
        done={"progress": 0.6, "readings": 5, "band": 0.02},
    )
    assert model.info.cameras == ("high", "wrist")
    assert model.config.fusion.perspectives == (Perspective.FORWARD, Perspective.BACKWARD)
    assert model.config.fusion.rule is FusionRule.CONSISTENCY
    assert (model.config.hop_frames, model.config.done.readings) == (3, 5)


def test_pictures_have_the_size_of_training_unless_it_is_set(load):
    trained = load().info.version
    assert trained == load(min_pixels=112 * 112, max_pixels=320 * 240).info.version
    assert trained != load(max_pixels=640 * 480).info.version


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.txt", WORDS),
        ("lines.txt", WORDS + "\n"),
        ("inference.py", f"import nothing_of_the_kind\nOTHER = 'x'\nTEMPLATE = {WORDS!r}\n"),
        ("README.md", f"# A card\n\n```text\n{WORDS}\n```\n"),
    ],
)
def test_the_users_copy_of_the_words_is_used_and_never_run(load, tmp_path, caplog, name, text):
    (tmp_path / name).write_text(text)
    with caplog.at_level(logging.WARNING):
        model = load(prompt={"file": str(tmp_path / name)})
    assert model.prompt.fill("fold") == tuple(s.replace("{instruction}", "fold") for s in SEGMENTS)
    assert model.info.version.startswith("dopamine-found-")
    assert "is not the published one" in caplog.text
    ours = DopamineModel(judge=model.judge, config=model.config, prompt=own_prompt(CONTRACT))
    assert ours.info.version.startswith("dopamine-own-")


def test_the_published_words_are_found_in_the_code_beside_the_checkpoint(checkpoint, tmp_path, monkeypatch):
    folder = shutil.copytree(checkpoint, tmp_path / "with_code")
    (folder / "inference.py").write_text(f"import nothing_of_the_kind\nTEMPLATE = {WORDS!r}\n")
    assert load_reward_model(f"dopamine:{folder}").prompt.origin == "own"
    published = dataclasses.replace(CONTRACT, known=(digest_of(WORDS),))
    monkeypatch.setattr("roborl.rewards.dopamine.CONTRACT", published)
    model = load_reward_model(f"dopamine:{folder}")
    assert (model.prompt.origin, model.prompt.template) == ("known", WORDS)


def test_references_come_from_files(load, tmp_path):
    cv2.imwrite(str(tmp_path / "goal.png"), np.full((48, 64, 3), (30, 20, 10), np.uint8))
    model = load(references={"goal/front": str(tmp_path / "goal.png")})
    assert model.references["goal/front"][0, 0].tolist() == [10, 20, 30]
    model.start("t", {})
    assert model.info.version != load().info.version
    with pytest.raises(ConfigError, match="lacks a reference"):
        load().start("t", {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load(references={"goal/front": str(tmp_path / "nothing.png")})


def test_where_things_lie_is_no_part_of_a_version(load, checkpoint, tmp_path):
    (tmp_path / "network").symlink_to(checkpoint)
    (tmp_path / "one.txt").write_text(WORDS)
    (tmp_path / "other.txt").write_text(WORDS)
    one = load(prompt={"file": str(tmp_path / "one.txt")})
    other = load(checkpoint=str(tmp_path / "network"), prompt={"file": str(tmp_path / "other.txt")})
    assert one.info.version == other.info.version


def test_our_own_words_come_with_a_warning(load, caplog):
    with caplog.at_level(logging.WARNING):
        model = load()
    assert model.prompt.origin == "own"
    assert len(model.prompt.fill("fold")) == 9
    assert "own words" in caplog.text


@pytest.fixture
def told_of_done(checkpoint, tmp_path, caplog):
    """Whether opening the model by name warns of its threshold."""

    def read(before="", **settings):
        place = tmp_path / "watch.yaml"
        place.write_text(yaml.safe_dump({"checkpoint": str(checkpoint)} | settings))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            model = load_reward_model(f"{before}dopamine:{place}")
        return model, "neither adapted nor calibrated may never reach it" in caplog.text

    return read


def test_a_folder_of_that_name_with_another_model_is_read_as_what_it_is(tmp_path, monkeypatch, caplog):
    plan = StagePlan(names=("reach",), shares=(1.0,))
    network = SarmNetwork(SarmConfig(image_px=32), plan, ("front",), 2)
    sarm = freeze_sarm(network, plan, cameras=("front",), tasks=("t",), state_dim=2)
    save_sarm(sarm, tmp_path / "dopamine")
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert load_reward_model("dopamine").info.version == sarm.info.version
    assert not caplog.text


def test_a_high_threshold_for_done_is_warned_of_unless_the_judge_was_adapted_or_calibrated(
    told_of_done, checkpoint, tmp_path
):
    model, told = told_of_done()
    assert told
    assert told_of_done(done={"progress": 0.9})[1]
    assert not told_of_done(done={"progress": 0.6})[1]

    adapted = shutil.copytree(checkpoint, tmp_path / "adapted")
    (adapted / "training.json").write_text("{}")
    assert not told_of_done(checkpoint=str(adapted))[1]

    result = tmp_path / "bench_reward.json"
    row = {
        "version": model.info.version,
        "calibration": Calibration(raw=(0.0, 0.6), calibrated=(0.0, 1.0)).as_dict(),
    }
    result.write_text(json.dumps({"format": FORMAT, "models": {"one": row}}))
    calibrated, told = told_of_done(f"calibrated:{result}:")
    assert calibrated.info.version != model.info.version
    assert not told


@pytest.mark.parametrize(
    "words",
    [
        WORDS.replace("<image>", "", 1),
        WORDS + "<image>",
        WORDS.replace("{instruction}", "it", 1),
        WORDS + "{instruction}",
        WORDS.replace("{instruction}", "{other}", 1),
        "",
    ],
)
def test_words_that_drop_a_picture_or_the_task_are_refused(load, tmp_path, words):
    (tmp_path / "words.txt").write_text(words)
    with pytest.raises(ConfigError, match="not one wording"):
        load(prompt={"file": str(tmp_path / "words.txt")})


def test_a_hash_that_is_insisted_on_is_kept(load, tmp_path):
    (tmp_path / "words.txt").write_text(WORDS)
    with pytest.raises(ConfigError, match="insisted on"):
        load(prompt={"file": str(tmp_path / "words.txt"), "sha256": CONTRACT.known[0]})


@pytest.mark.parametrize(
    "settings",
    [
        {"unknown": 1},
        {"front": ""},
        {"goal": False},
        {"hop_s": "many"},
        {"fusion": {"perspectives": ["sideways"]}},
        {"judge": {"dtype": "float8"}},
    ],
)
def test_settings_that_do_not_fit_are_refused(load, settings):
    with pytest.raises(ConfigError):
        load(**settings)


def test_a_checkpoint_that_is_not_there_is_refused():
    with pytest.raises(ModelLoadError, match="no such checkpoint"):
        load_reward_model("dopamine:no/such-checkpoint")
