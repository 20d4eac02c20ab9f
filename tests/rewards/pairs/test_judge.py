"""The judge behind the questions of the dopamine model: what it answers, what it keeps, and that it learns to look."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from roborl.errors import ConfigError, ModelLoadError, ShapeError
from roborl.rewards.dopamine import DopamineConfig, DopamineModel
from roborl.rewards.dopamine_question import CONTRACT, ask_hop
from roborl.rewards.fusion import FusionConfig, Perspective
from roborl.rewards.hop_replies import hop_of, read_hop
from roborl.rewards.judges.queries import VlmQuery
from roborl.rewards.metrics import mean_absolute_error
from roborl.rewards.model import score_episode
from roborl.rewards.pairs.batches import prepare_task
from roborl.rewards.pairs.config import PairNetworkConfig, PairTraining
from roborl.rewards.pairs.judge import PairJudge
from roborl.rewards.pairs.model import save_pair_model
from roborl.rewards.pairs.network import PairNetwork
from roborl.rewards.pairs.training import train_pairs
from roborl.rewards.prompts import own_prompt
from roborl.rewards.registry import load_reward_model
from roborl.rewards.time_only import mean_progress
from roborl.rewards.training.episodes import TrainingEpisode, as_video
from roborl.testing import check_reward_model as conformance

from .conftest import SIDE, TASK, drive

reward_model_check = conformance.reward_model_check

WORDS = own_prompt(CONTRACT).fill(TASK)
SMALL = PairNetworkConfig(image_px=SIDE, keypoints=4, channels=6, width=48)


def network(seed: int = 0, wrists: int = 1) -> PairNetwork:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return PairNetwork(SMALL, wrists)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def question(*seeds: int, probabilities: bool = True) -> VlmQuery:
    start, goal, *views = (picture(seed) for seed in seeds)
    return ask_hop(WORDS, (start, goal), tuple(views[:3]), tuple(views[3:]), probabilities=probabilities)


def test_a_reply_is_a_hop_with_the_spread_of_all_that_it_might_have_been() -> None:
    judge = PairJudge(network())
    (reply,) = judge.answer([question(*range(8))])
    ((_, most), *_), hops = reply.tokens[0].alternatives, judge.network.hops.numpy()
    likely = {read_hop(text): p for text, p in reply.tokens[0].alternatives}
    assert len(likely) == SMALL.bins
    assert sum(likely.values()) == pytest.approx(1.0)
    assert sorted(likely) == pytest.approx(hops, abs=5e-4)
    assert likely[read_hop(reply.text)] == most == max(likely.values())
    mean = sum(hop * p for hop, p in likely.items())
    hop = hop_of(reply)
    assert hop.value == pytest.approx(mean)
    assert hop.spread**2 == pytest.approx(sum(p * (h - mean) ** 2 for h, p in likely.items()))
    (plain,) = judge.answer([question(*range(8), probabilities=False)])
    assert hop_of(plain).value == pytest.approx(mean, abs=1e-3)


def test_company_changes_no_reply() -> None:
    asked = [question(0, 1, *range(k, k + 6)) for k in range(2, 9)]
    together = PairJudge(network()).answer(asked)
    for query, reply in zip(asked, together, strict=True):
        (alone,) = PairJudge(network()).answer([query])
        assert hop_of(alone).value == pytest.approx(hop_of(reply).value, abs=1e-5)
    assert len({hop_of(reply).value for reply in together}) == len(asked)
    assert PairJudge(network()).answer([]) == []


def test_a_wrist_that_shows_the_front_picture_is_not_seen() -> None:
    one, two = network(), network()
    with torch.no_grad():
        two.eyes[1].layers[0].bias += 1.0 + torch.arange(6.0)
        two.eyes[1].layers[2].bias += 1.0
    hidden, shown = question(0, 1, 2, 2, 2, 3, 3, 3), question(0, 1, 2, 4, 4, 3, 5, 5)
    before, after = ([hop_of(r).value for r in PairJudge(n).answer([hidden, shown])] for n in (one, two))
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_question_of_another_form_is_refused() -> None:
    with pytest.raises(ShapeError, match="1 pictures"):
        PairJudge(network()).answer([VlmQuery(parts=("is it done?", picture(0)))])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    asked = DopamineConfig(left_wrist="wrist")
    save_pair_model(network(), tmp_path / "judge", asked=asked, tasks=[TASK], goal=picture(9))
    return tmp_path / "judge"


def test_a_judge_comes_back_as_it_was_and_conforms(folder: Path, reward_model_check) -> None:
    model = load_reward_model(str(folder))
    assert model.info.cameras == ("front", "wrist")
    assert model.info.version == load_reward_model(f"dopamine:{folder}").info.version
    assert model.info.version.startswith("dopamine-own-"), "these words are not the published ones"
    asked = [question(0, 1, *range(k, k + 6)) for k in range(3)]
    assert [r.tokens for r in model.judge.answer(asked)] == [
        r.tokens for r in PairJudge(network()).answer(asked)
    ]
    assert np.array_equal(model.references["goal/front"], picture(9))
    reward_model_check(model)
    save_pair_model(network(1), folder, asked=model.config, tasks=[TASK], goal=picture(9))
    assert load_reward_model(str(folder)).info.version != model.info.version


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "roborl-pairs-9"}, "format that this release does not read"),
        ({"wrists": 2}, "cannot be read"),
        ({"network": {"image_px": 64, "keypoints": 4, "channels": 6, "width": 48}}, "do not belong together"),
        ({"network": {"wings": 2}}, "cannot be read"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(folder: Path, change: dict, words: str) -> None:
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | change))
    with pytest.raises(ModelLoadError, match=words):
        load_reward_model(str(folder))


@pytest.mark.parametrize(
    "wrists", [{"right_wrist": "wrist"}, {"left_wrist": "wrist", "right_wrist": "other"}]
)
def test_a_judge_that_would_never_look_at_a_wrist_is_refused(wrists: dict[str, str], tmp_path: Path) -> None:
    save_pair_model(network(), tmp_path, asked=DopamineConfig(**wrists), tasks=[TASK], goal=picture(9))
    for place in (tmp_path, f"dopamine:{tmp_path}"):
        with pytest.raises(ConfigError, match=r"never look.*right_wrist.*1 wrists.*as left_wrist, whichever"):
            load_reward_model(str(place))
    save_pair_model(network(wrists=2), tmp_path, asked=DopamineConfig(**wrists), tasks=[TASK])
    assert "wrist" in load_reward_model(str(tmp_path)).info.cameras


def test_weights_that_are_missing_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="cannot be read"):
        load_reward_model(str(folder))


def test_it_learns_to_look_in_a_world_where_time_misleads() -> None:
    learnt = [drive(seed) for seed in range(12)] + [drive(seed, success=False) for seed in range(12, 18)]
    judge = network()
    training = PairTraining(
        steps=160, episodes=4, moments=6, shift_px=2, learning_rate=3e-3, failure_share=0.3
    )
    train_pairs(judge, {TASK: prepare_task(learnt, ("front", "wrist"), SIDE)}, training)
    goal = learnt[0].images["front"][-1]
    clock = mean_progress([e.benchmark for e in learnt if e.success])

    def errors(episodes: list[TrainingEpisode], *perspectives: Perspective) -> float:
        config = DopamineConfig(left_wrist="wrist", fusion=FusionConfig(perspectives=perspectives))
        model = DopamineModel(judge=PairJudge(judge), config=config, prompt=own_prompt(CONTRACT))
        found = []
        for e in episodes:
            scores = score_episode(model, TASK, as_video(e, range(e.frames)), references={"goal/front": goal})
            found.append(mean_absolute_error([s.progress for s in scores], e.benchmark))
        return float(np.mean(found))

    def by_time(episodes: list[TrainingEpisode]) -> float:
        return float(np.mean([mean_absolute_error(clock[: e.frames], e.benchmark) for e in episodes]))

    successes = [drive(seed) for seed in range(100, 108)]
    failures = [drive(seed, success=False) for seed in range(200, 206)]
    for perspectives in (tuple(Perspective), (Perspective.FORWARD,), (Perspective.BACKWARD,)):
        assert errors(successes, *perspectives) < 0.7 * by_time(successes), perspectives
        assert errors(failures, *perspectives) < 0.5 * by_time(failures), perspectives
