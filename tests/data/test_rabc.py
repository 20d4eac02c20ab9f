"""RA-BC weights: LeRobot's to the letter where asked for, and what ours mends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot.rewards.sarm.rabc import RABCWeights
from numpy.typing import NDArray

from roborl.data import weights
from roborl.data.rabc import RabcSettings, on_lines, weigh
from roborl.data.weights import LEROBOT_KAPPA, read_weights, weights_path, write_weights
from roborl.errors import ConfigError, DatasetError
from roborl.testing.episodes import lerobot_recording

Curve = NDArray[np.float32]
CPU = torch.device("cpu")
SETTINGS = {"chunk": 3}


def curve(*values: float) -> tuple[Curve, Curve]:
    return np.array(values, np.float32), np.zeros(len(values), np.float32)


def lengths(progress: dict[int, tuple[Curve, Curve]]) -> dict[int, int]:
    return {index: len(values) for index, (values, _) in progress.items()}


def line(start: float, end: float, rows: int) -> list[float]:
    return np.linspace(start, end, rows).tolist()


def by_lerobot(path: Path, progress: dict[int, tuple[Curve, Curve]], chunk: int, kappa: float) -> Curve:
    values = np.concatenate([v for v, _ in progress.values()])
    episode = np.concatenate([np.full(len(v), index) for index, (v, _) in progress.items()])
    table = pa.table({"index": np.arange(len(values)), "episode_index": episode, "progress_sparse": values})
    pq.write_table(table, path)
    theirs = RABCWeights(path, chunk_size=chunk, kappa=kappa, device=CPU)
    return theirs._compute_weights(
        np.array([theirs._compute_delta(i) for i in range(len(values))], np.float32)
    )


@settings(max_examples=25)
@given(
    rows=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    chunk=st.integers(1, 50),
    seed=st.integers(0, 999),
    missing=st.sampled_from([0.0, 0.2, 1.0]),
    scale=st.sampled_from([0.001, 0.05, 1.0]),
)
def test_the_rule_by_the_name_of_lerobot_is_lerobots(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[int],
    chunk: int,
    seed: int,
    missing: float,
    scale: float,
) -> None:
    rng = np.random.default_rng(seed)
    progress = {}
    for index, count in enumerate(rows):
        values = np.cumsum(rng.normal(0.2, 1.0, count)) * scale
        values[rng.random(count) < missing] = np.nan
        progress[index] = curve(*values)
    found = weigh(progress, lengths(progress), RabcSettings(chunk=chunk, rule="lerobot"))
    theirs = by_lerobot(tmp_path_factory.mktemp("p") / "p.parquet", progress, chunk, 0.01)
    np.testing.assert_array_equal(np.concatenate(list(found.weights.values())), theirs)


@pytest.mark.parametrize(
    ("mean", "deviation", "standing", "below_kappa"),
    [(0.0185, 0.02, 0.27, 0.39), (0.0093, 0.012, 0.31, 0.51)],
)
def test_lerobots_ramp_gives_to_what_stands_still_and_jumps_at_kappa(
    mean: float, deviation: float, standing: float, below_kappa: float
) -> None:
    told = np.array([0.0, 0.00999, 0.01001])
    # Others on both sides bring all gains to this mean and deviation; the last row has none left, and counts as 0.
    others, count = 100, 104
    centre = (count * mean - told.sum()) / others
    square = (count * (deviation**2 + mean**2) - (told**2).sum()) / others
    away = np.tile([1.0, -1.0], others // 2) * np.sqrt(square - centre**2)
    progress = {0: curve(0.0, *np.cumsum([*told, *(centre + away)]))}
    found = weigh(progress, lengths(progress), RabcSettings(chunk=1, rule="lerobot"))
    assert (found.gains[0].mean(), found.gains[0].std()) == pytest.approx((mean, deviation), rel=1e-3)
    assert found.weights[0][:3] == pytest.approx([standing, below_kappa, 1.0], abs=0.006)


@pytest.mark.parametrize(
    ("seconds", "chunk", "gain"), [(90, 25, 0.0093), (90, 50, 0.0185), (60, 50, 0.028), (200, 50, 0.0083)]
)
def test_the_mean_gain_over_a_chunk_is_its_share_of_the_task(seconds: int, chunk: int, gain: float) -> None:
    """At 30 frames a second. LeRobot's kappa of 0.01 is above it for one task and far below for another."""
    progress = {0: curve(*line(0, 1, 30 * seconds + 1))}
    found = weigh(progress, lengths(progress), RabcSettings(chunk=chunk, pace=1.0))
    assert found.kappa[0] == pytest.approx(gain, abs=3e-4)
    assert found.gains[0].mean() == pytest.approx(gain, abs=3e-4)


def test_kappa_goes_with_the_pace_of_the_data_and_not_with_its_length() -> None:
    for rows in (101, 401):
        progress = {0: curve(*line(0, 1, rows)), 1: curve(*line(0, 0.1, rows))}
        found = weigh(progress, lengths(progress), RabcSettings(chunk=20))
        assert found.kappa[0] == pytest.approx(20 / (rows - 1))
        assert found.weights[0] == pytest.approx(np.ones(rows), abs=1e-4)
        assert found.weights[1] == pytest.approx(np.full(rows, 0.1), abs=1e-4)
        # LeRobot's is 0.01 whatever the data: it lets the short failure pass and cuts the long one off.
        theirs = weigh(progress, lengths(progress), RabcSettings(chunk=20, rule="lerobot"))
        assert (theirs.weights[1][: rows // 2] == 1).all() == (rows == 101)


@pytest.mark.parametrize("start", [0.0, 0.2, 0.6])
def test_kappa_is_the_pace_of_what_finishes_wherever_progress_begins(start: float) -> None:
    late = np.float32([np.nan] * 30 + line(start, 1, 101))
    progress = {0: curve(*line(start, 1, 101)), 1: (late, np.zeros(131, np.float32))}
    found = weigh(progress, lengths(progress), RabcSettings(chunk=10))
    assert found.kappa[0] == pytest.approx((1 - start) / 10)
    assert found.weights[0] == pytest.approx(np.ones(101), abs=1e-4)
    unfinished = {0: curve(*line(start, 0.85, 101))}
    found = weigh(unfinished, lengths(unfinished), RabcSettings(chunk=10))
    assert found.kappa[0] == pytest.approx((1 - start) / 10), "what would finish in that length"


def test_the_last_frames_of_what_was_done_count_and_those_of_what_was_not_do_not() -> None:
    done = [*line(0, 0.98, 30), *[0.98] * 15]
    undone = [*line(0, 0.95, 30), *line(0.95, 0.2, 15)]
    stalled = [*line(0, 0.5, 15), *[0.5] * 30]
    progress = {i: curve(*values) for i, values in enumerate((done, undone, stalled))}
    ours = weigh(progress, lengths(progress), RabcSettings(chunk=10))
    assert ours.weights[0].min() > 0.9
    assert (ours.weights[1][30:] == 0).all()
    assert (ours.weights[2][16:] == 0).all()
    theirs = weigh(progress, lengths(progress), RabcSettings(chunk=10, rule="lerobot"))
    assert theirs.weights[0][-1] < 1.0
    assert theirs.weights[1][-1] > 0.0
    assert theirs.weights[2][-1] > 0.0


def test_a_weight_does_not_jump_and_never_falls_with_the_gain() -> None:
    progress = {i: curve(0.0, slope) for i, slope in enumerate(np.linspace(-0.1, 0.4, 200))}
    found = weigh(progress, lengths(progress), RabcSettings(chunk=1, kappa=0.2))
    course = np.array([w[0] for w in found.weights.values()])
    assert (np.diff(course) >= 0).all()
    assert np.diff(course).max() < 0.02
    assert (course[0], course[-1]) == (0, 1)


def test_a_quantile_sets_kappa() -> None:
    progress = {0: curve(*line(0, 0.5, 101)), 1: curve(*line(0, 0.1, 101))}
    found = weigh(progress, lengths(progress), RabcSettings(chunk=10, kappa_quantile=0.75))
    assert found.kappa[0] == pytest.approx(0.05)


@pytest.mark.parametrize("by", [{}, {"kappa_quantile": 0.5}])
def test_each_task_has_a_pace_of_its_own(by: dict[str, float]) -> None:
    """Every episode rises evenly to its end: no task is less well shown for taking longer."""
    progress = {i: curve(*line(0, 1, 20 if i < 6 else 200)) for i in range(9)}
    tasks = {i: "press" if i < 6 else "fold" for i in progress}
    found = weigh(progress, lengths(progress), RabcSettings(chunk=10, **by), tasks)  # type: ignore[arg-type]
    assert found.kappa[0] == pytest.approx(10 / 19, rel=1e-3)
    assert found.kappa[7] == pytest.approx(10 / 199, rel=1e-3)
    for course in found.weights.values():
        assert course == pytest.approx(np.ones(len(course)), abs=1e-3)


@pytest.mark.parametrize("by", [{}, {"kappa_quantile": 0.5}])
def test_spelling_and_a_sentence_for_each_episode_make_no_task(by: dict[str, float]) -> None:
    progress = {i: curve(*line(0, 1, 31 if i < 6 else 121)) for i in range(8)}
    one = weigh(progress, lengths(progress), RabcSettings(chunk=10, **by))  # type: ignore[arg-type]
    spelled = {i: "fold the towel" if i < 6 else "Fold the towel." for i in progress}
    own = {i: f"sort tray {i}" for i in progress}
    for tasks in (spelled, own):
        found = weigh(progress, lengths(progress), RabcSettings(chunk=10, **by), tasks)  # type: ignore[arg-type]
        assert found.kappa == one.kappa


def test_a_task_that_is_never_done_has_the_pace_of_the_others() -> None:
    progress = {0: curve(*line(0, 1, 21)), 1: curve(*line(0, 0.5, 41)), 2: curve(*line(0, 0.1, 21))}
    tasks = {0: "press", 1: "fold", 2: "fold"}
    found = weigh({**progress}, {**lengths(progress), 3: 9}, RabcSettings(chunk=5), {**tasks, 3: "unseen"})
    assert list(found.kappa.values()) == pytest.approx([0.25] * 4)
    same = weigh(progress, lengths(progress), RabcSettings(chunk=5, kappa=0.1), tasks)
    assert list(same.kappa.values()) == [0.1] * 3


def test_what_is_not_known_counts_as_the_rest_does() -> None:
    values, spread = curve(*line(0, 1, 21))
    holes = values.copy()
    holes[[3, 4]] = np.nan
    late = values.copy()
    late[:2] = np.nan
    progress = {0: (values, spread), 1: (holes, spread), 2: (late, spread)}
    found = weigh(progress, {**lengths(progress), 3: 7}, RabcSettings(chunk=5, pace=2.0))
    known = np.concatenate([found.weights[0], found.weights[1], found.weights[2][2:]])
    assert found.unknown == 2 + 7
    assert found.weights[3] == pytest.approx(np.full(7, known.mean()))
    assert found.weights[2][:2] == pytest.approx(np.full(2, known.mean()))
    nothing = weigh({}, {0: 3}, RabcSettings())
    assert (nothing.weights[0] == 1).all()


def test_doubt_lowers_a_weight_and_never_makes_one() -> None:
    values = np.float32(line(0, 1, 21))
    spread = np.where(np.arange(21) == 10, 0.1, 0.0).astype(np.float32)
    still = np.zeros(21, np.float32)
    progress = {0: (values, spread), 1: (still, spread + 1)}
    found = weigh(progress, lengths(progress), RabcSettings(chunk=5, doubt=0.1))
    np.testing.assert_allclose(found.weights[0][[5, 10]], 0.5, rtol=1e-4)
    np.testing.assert_allclose(found.weights[0][[4, 6, 11]], 1.0, rtol=1e-4)
    assert not found.weights[1].any()


def test_a_score_that_was_not_read_is_as_doubtful_as_the_last_one() -> None:
    values, spread = np.float32(line(0, 0.8, 41)), np.full(41, 0.3, np.float32)
    holes = [values.copy(), spread.copy()]
    for column in holes:
        column[5::5] = np.nan
    settings = RabcSettings(chunk=5, kappa=0.1, doubt=0.1)
    found = weigh({0: (values, spread), 1: (holes[0], holes[1])}, {0: 41, 1: 41}, settings)
    assert found.weights[1].max() <= found.weights[0].max() * 1.3


def test_a_stretch_without_scores_is_unknown_and_does_not_stand_still() -> None:
    values = np.float32(line(0, 0.8, 41))
    values[10:25] = np.nan
    progress = {0: (values, np.where(np.isnan(values), np.nan, 0).astype(np.float32))}
    found = weigh(progress, {0: 41}, RabcSettings(chunk=5, kappa=0.1))
    assert found.unknown == 11, "rows 9 to 19 have chunks without a score"
    assert np.isnan(found.gains[0][9:20]).all()
    assert found.weights[0].min() > 0.15
    still = curve(*np.where(np.arange(41) < 10, line(0, 0.8, 41), 0.18))
    assert not weigh({0: still}, {0: 41}, RabcSettings(chunk=5, kappa=0.1)).unknown


def test_rows_between_two_scores_lie_on_a_line_and_beside_a_missing_one_are_unknown() -> None:
    true = np.float32(line(0, 0.8, 41))
    scored = np.arange(41) % 8 == 0
    held = true[np.arange(41) // 8 * 8]
    np.testing.assert_allclose(on_lines(held, scored), true, atol=1e-6)
    np.testing.assert_array_equal(on_lines(held, np.ones(41, np.bool_)), held)
    held[16:24] = np.nan
    found = on_lines(held, scored)
    assert np.flatnonzero(np.isnan(found)).tolist() == list(range(9, 24))
    np.testing.assert_allclose(found[24:], true[24:], atol=1e-6)
    weighed = weigh({0: (found, 0 * held)}, {0: 41}, RabcSettings(chunk=5, kappa=0.1))
    assert np.isnan(weighed.gains[0][8:19]).all(), "what is held there did not stand still"


def test_misuse_is_told() -> None:
    nan, inf = float("nan"), float("inf")
    for wrong in (
        {"chunk": 0},
        *({"pace": value} for value in (0.0, nan, inf)),
        *({"kappa": value} for value in (-1.0, nan, inf)),
        *({"kappa_quantile": value} for value in (1.0, nan)),
        *({"finished": value} for value in (0.0, 1.1, nan)),
        *({"doubt": value} for value in (0.0, nan)),
    ):
        with pytest.raises(ConfigError, match="cannot be weighed"):
            RabcSettings(**wrong)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "d"
    lerobot_recording(path, [10, 4, 9])
    return path


@pytest.mark.parametrize("kind", ["drawn", "all", "none", "half"])
def test_lerobot_computes_from_our_file_the_weights_that_stand_in_it(
    recording: Path, tmp_path: Path, kind: str
) -> None:
    rng = np.random.default_rng(0)
    draw = {
        "drawn": lambda n: np.clip(rng.normal(0.5, 0.6, n), 0, 1),
        "all": np.ones,
        "none": np.zeros,
        "half": lambda n: (np.arange(n) % 2).astype(float),
    }[kind]
    drawn = {i: draw(n).astype(np.float32) for i, n in enumerate([10, 4, 9])}
    path = weights_path(tmp_path, "v:1", SETTINGS)
    write_weights(recording, path, drawn, version="v:1", settings=SETTINGS)
    found = read_weights(recording, path)
    assert {i: w.tolist() for i, w in found.items()} == {i: w.tolist() for i, w in drawn.items()}
    theirs = RABCWeights(path, chunk_size=3, kappa=LEROBOT_KAPPA, device=CPU)
    got = theirs._compute_weights(np.array([theirs._compute_delta(i) for i in range(23)], np.float32))
    wanted = np.concatenate(list(drawn.values()))
    last = np.isin(np.arange(23), [9, 13, 22])
    np.testing.assert_allclose(got[~last], wanted[~last], atol=1e-5)
    np.testing.assert_allclose(got[last], 0.0, atol=1e-5)
    assert ((got == 0) == (wanted == 0))[~last].all()
    assert ((got == 1) == (wanted > 0.999))[~last].all()
    assert len(pq.read_table(path)) <= 6 * 23


def test_weights_of_other_data_are_refused(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = weights_path(tmp_path, "v", SETTINGS)
    ones = {i: np.ones(n, np.float32) for i, n in enumerate([10, 4, 9])}
    with monkeypatch.context() as patched:
        patched.setattr(weights, "fingerprint", lambda source: "other")
        write_weights(recording, path, ones, version="v", settings=SETTINGS)
    with pytest.raises(DatasetError, match=r"weights was written for other data.*roborl filter"):
        read_weights(recording, path)
    with pytest.raises(DatasetError, match=r"episode 1 have another length.*none"):
        write_weights(recording, path, {0: ones[0]}, version="v", settings=SETTINGS)
    path.write_bytes(b"torn")
    with pytest.raises(DatasetError, match="A file of weights cannot be read"):
        read_weights(recording, path)
