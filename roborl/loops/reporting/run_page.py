"""The one-page report of a training run: how the arm fares, what judged it, and how learning went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.reporting import plots
from roborl.loops.reporting.filling import fill, percent
from roborl.loops.reporting.pages import draw, first_and_last, of_its_reward, online, running_facts
from roborl.loops.reporting.run_results import RunResults, SuccessRate, last_progress, read_run
from roborl.whole_files import write_whole

PAGE = "report.html"
_LATEST = 20
_INCIDENTS = 12
_USUAL = (None, "versions", "started", "ready", "finished", "judge", "column")


def write_run_page(run: RunFolder, told: Mapping[str, Any] | None = None) -> Path:
    """Write figures and page of a training run into its folder, at its end or while it goes on.

    Writes ``learning_curve.png``, ``episodes.png``, ``progress_curves.png``, ``learning.png`` and ``report.html``, which
    holds its figures itself and asks nothing of a network. What the run has not made yet is left out, and the page says so.

    Args:
        run: The run's folder.
        told: What the launcher returned, where it did.

    Returns:
        The page.

    Raises:
        OSError: If the folder cannot be written.
    """
    results = read_run(run)
    missing: list[str] = []
    curves = online(results, missing)
    pictures = {
        "learning_curve": draw(
            run.root, "learning_curve", lambda theme: plots.learning_curve(results, theme)
        ),
        "episodes": draw(run.root, "episodes", lambda theme: plots.episodes(results, theme)),
        "progress_curves": draw(
            run.root, "progress_curves", lambda theme: plots.progress_panels(first_and_last(curves), theme)
        ),
        "learning": draw(run.root, "learning", lambda theme: plots.learning(results, theme)),
    }
    counted = [episode for episode in results.episodes if not episode.get("discarded")]
    rates = {
        f"first {min(_LATEST, len(counted))} episodes": SuccessRate.of_outcomes(counted[:_LATEST]),
        f"last {min(_LATEST, len(counted))} episodes": SuccessRate.of_outcomes(counted[-_LATEST:]),
    }
    text = fill(
        "run.html",
        headline=headline(counted),
        name=run.root.name,
        bench=results.settings.get("bench", ""),
        episodes=results.episodes,
        discarded=len(results.episodes) - len(counted),
        person=sum(episode.get("person", 0) for episode in results.episodes),
        steps=sum(episode["steps"] for episode in results.episodes),
        rates=rates,
        ends=Counter(
            episode["end"].replace("_", " ") or "unknown" for episode in results.episodes
        ).most_common(),
        incidents=incidents(results),
        said_last=last_progress(curves),
        facts=running_facts(results, told or {}),
        pictures=pictures,
        missing=missing,
        settings_text=yaml.safe_dump(results.settings, sort_keys=False) if results.settings else "",
        **of_its_reward(results),
    )
    page = run.root / PAGE
    write_whole(page, text)
    return page


def headline(episodes: list[dict[str, Any]]) -> str:
    """Return how the newest episodes came out, and no more than that.

    Example:
        >>> headline([{"success": n > 10} for n in range(30)])
        '19 of the last 20 episodes succeeded: 95 %'
        >>> headline([])
        'No episode has ended yet'
    """
    rate = SuccessRate.of_outcomes(episodes[-_LATEST:])
    if not rate.of:
        return "No episode has ended yet"
    which = f"the last {rate.of} episodes" if rate.of > 1 else "one episode"
    return f"{rate.successes} of {which} succeeded: {percent(rate.share)}"


def incidents(results: RunResults) -> list[tuple[str, int]]:
    """Return what happened to the processes that does not belong to every run, most often first."""
    told = Counter(
        f"{event.get('child', 'launcher')} {event['event']}"
        for event in results.events
        if event.get("event") not in _USUAL
    )
    return told.most_common(_INCIDENTS)
