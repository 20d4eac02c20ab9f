"""The report says what the files say, in one page that needs nothing else."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.codec import join
from roborl.data.arena import ArenaReader
from roborl.data.columns import ProgressColumns, switch
from roborl.data.store import Store
from roborl.errors import DatasetError
from roborl.loops.evaluate import LINGER_FRAMES
from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.reporting import report
from roborl.loops.reporting.before_after import cut, read_video, write_before_after
from roborl.loops.reporting.pages import first_and_last
from roborl.loops.reporting.report import headline, held_out_rows, write_report
from roborl.loops.reporting.results import held_out_curves, read_results
from roborl.loops.reporting.run_results import (
    ProgressCurve,
    SuccessRate,
    last_progress,
    online_curves,
    read_run,
    running_mean,
)
from roborl.loops.reward_training.training_episodes import split, to_training
from roborl.loops.video import write_video
from roborl.records import Verdict, pack_record
from roborl.rewards.fake import BrightnessModel
from roborl.testing.episodes import random_episode, write_episodes
from roborl.testing.experience import episode_records, store_spec
from roborl.types import EndCause, EpisodeKey, Image, RewardSource

SPEC = store_spec(max_steps=12, capacity_bytes=400_000)
ONLINE = 5


class Page(HTMLParser):
    """Collects what a page asks for and what it says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.undescribed = 0
        self.words = ""
        self._quiet = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._quiet = tag == "style"
        named = dict(attrs)
        self.addresses += [
            named[name] or "" for name in ("src", "srcset", "href", "poster", "data") if name in named
        ]
        self.undescribed += tag == "img" and not named.get("alt")

    def handle_endtag(self, tag: str) -> None:
        self._quiet = False

    def handle_data(self, data: str) -> None:
        self.words += "" if self._quiet else data


def outcomes(successes: int, steps: list[int]) -> str:
    return "\n".join(
        json.dumps({"seed": n, "success": n < successes, "steps": taken, "end": "?"})
        for n, taken in enumerate(steps)
    )


def picture(level: int) -> Image:
    return np.full((32, 48, 3), level, np.uint8)


def film(path: Path, steps: list[int], level: int) -> None:
    frames = sum(taken + 1 + LINGER_FRAMES for taken in steps)
    write_video(path, [picture(level)] * frames, fps=10)


def store(root: Path) -> None:
    with Store(root, SPEC) as made:
        keys = [EpisodeKey(actor="arm", incarnation=1, episode=n) for n in range(ONLINE)]
        for n, key in enumerate(keys):
            cause = EndCause.SUCCESS if n == ONLINE - 1 else EndCause.TIME_LIMIT
            for record in episode_records(key, 4, cause):
                made.ingest("ring", made.last_sequence("ring") + 1, join(pack_record(record)))
        made.wait_sealed(20.0)
        columns = ProgressColumns(ArenaReader(root), "v1", write=True)
        for n, key in enumerate(keys):
            columns.write(key, 0, np.full(5, n / 10, np.float32), np.zeros(5, np.float32))
            assert columns.save(key)
        switch(root, "v1")


HELD_OUT = {
    "successes": 2,
    "forward": 0.99,
    "backward": -0.5,
    "frozen": 0.05,
    "undone": 1.0,
    "error": math.nan,
    "final": 0.97,
    "failures": [{"kind": "near_miss", "episodes": 1, "highest": 0.4, "final": 0.123, "excess": math.nan}],
}
STAGES = {
    "record demonstrations": {"episodes": {"expert": 10, "miss": 4, "undo": 4}, "wall_s": 20.0},
    "train the reward model": {
        "held_out": HELD_OUT,
        "time_only": HELD_OUT | {"forward": 1.0, "failures": [{"kind": "near_miss", "final": 1.0}]},
        "leak": 0.0,
        "frame_ms": 1.5,
        "wall_s": 120.0,
    },
    "learn online": {
        "wall_s": 600.0,
        "trainer": {"achieved_ratio": 7.9, "requested_ratio": 8.0, "refused_versions": 0},
        "labeller": {"scored": 4321, "missing": 3},
        "restarts": {"store": 1, "trainer": 2},
        "actors": [
            {
                "actor": "arm",
                "ticks": 12345,
                "late_p50_ms": 0.12,
                "late_p99_ms": 0.9,
                "late_max_ms": 3.4,
                "inference_mean_ms": 5.0,
                "holds": 7,
            }
        ],
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run of made-up numbers: 1 of 10 before, 9 of 10 after, the first two scenes filmed."""
    root = tmp_path / "demo"
    (root / "run").mkdir(parents=True)
    (root / "stages.json").write_text(json.dumps(STAGES))
    (root / "demo.yaml").write_text("scene: PickPlace\nseed: 3\nclone_from: 1\nquick: false\n")
    (root / "before.jsonl").write_text(outcomes(1, [6] * 10))
    (root / "after.jsonl").write_text(outcomes(9, [3, 8] + [4] * 8))
    film(root / "before.mp4", [6, 6], 80)
    film(root / "after.mp4", [3, 8], 180)
    store(root / "run" / "store")
    lines: list[dict[str, object]] = [
        {
            "kind": "train",
            "at_ns": 0,
            "updates_per_s": 50.0,
            "policy_version_lag": 1,
            "achieved_ratio": 7.0,
            "updates": 80_000,
        }
    ]
    lines += [
        {"kind": "episode", "number": n, "at_ns": n * 6_000_000_000, "success": n > 20, "steps": 4}
        for n in range(1, 31)
    ]
    (root / "run" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    write_settings(root, critic_sees_potential=True)
    return root


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing, where a test is about words."""
    monkeypatch.setattr(report, "draw", lambda *_: {"light": "data:,", "dark": "data:,"})


def write_settings(
    root: Path, *, critic_sees_potential: bool, scale: float = 1.0, form: str = "potential", **rlpd: float
) -> None:
    settings = {
        "reward": "reward_model",
        "shaping": {"scale": scale, "form": form},
        "rlpd": {"critic_sees_potential": critic_sees_potential} | rlpd,
    }
    (root / "run" / "train.yaml").write_text(json.dumps(settings))


def test_one_page_needs_nothing_else_and_says_what_the_files_say(folder: Path) -> None:
    page = write_report(folder)
    text = page.read_text()
    seen = Page(text)
    assert page == folder / "report.html"
    for name in ("learning_curve.png", "progress_curves.png", "timings.png", "before_after.mp4"):
        assert (folder / name).stat().st_size > 1000
    assert seen.addresses, "figures and film are in the page"
    assert all(address.startswith("data:") for address in seen.addresses)
    assert not seen.tags & {"script", "iframe", "object", "embed"}
    assert "@import" not in text
    assert "url(http" not in text
    assert seen.undescribed == 0
    for said in (
        "The arm learnt it: from 10 % to 90 %",
        "9 of 10 scenes, 95 % interval 60 % to 98 %",
        "10 demonstrations and 8 deliberate failures of 2 kinds",
        "practised it\n  by itself, 30 times",
        "near miss",
        "p50 0.12 ms, p99 0.90 ms, most 3.4 ms",
        "lateness of 12,345 control ticks",
        "7.90 of 8 asked for",
        "4,321",
        "−0.50 ✗",
        "0.99 ✓",
        "not measured",
    ):
        assert said in seen.words, said
    assert "quick run" not in seen.words


@pytest.mark.usefixtures("no_figures")
def test_a_run_of_little_of_everything_says_that_its_figures_mean_nothing(folder: Path) -> None:
    (folder / "demo.yaml").write_text("quick: true\n")
    assert "This was a quick run." in Page(write_report(folder).read_text()).words


@pytest.mark.usefixtures("no_figures")
def test_settings_are_text_and_never_markup(folder: Path) -> None:
    (folder / "demo.yaml").write_text("scene: <script>alert(1)</script>\nseed: 0\nclone_from: 1\n")
    seen = Page(write_report(folder).read_text())
    assert "script" not in seen.tags
    assert "<script>alert(1)</script>" in seen.words


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("sees", "scale", "label", "formula"),
    [
        (True, 1.0, "policy-invariant", True),
        (False, 1.0, "not policy-invariant", True),
        (False, 0.0, "policy-invariant", False),
    ],
)
def test_the_page_carries_the_label_of_its_reward(
    folder: Path, sees: bool, scale: float, label: str, formula: bool
) -> None:
    write_settings(folder, critic_sees_potential=sees, scale=scale)
    assert read_results(folder).online.form[1] == label
    words = Page(write_report(folder).read_text()).words
    assert ("not policy-invariant" in words) == (label == "not policy-invariant")
    assert ("progress after − progress before" in words) == formula


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("came_to", "label"), [(0.95, "not yet policy-invariant"), (1.0, "once critics look")]
)
@pytest.mark.parametrize(
    ("grows", "says"),
    [
        ({"updates": 150_000}, "to the whole way over 150,000 updates."),
        ({"successes": 60, "updates": 0}, "to the whole way with the first 60 successes in practice."),
        (
            {"successes": 60, "updates": 150_000},
            "with the first 60 successes in practice, or over 150,000 updates, whichever is sooner.",
        ),
    ],
)
def test_the_page_says_whether_critics_came_to_look_all_the_way_ahead(
    folder: Path, came_to: float, label: str, grows: dict[str, int], says: str
) -> None:
    write_settings(
        folder,
        critic_sees_potential=True,
        lookahead=0.9,
        **{f"lookahead_{of}": needed for of, needed in grows.items()},
    )
    with (folder / "run" / "metrics.jsonl").open("a") as metrics:
        metrics.write("\n" + json.dumps({"kind": "train", "at_ns": 10**9, "lookahead": came_to}))
    assert label in read_results(folder).online.form[1]
    words = Page(write_report(folder).read_text()).words
    assert label in words
    assert says in words
    assert ("the best policy may have been another one" in words) == (came_to < 1)
    assert ("handed back 0.950 of the value" in words) == (came_to < 1)


@pytest.mark.parametrize(("needed", "came_to"), [(160_000, 0.95), (80_000, 1.0), (0, 0.9)])
def test_how_far_critics_of_a_run_of_earlier_looked_follows_from_its_updates(
    folder: Path, needed: int, came_to: float
) -> None:
    write_settings(folder, critic_sees_potential=True, lookahead=0.9, lookahead_updates=needed)
    assert read_results(folder).online.lookahead == pytest.approx(came_to)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("form", ["progress", "difference", "positive"])
def test_a_reward_that_is_no_potential_is_called_by_its_name(folder: Path, form: str) -> None:
    write_settings(folder, critic_sees_potential=True, form=form)
    assert read_results(folder).online.form == (form, "not policy-invariant")
    words = Page(write_report(folder).read_text()).words
    assert "not policy-invariant" in words
    assert "Such a reward is there to be compared with" in words


def test_a_reward_model_that_was_brought_along_is_named_and_shown_the_held_out_episodes(folder: Path) -> None:
    (folder / "demo.yaml").write_text("judge: brightness\nscene: Reach\nseed: 0\nclone_from: 1\n")
    words = Page(write_report(folder).read_text()).words
    assert "A reward model was brought along: brightness." in words
    assert "It was not measured here" in words
    assert "A reward model learnt to judge" not in words


def test_a_run_that_is_not_finished_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text(
        json.dumps({"record demonstrations": STAGES["record demonstrations"]})
    )
    seen = Page(write_report(tmp_path).read_text())
    assert "The run is not finished" in seen.words
    assert "Not shown:" in seen.words
    assert "film (both evaluations must be done)" in seen.words
    assert "video" not in seen.tags


def test_a_folder_without_a_demonstration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"No demonstration.*stages\.json.*roborl demo"):
        write_report(tmp_path)


def test_a_large_film_stands_beside_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_EMBED_BYTES", 10)
    assert "before_after.mp4" in Page(write_report(folder).read_text()).addresses


def test_the_shorter_episode_waits_for_the_longer_one(folder: Path) -> None:
    out = folder / "both.mp4"
    steps = ([6] * 10, [3, 8] + [4] * 8)
    shown = write_before_after(folder / "before.mp4", folder / "after.mp4", steps, out, fps=10)
    frames = read_video(out)
    assert shown == 2
    assert len(frames) == sum(max(pair) + 1 + LINGER_FRAMES for pair in ((6, 3), (6, 8)))
    for frame in frames:
        assert abs(float(frame[-16:, :40].mean()) - 80) < 4, "before, on the left"
        assert abs(float(frame[-16:, -40:].mean()) - 180) < 4, "after, on the right"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 6), st.integers(1, 4))
def test_a_film_is_cut_into_its_episodes_or_refused(steps: list[int], filmed: int, extra: int) -> None:
    filmed = min(filmed, len(steps))
    episodes = [[picture(n)] * (taken + 1 + LINGER_FRAMES) for n, taken in enumerate(steps[:filmed])]
    frames = [frame for episode in episodes for frame in episode]
    parts = cut(frames, steps)
    assert [len(part) for part in parts] == [len(episode) for episode in episodes]
    assert all(frame[0, 0, 0] == n for n, part in enumerate(parts) for frame in part)
    with pytest.raises(DatasetError, match="does not fit"):
        cut([*frames, *[picture(0)] * extra], steps)


@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 60), st.integers(1, 60))
def test_the_headline_claims_no_more_than_the_intervals_do(won: int, of: int, later: int, then: int) -> None:
    base, final = SuccessRate(successes=min(won, of), of=of), SuccessRate(successes=min(later, then), of=then)
    said = headline(base, final)
    assert said.startswith("The arm learnt it") == (final.interval[0] > base.interval[1])
    assert said.startswith("The arm got worse") == (final.interval[1] < base.interval[0])


def test_bars_are_met_at_the_bar_and_not_beyond() -> None:
    def met(**figures: float) -> dict[str, bool | None]:
        return {row.name: row.met for row in held_out_rows({"held_out": figures})}

    assert met(forward=0.95)["value order, successes"] is True
    assert met(forward=0.949)["value order, successes"] is False
    assert met(backward=-0.7)["value order, played backwards"] is True
    assert met(backward=-0.69)["value order, played backwards"] is False
    assert met(frozen=0.05)["movement on a frozen picture"] is False
    assert met(error=math.nan)["error against the true progress"] is None
    assert met(final=1.0)["last progress of successes"] is None


def test_first_and_last_online_episodes_never_overlap(folder: Path) -> None:
    curves = online_curves(read_run(RunFolder(folder / "run")))
    assert len(curves) == ONLINE
    for there in range(ONLINE + 1):
        first, last = first_and_last(curves[:there]).values()
        assert len(first) == len(last) == there // 2
        values = [float(curve.progress[0]) for curve in [*first, *last]]
        assert values == sorted(set(values))
        assert not values or values[-1] == pytest.approx((there - 1) / 10)
    assert curves[-1].success
    assert not curves[0].success


def test_the_reward_models_last_word_stands_beside_how_episodes_came_out(folder: Path) -> None:
    said = last_progress(online_curves(read_run(RunFolder(folder / "run"))))
    assert [(of.outcome, of.episodes, of.above_half) for of in said] == [
        ("succeeded", 1, 0),
        ("did not", 4, 0),
    ]
    assert said[0].low == said[0].median == said[0].high == pytest.approx(0.4)
    assert (said[1].low, said[1].median, said[1].high) == pytest.approx((0.03, 0.15, 0.27))
    words = "".join(Page(write_report(folder).read_text()).words.split())
    assert "succeeded" + "1" + "0" + "0.40" * 3 + "didnot" + "4" + "0" + "0.03" + "0.15" + "0.27" in words


def test_what_was_said_after_a_verdict_ended_the_task_is_no_last_word(folder: Path) -> None:
    run = RunFolder(folder / "run")
    judged = EpisodeKey(actor="arm", incarnation=1, episode=1)
    with Store(run.store, SPEC) as opened:
        verdict = Verdict(key=judged, index=2, success=True, source=RewardSource.OPERATOR)
        opened.ingest("ring", opened.last_sequence("ring") + 1, join(pack_record(verdict)))
    curves = online_curves(read_run(run))
    assert [len(curve.progress) for curve in curves] == [5, 3, 5, 5, 5]
    assert curves[1].success


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.sampled_from([True, False, None])), max_size=30))
def test_each_judged_episode_counts_once_and_an_unjudged_one_nowhere(
    ends: list[tuple[float, bool | None]],
) -> None:
    curves = [
        ProgressCurve(name="online", progress=np.array([0.0, end], np.float32), success=success)
        for end, success in ends
    ]
    said = {of.outcome: of for of in last_progress(curves)}
    for outcome, success in (("succeeded", True), ("did not", False)):
        of = [end for end, came_out in ends if came_out is success]
        assert (outcome in said) == bool(of)
        if of:
            assert said[outcome].episodes == len(of)
            assert said[outcome].above_half == sum(end >= 0.5 for end in of)
            assert min(of) - 1e-9 <= said[outcome].low <= said[outcome].median
            assert said[outcome].median <= said[outcome].high <= max(of) + 1e-9


def test_held_out_episodes_are_those_of_the_training_successes_first(tmp_path: Path) -> None:
    lost = {"success": False, "end": EndCause.FAILURE, "subtasks": (), "failure": "miss"}
    episodes = [random_episode(n, 5 + n, task="put it away") for n in range(3)]
    episodes += [random_episode(n, 5 + n, task="put it away", **lost) for n in (3, 4)]
    write_episodes(tmp_path / "data", *reversed(episodes))
    _, expected = split([to_training(episode) for episode in reversed(episodes)], 0.4, 7)
    curves = held_out_curves(BrightnessModel(), tmp_path / "data", share=0.4, seed=7)
    assert sorted(len(curve.progress) for curve in curves) == sorted(episode.frames for episode in expected)
    assert [curve.success for curve in curves] == [True, False]
    assert all(((curve.progress > 0) & (curve.progress < 1)).all() for curve in curves)


@given(st.lists(st.booleans(), min_size=1, max_size=50), st.integers(1, 30))
def test_the_running_mean_is_the_mean_of_the_last_ones(values: list[bool], width: int) -> None:
    naive = [np.mean(values[max(0, n + 1 - width) : n + 1]) for n in range(len(values))]
    np.testing.assert_allclose(running_mean(values, width), naive)
