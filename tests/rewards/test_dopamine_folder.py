"""A dopamine model as a folder: what its config.json may say, and where the words of its question come from."""

import json
import logging

import pytest

from roborl.errors import ConfigError, ModelLoadError
from roborl.rewards.dopamine import LEAST_PIXELS, MOST_PIXELS, DopamineModel, load_reward_model
from roborl.rewards.dopamine_prompt import CONTRACT
from roborl.rewards.fusion import FusionRule, Perspective
from roborl.rewards.prompts import own_prompt
from roborl.rewards.registry import find_loader
from roborl.testing.tiny_vlms import build_tiny_vlm

FORMAT = {"format": "roborl-dopamine-1"}
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
def write(checkpoint, tmp_path):
    def setup(**settings):
        described = FORMAT | {"checkpoint": str(checkpoint), "judge": {"device": "cpu"}} | settings
        (tmp_path / "config.json").write_text(json.dumps(described))
        return tmp_path

    return setup


def test_the_registry_reads_a_model_with_its_settings(write):
    folder = write(
        model={
            "front": "high",
            "right_wrist": "wrist",
            "hop_frames": 3,
            "start_reference": "demo",
            "fusion": {"perspectives": ["forward", "backward"], "rule": "consistency", "floor": 0.2},
            "done": {"progress": 0.6, "readings": 5, "band": 0.02},
        }
    )
    model = find_loader(str(folder))()
    assert isinstance(model, DopamineModel)
    assert model.cameras == ("high", "wrist")
    assert model.config.fusion.perspectives == (Perspective.FORWARD, Perspective.BACKWARD)
    assert model.config.fusion.rule is FusionRule.CONSISTENCY
    assert (model.config.hop_frames, model.config.done.readings) == (3, 5)
    assert model.version == load_reward_model(folder).version


def test_pictures_have_the_size_of_training_unless_it_is_set(write):
    folder = write()
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in described.items() if k != "judge"}))
    trained = load_reward_model(folder).version
    assert (
        trained
        == load_reward_model(write(judge={"min_pixels": LEAST_PIXELS, "max_pixels": MOST_PIXELS})).version
    )
    assert trained != load_reward_model(write(judge={"max_pixels": 4 * MOST_PIXELS})).version


def test_paths_count_from_the_folder(write, checkpoint, tmp_path):
    (tmp_path / "network").symlink_to(checkpoint)
    (tmp_path / "words.txt").write_text(WORDS)
    by_name = load_reward_model(write(checkpoint="network", prompt={"file": "words.txt"}))
    by_place = load_reward_model(write(prompt={"file": str(tmp_path / "words.txt")}))
    assert by_name.version == by_place.version


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.txt", WORDS),
        ("lines.txt", WORDS + "\n"),
        ("inference.py", f"import nothing_of_the_kind\nOTHER = 'x'\nTEMPLATE = {WORDS!r}\n"),
        ("README.md", f"# A card\n\n```text\n{WORDS}\n```\n"),
    ],
)
def test_the_users_copy_of_the_words_is_used_and_never_run(write, caplog, name, text):
    folder = write(prompt={"file": name})
    (folder / name).write_text(text)
    with caplog.at_level(logging.WARNING):
        model = load_reward_model(folder)
    assert model.prompt.fill("fold") == tuple(s.replace("{instruction}", "fold") for s in SEGMENTS)
    assert "is not the published one" in caplog.text
    assert (
        model.version
        != DopamineModel(judge=model.judge, config=model.config, prompt=own_prompt(CONTRACT)).version
    )


def test_our_own_words_come_with_a_warning(write, caplog):
    with caplog.at_level(logging.WARNING):
        model = load_reward_model(write())
    assert model.prompt.origin == "own"
    assert len(model.prompt.fill("fold")) == 9
    assert "own words" in caplog.text


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
def test_words_that_drop_a_picture_or_the_task_are_refused(write, words):
    folder = write(prompt={"file": "words.txt"})
    (folder / "words.txt").write_text(words)
    with pytest.raises(ConfigError, match="not one wording"):
        load_reward_model(folder)


def test_a_hash_that_is_insisted_on_is_kept(write):
    folder = write(prompt={"file": "words.txt", "sha256": CONTRACT.known[0]})
    (folder / "words.txt").write_text(WORDS)
    with pytest.raises(ConfigError, match="insisted on"):
        load_reward_model(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"unknown": {}},
        {"model": {"front": ""}},
        {"model": {"goal": False}},
        {"model": {"hop_frames": "many"}},
        {"model": {"fusion": {"perspectives": ["sideways"]}}},
        {"judge": {"dtype": "float8"}},
        {"checkpoint": "no/such-checkpoint"},
    ],
)
def test_a_config_that_does_not_fit_is_refused(write, settings):
    with pytest.raises(ModelLoadError):
        load_reward_model(write(**settings))


def test_a_folder_without_config_or_with_a_torn_one_is_refused(tmp_path):
    with pytest.raises(ModelLoadError):
        load_reward_model(tmp_path)
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(ModelLoadError):
        load_reward_model(tmp_path)
