"""The CLIP reward model: the regularised projection, its anchors, and the whole way through a small network."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roborl import config as configs
from roborl.errors import ConfigError, ModelLoadError, ShapeError
from roborl.rewards.clip import ClipConfig, ClipModel, goal_baseline_reward
from roborl.rewards.model import Judge, score_episode
from roborl.rewards.registry import load_reward_model
from roborl.testing import check_reward_model as conformance
from roborl.testing.check_reward_model import random_observations
from roborl.testing.tiny_clip import build_tiny_clip
from roborl.types import Frame, Observation

reward_model_check = conformance.reward_model_check
GOAL, BASELINE = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])


def unit(*numbers):
    vector = np.array(numbers, float)
    return vector / np.linalg.norm(vector)


vectors = (
    st.lists(st.floats(-1, 1), min_size=3, max_size=3)
    .filter(lambda v: np.linalg.norm(v) > 0.1)
    .map(lambda v: unit(*v))
)


# The formula


def test_worked_examples():
    # s = (0, 0, 1): its nearest point on the line from (0, 1, 0) to (1, 0, 0) is the middle, (½, ½, 0).
    away = np.array([[0.0, 0.0, 1.0]])
    assert goal_baseline_reward(away, GOAL, BASELINE, strength=1.0) == pytest.approx(1 - 0.5 * 0.5)
    assert goal_baseline_reward(away, GOAL, BASELINE, strength=0.0) == pytest.approx(0.0)
    # Half way: ½ (½, ½, 0) + ½ (0, 0, 1) − (1, 0, 0) = (−¾, ¼, ½), of squared length ⅞.
    assert goal_baseline_reward(away, GOAL, BASELINE, strength=0.5) == pytest.approx(1 - 7 / 16)
    ends = np.stack([GOAL, BASELINE])
    for strength in (0.0, 0.3, 1.0):
        assert goal_baseline_reward(ends, GOAL, BASELINE, strength=strength) == pytest.approx([1.0, 0.0])


@given(vectors, vectors, vectors, st.floats(0, 1))
def test_the_two_published_forms_are_one(s, g, b, strength):
    d = g - b
    if d @ d < 1e-3:
        return
    matrix = strength * np.outer(d, d) / (d @ d) + (1 - strength) * np.eye(3)
    expected = 1 - 0.5 * np.linalg.norm((s - g) @ matrix) ** 2
    assert goal_baseline_reward(s[None], g, b, strength=strength) == pytest.approx(expected)


@given(vectors, vectors)
def test_without_projection_it_is_the_cosine(s, g):
    other = unit(*(g[[1, 2, 0]] + 0.3))
    if (g - other) @ (g - other) > 1e-3:
        assert goal_baseline_reward(s[None], g, other, strength=0.0) == pytest.approx(s @ g)


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_fully_projected_only_the_place_along_the_line_counts(along, across):
    place = BASELINE + along * (GOAL - BASELINE) + across * np.array([0.0, 0.0, 1.0])
    reward = goal_baseline_reward(place[None], GOAL, BASELINE, strength=1.0)
    assert reward == pytest.approx(1 - (1 - along) ** 2)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ConfigError, match="told from the baseline"):
        goal_baseline_reward(GOAL[None], GOAL, GOAL, strength=0.5)
    with pytest.raises(ConfigError, match="told from the baseline"):
        goal_baseline_reward(GOAL[None], GOAL, BASELINE, strength=1.5)
    with pytest.raises(ShapeError, match="do not match"):
        goal_baseline_reward(GOAL, GOAL, BASELINE, strength=0.5)


# The model, with a judge that can be seen through


class PlainJudge(Judge):
    """Red is the goal, green the baseline, blue neither, but a wall; words are told apart by what they speak of."""

    identity = "plain"

    def answer(self, queries):
        return [
            np.stack([unit(*p.mean(axis=(0, 1))) for p in query.pictures]).astype(np.float32)
            for query in queries
        ]

    def read(self, texts):
        named = {
            "done": unit(1, 0, 0),
            "almost": unit(1, 0.2, 0),
            "table": unit(0, 1, 0),
            "wall": unit(0, 0, 1),
        }
        return np.stack([next(v for word, v in named.items() if word in text) for text in texts]).astype(
            np.float32
        )


def picture(along, blue=0):
    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[..., 0], rgb[..., 1], rgb[..., 2] = round(200 * along), round(200 * (1 - along)), blue
    return rgb


def observe(index, **pictures):
    frames = {name: Frame(rgb=rgb, camera=name, stamp_ns=index, id=index) for name, rgb in pictures.items()}
    return Observation(frames=frames, state=np.zeros(6, np.float32), stamp_ns=index)


DEMO = np.stack([picture(along) for along in (0.1, 0.5, 0.9)])


def model_of(**settings):
    defaults = {"goal": ("{task} done",), "baseline": ("a table",)}
    return ClipModel(PlainJudge(), ClipConfig(**(defaults | settings)))


def progress_of(model, alongs, references=None, blue=0):
    episode = [observe(i, front=picture(a, blue), wrist=picture(a / 2)) for i, a in enumerate(alongs)]
    references = {"demo/front": DEMO, "demo/wrist": DEMO} if references is None else references
    return score_episode(model, "push", episode, references=references)


def test_the_ends_of_a_demonstration_are_the_ends_of_progress():
    scores = progress_of(model_of(), [0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 0.0])
    progress = [s.progress for s in scores]
    assert progress[0] == pytest.approx(0.0, abs=1e-6)
    assert progress[4] == pytest.approx(1.0, abs=1e-6)
    assert progress[:5] == sorted(progress[:5])
    assert progress[5:] == [1.0, 0.0]
    assert all(s.spread == 0.0 for s in scores)


def test_without_a_demonstration_the_settings_say_what_counts_as_progress():
    model = model_of(demonstration=False, low=0.0, high=1.0, strength=0.0)
    scores = progress_of(model, [0.0, 0.5, 1.0], references={})
    assert [s.progress for s in scores] == pytest.approx([0.0, np.sqrt(0.5), 1.0])
    assert [s.raw for s in scores] == pytest.approx([0.0, np.sqrt(0.5), 1.0])


@pytest.mark.parametrize(("strength", "reward"), [(0.0, 3 / 4), (0.5, 57 / 64), (1.0, 15 / 16)])
def test_wordings_are_averaged_and_their_mean_keeps_its_length(strength, reward):
    """By hand: g = (½, ½, 0), b = (½, 0, ½), so a picture at (1, 0, 0) is projected to (½, ¼, ¼)."""
    model = model_of(
        goal=("{task} done", "a table"),
        baseline=("a wall", "{task} done"),
        strength=strength,
        demonstration=False,
    )
    (score,) = progress_of(model, [1.0], references={})
    assert score.raw == pytest.approx(reward)


def test_projection_takes_away_what_a_picture_shows_besides():
    apart = {}
    for strength in (0.0, 1.0):
        model = model_of(strength=strength)
        plain, blue = (progress_of(model, [0.7], blue=b)[0].progress for b in (0, 30))
        apart[strength] = abs(plain - blue)
    assert apart[1.0] < apart[0.0]


def test_views_and_wordings_that_differ_are_doubt():
    two = progress_of(model_of(cameras=("front", "wrist")), [0.8])[0]
    assert two.spread > 0.1
    worded = progress_of(model_of(goal=("{task} done", "{task} almost")), [0.5])[0]
    assert worded.spread > 0.0
    assert worded.valid


def test_a_demonstration_that_does_not_approach_the_goal_is_refused():
    with pytest.raises(ConfigError, match="no nearer"):
        progress_of(model_of(), [0.5], {"demo/front": DEMO[::-1]})
    for demo, says in (
        (None, "lacks a demonstration"),
        (DEMO[:1], "lacks a demonstration"),
        (DEMO[0], "wrong form"),
        (DEMO.astype(float), "wrong form"),
    ):
        with pytest.raises(ConfigError, match=says):
            progress_of(model_of(), [0.5], {} if demo is None else {"demo/front": demo})


def test_vectors_that_are_not_finite_are_a_missing_score():
    fold = model_of().start("push", {"demo/front": DEMO})
    assert not fold.fold(3, [np.full((1, 3), np.nan, np.float32)]).valid
    assert not fold.fold(3, [None]).valid


@pytest.mark.parametrize(
    "change", [{"goal": ("{task} done!",)}, {"strength": 0.4}, {"cameras": ("wrist",)}, {"low": -1.0}]
)
def test_every_setting_is_part_of_the_version(change):
    assert model_of(**change).info.version != model_of().info.version
    assert model_of(checkpoint="elsewhere").info.version == model_of().info.version


@pytest.mark.parametrize(
    "settings",
    [
        {"cameras": ()},
        {"cameras": ("a", "a")},
        {"goal": ()},
        {"baseline": ()},
        {"strength": 2.0},
        {"low": 1.0},
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings):
    with pytest.raises(ConfigError, match="cannot be used"):
        ClipConfig(**settings)


@pytest.mark.parametrize("cameras", [("front",), ("front", "wrist")])
def test_the_model_conforms(reward_model_check, cameras):
    model = model_of(cameras=cameras)
    reward_model_check(model, references={"demo/front": DEMO, "demo/wrist": DEMO})


# The network


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.set_num_threads(1)
    return build_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


def test_a_real_network_conforms(reward_model_check, checkpoint, tmp_path):
    config = ClipConfig(checkpoint=str(checkpoint), device="cpu", demonstration=False, low=-1.0, high=1.0)
    (tmp_path / "clip.yaml").write_text(configs.dump(config))
    model = load_reward_model(f"clip:{tmp_path / 'clip.yaml'}")
    assert model.config == config
    reward_model_check(model, observations=random_observations(model, count=8), tolerance=1e-4)
    scores = score_episode(model, "push the cube", random_observations(model, count=8))
    assert len({round(s.progress, 4) for s in scores}) > 4


def test_its_vectors_are_those_of_the_library_and_every_picture_is_seen_once(checkpoint):
    from transformers import CLIPModel, CLIPProcessor

    from roborl.rewards.judges.clip_judge import ClipJudge, ClipQuery

    judge = ClipJudge.load(str(checkpoint), device="cpu")
    rng = np.random.default_rng(0)
    pictures = tuple(rng.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(3))
    (ours,) = judge.answer([ClipQuery(pictures=pictures)])
    model, processor = CLIPModel.from_pretrained(checkpoint).eval(), CLIPProcessor.from_pretrained(checkpoint)
    texts = ["push the cube", "a table"]
    with torch.inference_mode():
        out = model(**processor(images=list(pictures), text=texts, return_tensors="pt", padding=True))
    np.testing.assert_allclose(ours, out.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(judge.read(texts), out.text_embeds.numpy(), atol=1e-5)
    one, other = judge.answer([ClipQuery(pictures=pictures[:1]), ClipQuery(pictures=pictures[1:])])
    np.testing.assert_array_equal(np.concatenate([one, other]), ours)


def test_an_episode_may_start_while_others_are_judged(monkeypatch):
    from roborl.rewards.judges import clip_judge

    class Network:
        identity = "network"

        def pictures(self, pictures):
            return torch.ones(len(pictures), 8)

    class Watched(clip_judge.RecentCache):
        """Knows how many were at it at once."""

        inside = most = 0

        def get(self, key):
            return self._alone(super().get, key)

        def put(self, key, value):
            return self._alone(super().put, key, value)

        def _alone(self, act, *told):
            Watched.inside += 1
            Watched.most = max(Watched.most, Watched.inside)
            time.sleep(1e-3)
            done = act(*told)
            Watched.inside -= 1
            return done

    monkeypatch.setattr(clip_judge, "RecentCache", Watched)
    judge = clip_judge.ClipJudge(Network())
    asked = [clip_judge.ClipQuery(pictures=(np.full((2, 2, 3), level, np.uint8),)) for level in range(20)]
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda query: judge.answer([query]), asked))
    assert len(answers) == 20
    assert Watched.most == 1


def test_words_beyond_what_the_network_reads_are_refused(checkpoint):
    model = load_reward_model(f"clip:{checkpoint}")
    with pytest.raises(ConfigError, match="fewer words"):
        model.start("push the cube " * 20, {})


def test_a_checkpoint_that_cannot_be_used_is_refused(checkpoint, tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(
        ModelLoadError, match=r"Found: .*pytorch_model\.bin.*pickled.*save_pretrained.*folder"
    ):
        load_reward_model(f"clip:{tmp_path}")
    torn = rewritten(checkpoint, tmp_path / "torn", lambda weights: weights.pop("visual_projection.weight"))
    with pytest.raises(ModelLoadError, match="visual_projection"):
        load_reward_model(f"clip:{torn}")
    (torn / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(ModelLoadError, match="cannot be read"):
        load_reward_model(f"clip:{torn}")


def rewritten(checkpoint, folder, change):
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_places_that_older_releases_saved_are_left_and_nothing_else_that_is_surplus(checkpoint, tmp_path):
    from roborl.rewards.judges.clip_judge import ClipJudge, ClipQuery

    places = {
        "text_model.embeddings.position_ids": torch.arange(64)[None],
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
    }
    old = rewritten(checkpoint, tmp_path / "old", lambda weights: weights.update(places))
    new, same = (ClipJudge.load(str(folder), device="cpu") for folder in (checkpoint, old))
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    query = ClipQuery(pictures=(picture,))
    np.testing.assert_allclose(same.answer([query])[0], new.answer([query])[0], atol=1e-6)
    np.testing.assert_allclose(same.read(["push the cube"]), new.read(["push the cube"]), atol=1e-6)
    surplus = {"text_model.embeddings.bias": torch.zeros(3)}
    other = rewritten(old, tmp_path / "other", lambda weights: weights.update(surplus))
    with pytest.raises(
        ModelLoadError, match=r"not those of its network\. Found: .*embeddings\.bias"
    ) as refused:
        ClipJudge.load(str(other), device="cpu")
    assert "position_ids" not in str(refused.value)
