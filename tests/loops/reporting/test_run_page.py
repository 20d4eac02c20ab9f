"""The page of a training run says what its files say, at any point of the run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roborl.codec import join
from roborl.data.episodes import EpisodeInfo
from roborl.data.store import Store, StoreSpec
from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.learnt import leave_run_page
from roborl.loops.reporting.plots import LIGHT, learning_curve, progress_panels
from roborl.loops.reporting.run_page import write_run_page
from roborl.loops.reporting.run_results import ProgressCurve, read_run, succeeded, task_done
from roborl.records import Verdict, pack_record
from roborl.testing.experience import ACTION_DIM, CAMERAS, STATE_DIM, episode_records
from roborl.types import EndCause, EpisodeKey, RewardSource

S = 1_000_000_000


def words(page: Path) -> str:
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", page.read_text(), flags=re.S)
    return re.sub(r"\s+", " ", text)


def episode(number: int, at_s: int, **differing: Any) -> dict[str, Any]:
    usual = {"kind": "episode", "number": number, "key": f"arm-0001-{number:06}", "at_ns": at_s * S}
    return usual | {"steps": 40, "person": 0, "success": True, "end": "success"} | differing


def training(at_s: int, **differing: Any) -> dict[str, Any]:
    return {"kind": "train", "at_ns": at_s * S, "updates": 10, "value": 0.1, "target": 0.2} | differing


def run_with(folder: Path, *lines: dict[str, Any], events: tuple[str, ...] = ()) -> RunFolder:
    run = RunFolder(folder)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.events.write_text("".join(json.dumps({"child": "store", "event": event}) + "\n" for event in events))
    run.settings("train").write_text(
        "bench: my_desk.yaml\nreward: judge\nshaping: {scale: 1.0, form: potential}\n"
    )
    return run


def test_it_says_how_episodes_ended_who_drove_and_what_died(tmp_path: Path) -> None:
    run = run_with(
        tmp_path,
        training(0, critic_loss=0.5, clone_loss=None),
        *(episode(n, 5 * n, success=n > 10, end="success" if n > 10 else "time_limit") for n in range(1, 31)),
        episode(31, 160, person=30, end="watchdog", success=None),
        {"kind": "refused", "at_ns": 0, "reason": "the disk does not take them"},
        events=("started", "ready", "died", "died", "finished"),
    )
    trainer = {"held_transitions": 0, "held_draws": 1500}
    page = write_run_page(run, {"restarts": {"store": 2}, "trainer": trainer})
    said = words(page)
    for words_said in (
        "19 of the last 20 episodes succeeded: 95 %",
        "31 episodes of practice so far, 1,240 steps, of which a person drove 2 %",
        "my_desk.yaml",
        "first 20 episodes 10 of 20 50 %",
        "success 20",
        "time limit 10",
        "watchdog 1",
        "store died 2",
        "trainer weights refused 1",
        "processes restarted 2",
        "transitions drawn while their labels were missing 1,500",
        "policy-invariant",
    ):
        assert words_said in said, words_said
    assert "store ready" not in said
    assert "{{" not in page.read_text()
    addresses = re.findall(r'(?:src|srcset|href)="([^"]*)"', page.read_text())
    assert addresses
    assert all(address.startswith("data:") for address in addresses), "the page asks nothing of a network"
    for name in ("learning_curve", "episodes", "progress_curves", "learning"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_discarded_episodes_count_for_nothing_in_the_learning_curve(tmp_path: Path) -> None:
    wasted = {"success": None, "discarded": True}
    run = run_with(tmp_path, *(episode(n, 5 * n, **(wasted if n % 2 else {})) for n in range(1, 41)))
    (axes,) = learning_curve(read_run(run), LIGHT).axes
    (line,), (ticks,) = axes.lines, axes.collections
    assert list(line.get_ydata()) == [1.0] * 20
    assert list(line.get_xdata()) == list(range(2, 41, 2)), "an episode keeps its place in the run"
    assert len(ticks.get_offsets()) == 20


def test_how_an_episode_came_out_is_what_the_store_says_of_it_now(tmp_path: Path) -> None:
    spec = StoreSpec(
        cameras=CAMERAS,
        image_px=8,
        state_dim=STATE_DIM,
        action_dim=ACTION_DIM,
        max_steps=20,
        capacity_bytes=1 << 20,
    )
    late, wasted = (EpisodeKey(actor="arm", incarnation=1, episode=number) for number in (1, 2))
    run = run_with(tmp_path, episode(1, 5, success=None), episode(2, 10, success=True))
    *others, end = episode_records(wasted, 4, EndCause.SUCCESS)
    records = [
        *episode_records(late, 4),
        Verdict(key=late, index=4, success=True, source=RewardSource.OPERATOR),
        *others,
        replace(end, discarded=True),  # type: ignore[call-arg]
    ]
    store = Store(run.store, spec)
    for sequence, record in enumerate(records, 1):
        store.ingest("ring", sequence, join(pack_record(record)))
    store.close()
    assert [succeeded(line) for line in read_run(run).episodes] == [True, False]


def test_an_episode_without_a_verdict_is_not_drawn_as_one_that_failed() -> None:
    def drawn(*verdicts: bool | None) -> tuple[list[str], dict[str, str]]:
        progress = np.linspace(0, 1, 5, dtype=np.float32)
        curves = [ProgressCurve(name="online", progress=progress, success=verdict) for verdict in verdicts]
        axes = progress_panels({"first": [], "last": curves}, LIGHT).axes
        entries = {str(line.get_label()): str(line.get_color()) for line in axes[0].lines}
        return [str(line.get_color()) for line in axes[1].lines[::2]], entries

    colours, entries = drawn(True, False, None)
    assert colours == [entries["task done"], entries["task not done"], entries["no verdict"]]
    assert len(set(colours)) == 3
    assert "no verdict" not in drawn(True, False)[1]


@pytest.mark.parametrize(
    ("end", "outcome", "done"),
    [
        (EndCause.SUCCESS, "operator", True),
        (EndCause.FAILURE, "operator", False),
        (EndCause.TIME_LIMIT, "operator", False),
        (EndCause.TIME_LIMIT, "judge", None),
        (EndCause.WATCHDOG, "operator", None),
        (EndCause.ACTOR_LOST, "operator", None),
        (EndCause.OPERATOR_STOP, "operator", None),
        (None, "operator", None),
    ],
)
def test_only_a_time_limit_is_a_failure_that_nobody_has_to_judge(
    end: EndCause | None, outcome: str, done: bool | None
) -> None:
    key = EpisodeKey(actor="arm", incarnation=1, episode=1)
    info = EpisodeInfo(key=key, ordinal=1, task="", observations=5, end=end, meta={"outcome": outcome})
    assert task_done(info) is done


def test_a_run_that_has_not_begun_has_a_page_too(tmp_path: Path) -> None:
    said = words(write_run_page(RunFolder(tmp_path)))
    assert "No episode has ended yet" in said
    assert "Not shown: progress along online episodes" in said


def test_settings_are_text_and_never_markup(tmp_path: Path) -> None:
    run = run_with(tmp_path, episode(1, 1))
    run.settings("train").write_text("bench: <script>alert(1)</script>\n")
    assert "<script" not in write_run_page(run).read_text()


def test_minutes_leave_out_pauses_and_survive_a_new_start_of_the_machine(tmp_path: Path) -> None:
    run = run_with(tmp_path, training(1000), episode(1, 1060), episode(2, 9000), training(20), episode(3, 80))
    assert read_run(run).minutes == pytest.approx([1.0, 1.0, 2.0])


def test_a_page_that_cannot_be_written_costs_a_run_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "report.html").mkdir()
    assert leave_run_page(RunFolder(tmp_path), {}) == {}
    assert "page cannot be written" in caplog.text
