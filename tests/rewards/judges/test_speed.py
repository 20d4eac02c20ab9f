"""What batching, seeing pictures once and reading prefixes once are worth; figures that want an idle machine."""

import time

import numpy as np
import pytest

from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.judges.queries import VlmQuery
from roborl.rewards.judges.transformers_judge import TransformersJudge
from roborl.testing.tiny_vlms import TINY_KINDS, build_tiny_vlm

pytestmark = pytest.mark.slow


def pictures(count, px=224):
    return list(np.random.default_rng(0).integers(0, 256, (count, px, px, 3), np.uint8))


def best_s(ask, times=5):
    taken = []
    for turn in range(times):
        began = time.perf_counter()
        ask(turn)
        taken.append(time.perf_counter() - began)
    return min(taken)


def test_eight_sessions_together_are_three_times_as_fast_as_one_by_one(judge_of):
    judge = judge_of("qwen3_vl")
    firsts, fresh = pictures(8), iter(pictures(2 * 8 * 6))

    def questions():
        return [
            VlmQuery(parts=("lift the cube", first, "now", next(fresh)), prefix=2, max_tokens=4)
            for first in firsts
        ]

    judge.answer(questions())
    alone_s = best_s(lambda turn: [judge.answer([query]) for query in questions()])
    together_s = best_s(lambda turn: judge.answer(questions()))
    assert alone_s / together_s >= 3.0, f"{alone_s / together_s:.2f} times"


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_five_pictures_that_stay_are_worth_keeping(tmp_path, kind):
    """Eight pictures to a question as in GRM, five of which stay the same over an episode."""
    place = str(build_tiny_vlm(tmp_path, kind, width=256, layers=8, pixels=76_800))
    stay, come = pictures(5), pictures(36)[5:]
    words = "the robot arm puts the red cube into the bowl " * 8
    taken_s = {}
    for kept_mb in (0, 64):
        judge = TransformersJudge.load(
            JudgeConfig(device="cpu", vision_cache_mb=kept_mb, prefix_cache_mb=kept_mb), place
        )

        def ask(turn, judge=judge):
            new = come[3 * turn : 3 * turn + 3]
            judge.answer([VlmQuery(parts=(words, *stay, "after", *new), prefix=6, max_tokens=4)])

        ask(9)
        taken_s[kept_mb] = best_s(ask)
    assert taken_s[0] / taken_s[64] >= 1.4, f"{taken_s[0] / taken_s[64]:.2f} times"
