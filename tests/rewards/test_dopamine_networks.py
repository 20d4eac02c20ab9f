"""The adapter with real networks of the two families that its checkpoints belong to, small and random.

They are taught to spell replies; which number they spell depends on the pictures, and means nothing.
"""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from roborl.loops.serve import ServeConfig, serving
from roborl.rewards.dopamine import DopamineConfig, DopamineModel
from roborl.rewards.dopamine_question import CONTRACT
from roborl.rewards.fusion import FusionConfig, Perspective
from roborl.rewards.hop_replies import hop_of, read_hop
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.judges.transformers_judge import TransformersJudge
from roborl.rewards.model import score_episode
from roborl.rewards.prompts import own_prompt
from roborl.serving.score_client import ScoreClient
from roborl.serving.score_events import Scored
from roborl.testing import check_reward_model as conformance
from roborl.testing.spelling import teach_to_spell
from roborl.testing.tiny_vlms import build_tiny_vlm
from roborl.types import Frame, Observation

reward_model_check = conformance.reward_model_check
FAMILIES = ("qwen2_5_vl", "qwen3_vl")
CAMERAS = {"front": "front", "left_wrist": "left", "right_wrist": "right"}


def picture(seed):
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    rgb = np.kron(blocks, np.ones((16, 16, 1), np.uint8))
    rgb.flags.writeable = False
    return rgb


GOAL = {"goal/front": picture(99)}


def watch(count, *, seed=0):
    def frames(index):
        names = enumerate(CAMERAS.values())
        return {n: Frame(rgb=picture([seed, index, c]), camera=n, stamp_ns=0, id=index) for c, n in names}

    state = np.zeros(6, np.float32)
    return [Observation(frames=frames(index), state=state, stamp_ns=0) for index in range(count)]


def model_of(judge, *perspectives, **settings):
    fusion = FusionConfig(perspectives=perspectives or tuple(Perspective))
    config = DopamineConfig(**(CAMERAS | {"fusion": fusion} | settings))
    return DopamineModel(judge=judge, config=config, prompt=own_prompt(CONTRACT))


def questions(model, observations):
    fold = model.start("fold the towel", GOAL)
    return [query for observation in observations for query in fold.queries(observation)]


@pytest.fixture(scope="module", params=FAMILIES)
def judge(request, tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    build_tiny_vlm(folder, request.param, width=64, words=[CONTRACT.own])
    judge = TransformersJudge.load(JudgeConfig(device="cpu"), str(folder))
    asked = questions(model_of(judge), watch(9, seed=1))
    signed = [f"{'+-'[number % 2]}{1 + number % 9}" for number in range(len(asked))]
    teach_to_spell(judge, [(q, f"<score>{n}%</score>") for q, n in zip(asked, signed, strict=True)])
    return judge


def test_it_conforms(reward_model_check, judge):
    reward_model_check(model_of(judge), observations=watch(6), references=GOAL)


def test_replies_are_read_and_doubted(judge):
    scores = score_episode(model_of(judge), "t", watch(6, seed=2), references=GOAL)
    assert all(score.valid for score in scores)
    assert all(score.spread > 0 for score in scores[1:])
    assert len({score.raw for score in scores}) == len(scores)
    assert all(score.reply.count("</score>") == 3 for score in scores[1:])
    assert scores[1].timings_ms.keys() == {"seeing", "reading", "writing"}


def test_expected_hops_come_from_the_tokens(judge):
    model = model_of(judge, Perspective.FORWARD)
    (reply,) = judge.answer(questions(model, watch(2)))
    assert "".join(token.text for token in reply.tokens) == reply.text
    hop = hop_of(reply)
    assert hop.spread > 0
    assert hop.value != read_hop(reply.text)
    assert abs(hop.value - read_hop(reply.text)) < 5 * hop.spread


@pytest.mark.parametrize(
    ("perspective", "constant"),
    [(Perspective.FORWARD, 5), (Perspective.BACKWARD, 5), (Perspective.INCREMENTAL, 2)],
)
def test_what_stays_over_an_episode_is_read_once(judge, perspective, constant):
    asked = questions(model_of(judge, perspective), watch(4, seed=3))
    first, *others = [judge.answer([query])[0] for query in asked]
    assert first.reused_tokens == 0
    (reused,) = {reply.reused_tokens for reply in others}
    pictures = [rows * columns for _, rows, columns in first.cells]
    assert reused > sum(pictures[:constant])
    assert first.prompt_tokens - reused > sum(pictures[constant:])


def test_frames_go_in_and_scores_come_out_over_a_socket(judge):
    model, shown = model_of(judge), watch(5, seed=4)
    scores, sent, deadline = [], 0, time.monotonic() + 20
    with serving({"grm": model}, ServeConfig(endpoint="tcp://127.0.0.1:*")) as server:
        client = ScoreClient(server.endpoint, name="test")
        session = client.open_session("fold the towel", list(CAMERAS.values()), references=GOAL)
        while len(scores) < len(shown):
            assert time.monotonic() < deadline
            while sent < len(shown) and client.push_frame(session, sent, shown[sent].images):
                sent += 1
            scores += [event.score for event in client.poll(0.02) if isinstance(event, Scored)]
        client.close()
    for one, other in zip(
        scores, score_episode(model, "fold the towel", shown, references=GOAL), strict=True
    ):
        assert (one.frame_id, one.version) == (other.frame_id, other.version)
        assert one.progress == pytest.approx(other.progress, abs=1e-4)


def test_pictures_are_seen_within_the_limits_of_training(judge):
    """640 x 480 is 11 x 8 visual tokens for the first family and 10 x 7 for the second."""
    config = DopamineConfig()
    limited = TransformersJudge(
        judge.network, JudgeConfig(), min_pixels=config.min_pixels, max_pixels=config.max_pixels
    )
    wide = {
        name: Frame(rgb=np.zeros((480, 640, 3), np.uint8), camera=name, stamp_ns=0, id=0)
        for name in CAMERAS.values()
    }
    seen = [
        Observation(
            frames={n: replace(f, id=index) for n, f in wide.items()},
            state=np.zeros(6, np.float32),
            stamp_ns=0,
        )
        for index in range(2)
    ]
    fold = model_of(limited).start("t", {"goal/front": wide["front"].rgb})
    fold.queries(seen[0])
    for query in fold.queries(seen[1]):
        cells = limited.cells(query)
        assert len(cells) == 8
        grid, total = {"qwen2_5_vl": ((1, 8, 11), 704), "qwen3_vl": ((1, 7, 10), 560)}[
            judge.network.model_type
        ]
        assert set(cells) == {grid}
        assert sum(rows * columns for _, rows, columns in cells) == total
