"""From a folder to scores: the whole way through a small network, in its published layout and in the native one."""

import json
import logging
from dataclasses import asdict

import numpy as np
import pytest
import torch

from roborl.errors import ConfigError, ModelLoadError
from roborl.rewards.judges.config import JudgeConfig, JudgeKind
from roborl.rewards.judges.transformers_judge import TransformersJudge
from roborl.rewards.model import score_episode
from roborl.rewards.registry import find_loader, load_reward_model
from roborl.rewards.vlac.config import DoneQuestion, VlacConfig
from roborl.rewards.vlac.conversion import convert_checkpoint
from roborl.rewards.vlac.folder import write_reward_model
from roborl.rewards.vlac.wording import OUR_WORDING, read_wording
from roborl.testing import check_reward_model as conformance
from roborl.testing.check_reward_model import random_observations
from roborl.testing.tiny_vlac import IMAGE_PX, write_published_vlac
from roborl.testing.tiny_vlms import build_tiny_vlm

reward_model_check = conformance.reward_model_check
# A network that knows nothing contradicts itself, and rarely means yes or no.
UNKNOWING = VlacConfig(image_px=IMAGE_PX, reference_frames=4, contradiction=1.0, done_mass=0.0)
CPU = JudgeConfig(dtype="float32", device="cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_published_vlac(tmp_path_factory.mktemp("vlac") / "published")


@pytest.fixture(scope="module")
def model(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlac") / "critic"
    write_reward_model(folder, checkpoint=str(published), config=UNKNOWING, judge=CPU)
    return load_reward_model(str(folder))


def demonstration(seed=1, px=40):
    return {"demo/front": np.random.default_rng(seed).integers(0, 256, (9, px, px, 3), np.uint8)}


def test_a_published_checkpoint_conforms_once_converted(reward_model_check, model):
    reward_model_check(model, observations=random_observations(model, count=8), references=demonstration())


def test_its_answers_depend_on_what_it_is_shown(model):
    observations = random_observations(model, count=12)
    scores = score_episode(model, "stack the cups", observations, references=demonstration())
    assert all(score.valid for score in scores)
    assert len({score.reply.split(" | done")[0] for score in scores}) > 4
    other = score_episode(model, "stack the cups", observations, references=demonstration(seed=2))
    assert [s.reply for s in other] != [s.reply for s in scores]


def test_the_reference_is_read_once_in_an_episode(model):
    fold = model.start("open the drawer", demonstration(seed=3))
    first, second, third = random_observations(model, count=3, seed=4)
    fold.queries(first)
    forward, backward, done = model.judge.answer(fold.queries(second))
    assert forward.reused_tokens == 0
    again = model.judge.answer(fold.queries(third))
    # Four pictures of the demonstration and one of the start, with the words around them.
    assert again[0].reused_tokens == again[1].reused_tokens > 5 * 4 + 50
    assert again[0].reused_tokens < again[0].prompt_tokens
    assert backward.prompt_tokens >= done.prompt_tokens


@pytest.mark.parametrize(
    "settings", [{"reference_frames": 0}, {"done": DoneQuestion.GOAL, "use_probabilities": True}]
)
def test_other_settings_conform_as_well(reward_model_check, model, settings):
    config = VlacConfig(**({**vars_of(UNKNOWING), "abstain_pairs": 0} | settings))
    other = type(model)(judge=model.judge, config=config)
    reward_model_check(other, observations=random_observations(model, count=6), references=demonstration())


def vars_of(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_a_native_checkpoint_that_says_no_numbers_gives_missing_scores(tmp_path):
    """Random weights of the real classes write rubbish: no rubbish becomes a number."""
    build_tiny_vlm(tmp_path / "native", "internvl")
    config = VlacConfig(image_px=56, reference_frames=2)
    write_reward_model(tmp_path / "critic", checkpoint=str(tmp_path / "native"), config=config, judge=CPU)
    model = load_reward_model(str(tmp_path / "critic"))
    scores = score_episode(
        model, "put it down", random_observations(model, count=5), references=demonstration()
    )
    assert scores[0].valid
    assert all(not score.valid and "no number" in score.reply for score in scores[1:])


def test_a_converted_folder_is_a_native_checkpoint(reward_model_check, published, model, tmp_path):
    convert_checkpoint(published, tmp_path / "native")
    write_reward_model(tmp_path / "critic", checkpoint=str(tmp_path / "native"), config=UNKNOWING, judge=CPU)
    native = load_reward_model(str(tmp_path / "critic"))
    observations = random_observations(model, count=6)
    one, other = (score_episode(m, "t", observations, references=demonstration()) for m in (model, native))
    assert [s.reply for s in one] == [s.reply for s in other]
    assert native.version == model.version
    reward_model_check(native, observations=observations, references=demonstration())


def test_the_conversion_happens_once(published, tmp_path):
    write_reward_model(tmp_path, checkpoint=str(published), config=UNKNOWING, judge=CPU)
    version = load_reward_model(str(tmp_path)).version
    written = (tmp_path / "native" / "model.safetensors").stat().st_mtime_ns
    assert load_reward_model(str(tmp_path)).version == version
    assert (tmp_path / "native" / "model.safetensors").stat().st_mtime_ns == written


def test_our_own_words_are_a_visible_warning_and_a_file_of_words_is_not(model, published, tmp_path, caplog):
    write_reward_model(tmp_path, checkpoint=str(published), config=UNKNOWING, judge=CPU)
    with caplog.at_level(logging.WARNING):
        plain = load_reward_model(str(tmp_path))
    assert "our own words" in caplog.text
    caplog.clear()
    texts = asdict(OUR_WORDING) | {"system": "You are shown pictures."}
    (tmp_path / "words.json").write_text(json.dumps(texts))
    write_reward_model(tmp_path, checkpoint=str(published), config=UNKNOWING, judge=CPU, wording="words.json")
    with caplog.at_level(logging.WARNING):
        read = load_reward_model(str(tmp_path))
    assert not caplog.records
    assert read.wording.system == "You are shown pictures."
    assert read.version != plain.version


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"system": None}, "other texts"),
        ({"shout": "!"}, "other texts"),
        ({"pair_ask": "which?"}, "pair_ask is not whole"),
        ({"trajectory_step": "{task}"}, "trajectory_step is not whole"),
        ({"done_goal_next": "{task}"}, "done_goal_next is not whole"),
        ({"system": 3}, "system is not whole"),
    ],
)
def test_a_wording_that_is_not_whole_is_refused(tmp_path, change, words):
    texts = {name: text for name, text in (asdict(OUR_WORDING) | change).items() if text is not None}
    (tmp_path / "words.json").write_text(json.dumps(texts))
    with pytest.raises(ConfigError, match=words):
        read_wording(tmp_path / "words.json")


def test_a_wording_that_is_no_file_is_refused(tmp_path):
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    for name, words in (
        ("none.json", "cannot be read"),
        ("torn.json", "cannot be read"),
        ("list.json", "other texts"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_wording(tmp_path / name)


def test_a_network_for_pictures_of_another_size_is_refused(published, tmp_path):
    write_reward_model(tmp_path, checkpoint=str(published), config=VlacConfig(), judge=CPU)
    with pytest.raises(ModelLoadError, match="image_px to 28"):
        load_reward_model(str(tmp_path))


def test_a_folder_that_is_torn_or_foreign_is_refused(published, tmp_path):
    write_reward_model(tmp_path, checkpoint=str(published), config=UNKNOWING, judge=CPU)
    whole = json.loads((tmp_path / "config.json").read_text())
    for broken in (
        {name: value for name, value in whole.items() if name != "checkpoint"},
        whole | {"model": {"recurrence": "cubic"}},
        whole | {"model": {"unheard_of": 1}},
        whole | {"judge": 5},
    ):
        (tmp_path / "config.json").write_text(json.dumps(broken))
        with pytest.raises(ModelLoadError, match="cannot be read"):
            find_loader(str(tmp_path))()
    (tmp_path / "config.json").write_text(json.dumps(whole | {"checkpoint": str(tmp_path / "nowhere")}))
    with pytest.raises(ModelLoadError):
        load_reward_model(str(tmp_path))


def test_settings_survive_the_folder(published, tmp_path):
    config = VlacConfig(
        cameras=("front", "wrist"), image_px=IMAGE_PX, floor=-0.5, done=DoneQuestion.GOAL, reference_frames=2
    )
    write_reward_model(tmp_path, checkpoint=str(published), config=config, judge=CPU)
    model = load_reward_model(str(tmp_path))
    assert model.config == config
    assert isinstance(model.judge, TransformersJudge)
    assert model.cameras == ("front", "wrist")


def test_behind_an_endpoint_no_checkpoint_is_needed(tmp_path):
    judge = JudgeConfig(
        kind=JudgeKind.OPENAI, endpoints=("http://127.0.0.1:9/v1",), attempts=1, timeout_s=1.0
    )
    write_reward_model(tmp_path, checkpoint="InternRobotics/VLAC", judge=judge)
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["judge"]["endpoints"] == ["http://127.0.0.1:9/v1"]
