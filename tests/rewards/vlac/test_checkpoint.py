"""From a checkpoint to scores: the whole way through a small network, in its published layout and in the native one."""

import contextlib
import json
import logging
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from roborl import config as configs
from roborl.errors import ModelLoadError
from roborl.rewards.judges.config import JudgeConfig, JudgeKind
from roborl.rewards.judges.internvl import InternVlFamily
from roborl.rewards.judges.transformers_judge import TransformersJudge
from roborl.rewards.model import score_episode
from roborl.rewards.prompts import PromptConfig
from roborl.rewards.registry import load_reward_model
from roborl.rewards.vlac.checkpoint import native_checkpoint, open_vlac
from roborl.rewards.vlac.config import DoneQuestion, VlacConfig
from roborl.rewards.vlac.conversion import convert_checkpoint
from roborl.rewards.vlac.model import VlacModel
from roborl.rewards.vlac.wording import OUR_WORDING
from roborl.testing import check_reward_model as conformance
from roborl.testing.check_reward_model import random_observations
from roborl.testing.endpoint import StubEndpoint, answer, pictures_of
from roborl.testing.tiny_vlac import IMAGE_PX, write_published_vlac
from roborl.testing.tiny_vlms import build_tiny_vlm
from roborl.types import Frame, Observation

reward_model_check = conformance.reward_model_check
# A network that knows nothing contradicts itself, and rarely means yes or no.
UNKNOWING = {"image_px": IMAGE_PX, "reference_frames": 4, "contradiction": 1.0, "done_mass": 0.0}


def settings_of(checkpoint, **changes):
    judge = JudgeConfig(dtype="float32", device="cpu")
    return VlacConfig(**({"checkpoint": str(checkpoint), "judge": judge} | UNKNOWING | changes))


@pytest.fixture(scope="module", autouse=True)
def apart(tmp_path_factory):
    """One thread, and a cache of one's own."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_published_vlac(tmp_path_factory.mktemp("vlac") / "published")


@pytest.fixture(scope="module")
def model(published):
    return open_vlac(settings_of(published))


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
    "settings", [{"reference_frames": 0}, {"done": DoneQuestion.GOAL, "use_probabilities": False}]
)
def test_other_settings_conform_as_well(reward_model_check, model, published, settings):
    other = VlacModel(judge=model.judge, config=settings_of(published, abstain_pairs=0, **settings))
    reward_model_check(other, observations=random_observations(model, count=6), references=demonstration())


def test_a_native_checkpoint_that_says_no_numbers_gives_missing_scores(tmp_path):
    """Random weights of the real classes write rubbish: no rubbish becomes a number."""
    build_tiny_vlm(tmp_path / "native", "internvl")
    model = open_vlac(VlacConfig(checkpoint=str(tmp_path / "native"), image_px=56, reference_frames=2))
    scores = score_episode(
        model, "put it down", random_observations(model, count=5), references=demonstration()
    )
    assert scores[0].valid
    assert all(not score.valid and "no number" in score.reply for score in scores[1:])


def test_a_converted_folder_is_a_native_checkpoint(reward_model_check, published, model, tmp_path):
    convert_checkpoint(published, tmp_path / "native")
    native = open_vlac(settings_of(tmp_path / "native"))
    observations = random_observations(model, count=6)
    one, other = (score_episode(m, "t", observations, references=demonstration()) for m in (model, native))
    assert [s.reply for s in one] == [s.reply for s in other]
    assert native.info.version == model.info.version
    reward_model_check(native, observations=observations, references=demonstration())


def test_our_own_words_are_a_visible_warning_and_so_are_unknown_ones(published, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        plain = open_vlac(settings_of(published))
    assert "own words" in caplog.text
    assert plain.info.version.startswith("vlac-own-")
    caplog.clear()
    texts = {name: text for name, text in asdict(OUR_WORDING).items() if name != "origin"}
    (tmp_path / "words.json").write_text(json.dumps(texts | {"system": "You are shown pictures."}))
    with caplog.at_level(logging.WARNING):
        read = open_vlac(settings_of(published, prompt=PromptConfig(file=str(tmp_path / "words.json"))))
    assert "own words" not in caplog.text
    assert "not the published ones" in caplog.text
    assert read.wording.system == "You are shown pictures."
    assert read.info.version.startswith("vlac-found-")


def test_the_words_are_looked_for_beside_the_published_checkpoint(published, monkeypatch):
    looked = []

    def load(config, folder):
        looked.append(folder)
        return OUR_WORDING

    monkeypatch.setattr("roborl.rewards.vlac.checkpoint.load_wording", load)
    open_vlac(settings_of(published))
    assert looked == [published]


def test_pixels_reach_the_network_as_published(model):
    """Squeezed by the Lanczos filter whatever the aspect ratio, and set off against ImageNet's mean and deviation."""
    wide = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    fold = model.start("open the drawer", demonstration())
    for index in range(2):
        frame = Frame(rgb=wide, camera="front", stamp_ns=index, id=index)
        observation = Observation(frames={"front": frame}, state=np.zeros(6, np.float32), stamp_ns=index)
        queries = fold.queries(observation)
    shown = queries[0].pictures[-1]
    family = InternVlFamily(model.judge.network.model, model.judge.network.processor)
    (patches,) = family.patches_of_pictures([shown], [b"key"])
    squeezed = Image.fromarray(wide).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.LANCZOS)
    expected = (np.asarray(squeezed) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    pixels = patches.pixels[0].permute(1, 2, 0).numpy()
    assert pixels == pytest.approx(expected, abs=1e-5)


def test_a_network_for_pictures_of_another_size_is_refused(published):
    with pytest.raises(ModelLoadError, match="image_px to 28"):
        open_vlac(settings_of(published, image_px=448))
    with pytest.raises(ModelLoadError, match="image_px to 28"):
        load_reward_model(f"vlac:{published}")


def test_a_checkpoint_that_is_not_there_or_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match="no such checkpoint"):
        load_reward_model(f"vlac:{tmp_path / 'nowhere'}")
    build_tiny_vlm(tmp_path / "qwen", "qwen3_vl")
    with pytest.raises(ModelLoadError, match="no InternVL"):
        load_reward_model(f"vlac:{tmp_path / 'qwen'}")


def test_settings_come_from_a_file(published, tmp_path):
    config = settings_of(
        published, cameras=("front", "wrist"), floor=-0.5, done=DoneQuestion.GOAL, reference_frames=2
    )
    (tmp_path / "critic.yaml").write_text(configs.dump(config))
    model = load_reward_model(f"vlac:{tmp_path / 'critic.yaml'}")
    assert model.config == config
    assert model.info.cameras == ("front", "wrist")
    assert isinstance(model.judge, TransformersJudge)


@pytest.fixture
def critic_at():
    """A critic behind an endpoint that says the same change to every question, and the endpoint."""
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")

        def make(checkpoint, **settings):
            endpoint = StubEndpoint(lambda body: answer("1" if body["max_tokens"] == 2 else "+50"))
            stack.callback(endpoint.close)
            judge = JudgeConfig(kind=JudgeKind.OPENAI, endpoints=(endpoint.url,), concurrency=1)
            model = open_vlac(settings_of(checkpoint, judge=judge, **settings))
            stack.callback(model.judge.close)
            return model, endpoint

        yield make


def test_pictures_reach_an_endpoint_at_their_places_among_the_words(critic_at):
    model, endpoint = critic_at("", two_sided=False)
    observations = random_observations(model, count=2)
    scores = score_episode(model, "stack the cups", observations, references=demonstration())
    assert [score.progress for score in scores] == [0.0, 0.5]
    change, done = endpoint.asked
    fold = model.start("stack the cups", demonstration())
    fold.queries(observations[0])
    for body, query in zip((change, done), fold.queries(observations[1]), strict=True):
        system, user = body["messages"]
        assert system == {"role": "system", "content": query.system}
        words = [part.get("text", "picture") for part in user["content"]]
        assert words == [part if isinstance(part, str) else "picture" for part in query.parts]
        for picture, sent in zip(query.pictures, pictures_of(body), strict=True):
            assert (picture == sent).all(), "a picture is at another's place"
    assert len(pictures_of(change)) == 4 + 1 + 2
    assert [part["type"] for part in change["messages"][1]["content"]].count("text") > 5


def test_the_chat_template_of_a_converted_folder_leaves_pictures_among_the_words(published):
    """vLLM hands it the parts in order, since it goes through them; one that takes a text is given pictures first."""
    processor = AutoProcessor.from_pretrained(native_checkpoint(str(published)))
    parts = [{"type": "text", "text": "one "}, {"type": "image"}, {"type": "text", "text": " two "}]
    text = processor.apply_chat_template([{"role": "user", "content": [*parts, {"type": "image"}]}])
    assert text.split("user\n")[1] == "one <IMG_CONTEXT>\n two <IMG_CONTEXT>\n<|im_end|>\n"
    assert "for part in message['content']" in processor.chat_template


def test_people_are_told_which_folder_the_endpoints_have_to_serve(critic_at, tmp_path, caplog):
    folder = write_published_vlac(tmp_path / "published", seed=7)
    critic_at(folder)
    assert f"native_checkpoint({str(folder)!r})" in caplog.text
    native = native_checkpoint(str(folder))
    for checkpoint in (folder, native):
        caplog.clear()
        critic_at(checkpoint)
        assert f"vllm serve {native}" in caplog.text
    caplog.clear()
    critic_at("InternRobotics/VLAC-that-is-not-here")
    assert "native_checkpoint('InternRobotics/VLAC-that-is-not-here')" in caplog.text


def test_a_changed_checkpoint_is_converted_anew(tmp_path):
    write_published_vlac(tmp_path / "published")
    first = native_checkpoint(str(tmp_path / "published"))
    assert native_checkpoint(str(tmp_path / "published")) == first
    write_published_vlac(tmp_path / "published", seed=5)
    assert native_checkpoint(str(tmp_path / "published")) != first
    assert native_checkpoint(str(first)) == first
