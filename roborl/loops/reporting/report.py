"""The one-page report of a demonstration run: figures, film and tables, in words that need no prior knowledge."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
import yaml
from draccus.utils import DecodingError

from roborl.errors import RoborlError
from roborl.images import encode_png
from roborl.loops.evaluate import LINGER_FRAMES
from roborl.loops.references import ReferencesConfig
from roborl.loops.reporting import plots
from roborl.loops.reporting.before_after import cut, read_video, strip, write_before_after
from roborl.loops.reporting.filling import data_address, fill, percent
from roborl.loops.reporting.pages import draw, first_and_last, of_its_reward, online, running_facts
from roborl.loops.reporting.results import Results, held_out_curves, read_results
from roborl.loops.reporting.run_results import LastProgress, ProgressCurve, SuccessRate, last_progress
from roborl.rewards.registry import load_reward_model
from roborl.rewards.sarm.config import SarmTraining
from roborl.whole_files import write_whole

log = logging.getLogger(__name__)

PAGE = "report.html"
FILM = "before_after.mp4"
STRIP = "after.png"
_FPS = 10.0
_EMBED_BYTES = 5_000_000
_UNKNOWN = {"scene": "", "seed": None, "clone_from": 0, "judge": ""}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the reward model's table.

    Attributes:
        name: What was measured.
        meaning: The same in a few plain words.
        bar: What is asked for, empty for nothing.
        ours: Our model's figure; NaN where it was not measured.
        by_time: The figure of a model that only knows the time.
        met: Whether ours meets the bar, None where there is none or nothing was measured.
    """

    name: str
    meaning: str
    bar: str
    ours: float
    by_time: float
    met: bool | None


_HELD_OUT: tuple[tuple[str, str, str, str, Callable[[float], bool] | None], ...] = (
    ("forward", "value order, successes", "rises while the task advances", "≥ 0.95", lambda v: v >= 0.95),
    ("backward", "value order, played backwards", "falls when it is undone", "≤ −0.7", lambda v: v <= -0.7),
    ("frozen", "movement on a frozen picture", "does not creep with time", "< 0.05", lambda v: v < 0.05),
    ("undone", "given back when undone", "1 is all of it", "", None),
    ("error", "error against the true progress", "the simulator's own", "≤ 0.08", lambda v: v <= 0.08),
    ("final", "last progress of successes", "1 is done", "", None),
)


def write_report(folder: Path) -> Path:
    """Write figures, film and page of a demonstration run into its folder.

    Writes ``learning_curve.png``, ``progress_curves.png``, ``timings.png``, ``before_after.mp4`` and ``report.html``.
    The page holds its figures itself and asks nothing of a network; the film stands beside it when it is large. What a
    run has not made yet is left out, and the page says so.

    Args:
        folder: The folder of ``roborl demo``.

    Returns:
        The page.

    Raises:
        DatasetError: If no demonstration was run in this folder.
    """
    results = read_results(folder)
    missing: list[str] = []
    held_out = _held_out(results, missing)
    practice = online(results.online, missing)
    groups: dict[str, Sequence[ProgressCurve]] = {
        "held-out demonstrations": [curve for curve in held_out if curve.success],
        "held-out failures": [curve for curve in held_out if not curve.success],
        **first_and_last(practice),
    }
    pictures = {
        "learning_curve": draw(
            folder,
            "learning_curve",
            lambda theme: plots.learning_curve(results.online, theme, base=results.base, final=results.final),
        ),
        "progress_curves": draw(
            folder, "progress_curves", lambda theme: plots.progress_panels(groups, theme)
        ),
        "timings": draw(folder, "timings", lambda theme: plots.timings(results, theme)),
    }
    page = folder / PAGE
    text = render(
        results,
        pictures=pictures,
        film=_film(results, missing),
        said_last=last_progress(practice),
        missing=missing,
    )
    write_whole(page, text)
    return page


def render(
    results: Results,
    *,
    pictures: dict[str, dict[str, str]],
    film: str | None,
    said_last: Sequence[LastProgress] = (),
    missing: Iterable[str] = (),
) -> str:
    """Return the page.

    Args:
        results: What to tell.
        pictures: By name the figure for ``light`` and ``dark`` pages, as data addresses.
        film: Address of the film, None where there is none.
        said_last: Of the episodes of practice.
        missing: What could not be shown, and why.
    """
    judge = results.settings.get("judge", "")
    reward = {} if judge else results.stages.get("train the reward model", {})
    return fill(
        PAGE,
        headline=headline(results.base, results.final),
        base=results.base,
        final=results.final,
        settings=_UNKNOWN | results.settings,
        settings_text=yaml.safe_dump(results.settings, sort_keys=False) if results.settings else "",
        head_start=results.online.head_start,
        stages=results.stages,
        total_s=sum(float(stage["wall_s"]) for stage in results.stages.values()),
        episodes=results.online.episodes,
        failures=sum(count for kind, count in _recorded(results).items() if kind != "expert"),
        recorded=_recorded(results),
        rows=held_out_rows(reward),
        kinds=_kinds(reward),
        reward=reward,
        **of_its_reward(results.online),
        facts=running_facts(results.online, results.stages.get("learn online", {})),
        pictures=pictures,
        film=film,
        said_last=said_last,
        missing=list(missing),
        quick=bool(results.settings.get("quick", False)),
    )


def headline(base: SuccessRate, final: SuccessRate) -> str:
    """Return what the two evaluations say, and no more than they say.

    Example:
        >>> headline(SuccessRate(successes=2, of=50), SuccessRate(successes=48, of=50))
        'The arm learnt it: from 4 % to 96 %'
    """
    if not base.of or not final.of:
        return "The run is not finished"
    change = f"from {percent(base.share)} to {percent(final.share)}"
    if final.interval[0] > base.interval[1]:
        return f"The arm learnt it: {change}"
    if final.interval[1] < base.interval[0]:
        return f"The arm got worse: {change}"
    return f"No difference that {final.of} scenes can show: {change}"


def held_out_rows(reward: dict[str, Any]) -> list[Row]:
    """Return the reward model's figures on held-out episodes beside those of a model that only knows the time."""
    ours, by_time = reward.get("held_out", {}), reward.get("time_only", {})
    rows = []
    for key, name, meaning, bar, meets in _HELD_OUT:
        value = _float(ours.get(key))
        rows.append(
            Row(
                name=name,
                meaning=meaning,
                bar=bar,
                ours=value,
                by_time=_float(by_time.get(key)),
                met=None if meets is None or math.isnan(value) else meets(value),
            )
        )
    return rows


def _recorded(results: Results) -> dict[str, int]:
    return dict(results.stages.get("record demonstrations", {}).get("episodes", {}))


def _kinds(reward: dict[str, Any]) -> list[dict[str, Any]]:
    ours = reward.get("held_out", {}).get("failures", [])
    by_time = {kind["kind"]: kind for kind in reward.get("time_only", {}).get("failures", [])}
    return [kind | {"by_time": by_time.get(kind["kind"], {}).get("final", math.nan)} for kind in ours]


def _held_out(results: Results, missing: list[str]) -> list[ProgressCurve]:
    share = SarmTraining().held_out
    seed = int(results.settings.get("seed", 0))
    try:
        model = load_reward_model(results.settings.get("judge") or str(results.folder / "reward_model"))
        shown = draccus.decode(ReferencesConfig, results.settings.get("references", {}))
        dataset = results.folder / "demonstrations"
        return held_out_curves(model, dataset, share=share, seed=seed, shown=shown)
    except (RoborlError, DecodingError) as error:
        missing.append(f"progress along held-out episodes ({getattr(error, 'problem', error)})")
        return []


def _film(results: Results, missing: list[str]) -> str | None:
    folder = results.folder
    out = folder / FILM
    steps = ([o["steps"] for o in results.before], [o["steps"] for o in results.after])
    if not all((folder / f"{when}.mp4").is_file() for when in ("before", "after")):
        missing.append("the film (both evaluations must be done)")
        return None
    try:
        write_before_after(folder / "before.mp4", folder / "after.mp4", steps, out, fps=_FPS)
    except RoborlError as error:
        missing.append(f"the film ({error.problem})")
        return None
    _strip(results)
    content = out.read_bytes()
    return out.name if len(content) > _EMBED_BYTES else data_address("video/mp4", content)


def _strip(results: Results) -> None:
    """Leave a picture of the first success among the filmed scenes, where there is one."""
    episodes = cut(read_video(results.folder / "after.mp4"), [o["steps"] for o in results.after])
    for outcome, frames in zip(results.after, episodes, strict=False):
        if outcome["success"]:
            picture = strip(frames[: len(frames) - LINGER_FRAMES])
            write_whole(results.folder / STRIP, encode_png(picture))
            return


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)
