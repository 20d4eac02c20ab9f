"""The judging benchmark measures the ways it says it does, and notices a kept prefix that is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roborl.cli.bench import BENCHMARKS
from roborl.loops.benchmarks import judging as bench_judging
from roborl.loops.benchmarks.judging import FORWARD, ONE_SHOT, SHORT
from roborl.loops.benchmarks.judging_server import measure_server
from roborl.rewards.judges.queries import VlmQuery, VlmReply
from roborl.rewards.judges.reading import Prefix, Reader
from roborl.rewards.judges.transformers_judge import TransformersJudge


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return bench_judging._small(tmp_path_factory.mktemp("networks"))


def test_batches_of_sessions_stand_beside_the_bare_network(cases: dict[str, Any]) -> None:
    result = bench_judging._batches(cases[ONE_SHOT], rounds=1)
    for who, gain in (
        ("scores/s", "eight sessions / one by one"),
        ("network alone", "network alone: eight / one by one"),
    ):
        eight, one = (result[f"{who}, at most {most} a batch"] for most in (8, 1))
        assert result[gain] == pytest.approx(eight / one)
        assert min(eight, one) > 0


@pytest.mark.parametrize("most", [1, 8])
def test_a_round_asks_of_every_session_in_batches_as_large_as_it_says(
    cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """How fast they are is measured where nothing else runs: two rounds here tell the machine's mood."""
    sessions = bench_judging._EightSessions(cases[ONE_SHOT], most, np.random.default_rng(0))
    answer, asked = TransformersJudge.answer, []

    def counted(judge: TransformersJudge, queries: Sequence[VlmQuery]) -> Sequence[VlmReply | None]:
        asked.append(len(queries))
        return answer(judge, queries)

    monkeypatch.setattr(TransformersJudge, "answer", counted)
    assert sessions.go() > 0
    assert asked == [most] * (bench_judging.SESSIONS // most)


def test_a_short_question_is_asked_by_the_sessions_of_a_reward_model(cases: dict[str, Any]) -> None:
    sessions = bench_judging._EightSessions(cases[SHORT], 8, np.random.default_rng(0))
    sessions.go()
    scores = [outcome.score for outcome in sessions._pool.collect()]
    assert len(scores) == 2 * 8
    assert all(score.valid and score.reply for score in scores)
    result = bench_judging._short(cases[SHORT], rounds=1)
    eight, one = (result[f"scores/s, at most {most} a batch"] for most in (8, 1))
    assert result["eight sessions / one by one"] == pytest.approx(eight / one)


@pytest.mark.parametrize("name", [FORWARD, ONE_SHOT])
def test_what_is_kept_is_used_changes_no_reply_and_is_bounded(
    cases: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_judging, "_BOUND_MB", 1)
    result = bench_judging._prefixes(cases[name], observations=2, episodes=24)
    assert result["of which reused"] > 0
    assert result["replies compared"] == 3
    assert result["replies with other words"] == 0
    assert 0 < result["most that a probability differs"] < 1e-4
    assert 0 < result["prefixes kept at most, MB"] <= 1 < result["prefixes of all episodes, MB"]


def test_a_kept_prefix_that_is_wrong_is_noticed(
    cases: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = Reader._find_prefixes

    def spoilt(reader: Reader, turns: Any) -> Any:
        begins, found, reused = find(reader, turns)
        rotten = [
            prefix and Prefix(layers=tuple((keys.flip(1), values) for keys, values in prefix.layers))
            for prefix in found
        ]
        return begins, rotten, reused

    monkeypatch.setattr(Reader, "_find_prefixes", spoilt)
    result = bench_judging._prefixes(cases[FORWARD], observations=1, episodes=1)
    assert result["most that a probability differs"] > 1e-4


def test_a_difference_is_that_of_the_probabilities(cases: dict[str, Any]) -> None:
    model, rng = cases[FORWARD].open(), np.random.default_rng(0)
    (reply,) = model.judge.answer(bench_judging._questions(model, cases[FORWARD].references(rng), 2, rng))
    first, *others = reply.tokens
    halved = replace(first, alternatives=tuple((text, p / 2) for text, p in first.alternatives))
    other = replace(reply, tokens=(halved, *others))
    assert bench_judging._difference(reply, reply) == 0.0
    assert bench_judging._difference(reply, other) == pytest.approx(first.alternatives[0][1] / 2)


@pytest.mark.slow
def test_every_bar_reads_a_figure_of_a_whole_run() -> None:
    result = bench_judging.run(**BENCHMARKS["judging"].quick)
    assert set(result["batches"]) == {SHORT, FORWARD, ONE_SHOT}
    assert all(math.isfinite(bar.check(result)["figure"]) for bar in BENCHMARKS["judging"].bars)


@pytest.mark.slow
def test_lanes_keep_what_they_promise_at_three_times_the_load(tmp_path: Path) -> None:
    result = measure_server(str(tmp_path), frames=40, load_s=1.0)
    overload = result["overload"]
    assert result["server"]["push to score, ms"] > result["server"]["beyond the model, ms"] > 0
    assert result["server"]["beyond a model that answers at once, ms"] > 0
    assert result["server"]["a bare round trip answered at once, ms"] > 0
    assert overload["load / sustainable"] == pytest.approx(3.0, rel=0.1)
    assert overload["label: frames behind as the load ends"] > overload["frames"] / 3
    assert overload["label: missing in the end"] == 0
    assert overload["label: out of order or unlike an undisturbed scoring"] == 0
    assert overload["live: age at most, s"] < overload["label: s until complete"]
