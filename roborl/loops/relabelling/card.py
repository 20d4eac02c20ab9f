"""The card of relabelled episodes: what they are, how they were made, and what to mind."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from roborl.loops.relabelling.config import CARD, FIGURES
from roborl.loops.relabelling.result import LEVELS, RelabelResult
from roborl.rewards.relabelling.wording import WORDINGS
from roborl.whole_files import write_whole


def write_card(folder: Path, result: RelabelResult) -> None:
    """Write the card, whole or not at all."""
    write_whole(folder / CARD, card_of(result))


def card_of(result: RelabelResult) -> str:
    """Return the card as Markdown."""
    sources = sorted({episode.source.dataset for episode in result.episodes})
    configs = "\n".join(
        f"  - split: {split}\n    path: {split}/metadata.jsonl"
        for split in ("train", "val", "test")
        if any(episode.split == split and episode.rows for episode in result.episodes)
    )
    header = f"---\ntask_categories: [video-classification]\ntags: [robotics, reward-model]\nconfigs:\n- config_name: default\n  data_files:\n{configs}\n---\n"
    rows = [
        "| kind | " + " | ".join(map(str, LEVELS)) + " |",
        "|---|" + "---:|" * len(LEVELS),
        *(
            f"| {kind} | " + " | ".join(str(by[level]) for level in LEVELS) + " |"
            for kind, by in result.counts.items()
        ),
    ]
    figures = [
        f"| {FIGURES[name].strip()} | `{name}` | {'-' if math.isnan(value) else format(value, 'g')[:6]} |"
        for name, value in result.figures.items()
    ]
    lines = [
        header,
        "# Relabelled robot episodes",
        "",
        f"{len(result.rows)} questions about {len(result.episodes)} episodes of {', '.join(sources)}: a video of a robot arm, an"
        " instruction, and how far the end of the video fulfils it, from 1 (not at all) to 5 (in full). Made with `roborl relabel`,"
        " in the layout of RoboReward (arXiv 2601.00675).",
        "",
        f"**{result.verification}.**",
        "",
        *rows,
        "",
        "* `original`: the whole video and its own instruction; `paraphrase`: the same in other words, as long as the commands of lower scores",
        "* `counterfactual`: the whole video and a written instruction that it fulfils only in part",
        "* `clip`: the beginning of the video; `rewind`: the video and part of the way back; both with its own instruction",
        "* `wrong_task`: the whole video and the instruction of another episode of the same source and split",
        "",
        "Episodes were put into train, val and test before anything was made of them: all rows of one `ladder` are in one split. They are"
        " not independent of each other: take intervals over ladders, not rows.",
        "",
        "| figure | name | value |",
        "|---|---|---:|",
        *figures,
        "",
        "The figures of words and video alone are mean shares told right over the scores, by a linear classifier that learnt from other"
        " episodes. Of words: rows that show a whole video. Of videos: all rows; that clips are told from whole videos is in their nature.",
        "",
        *_words(result),
        "## What to mind",
        "",
        "* No video shows a failure of the robot's own: counterfactual rows change words and not motions, and a model that learns from them"
        " alone has never seen an object dropped.",
        "* The score of a clip or rewind is that of its share of the way to success, as if progress were even, until a verifier agrees.",
        *(
            [f"* {result.shared} videos stand in more than one split: the source holds copies of episodes."]
            if result.shared
            else []
        ),
        "",
        "## How it was made",
        "",
        *(f"* {role}: {name}" for role, name in result.names.items()),
        *(
            [f"* words: {', '.join(f'{name} {w.sha256[:12]}' for name, w in WORDINGS.items())}"]
            if result.names
            else []
        ),
        f"* episodes left out: {', '.join(f'{n} {reason}' for reason, n in result.left_out.items()) or 'none'}",
        f"* instructions put right: {sum(e.found.cleaned for e in result.episodes)} of {len(result.episodes)}; the others stand as recorded",
        "* all settings: `relabel.json`; every reply of a network: `stages`; what was rejected, and why: `rejects.jsonl`",
        "",
        "Licence and terms of the sources go on to hold for their videos and instructions.",
        "",
    ]
    return "\n".join(lines)


def words_by_level(result: RelabelResult) -> dict[int, float]:
    """Return the mean number of words of the instructions of each score, of rows that show a whole video."""
    found: dict[int, list[int]] = {}
    for row in result.rows:
        if row.kind not in ("clip", "rewind"):
            found.setdefault(row.reward, []).append(len(row.task.split()))
    return {level: statistics.fmean(counts) for level, counts in sorted(found.items())}


def _words(result: RelabelResult) -> list[str]:
    means = words_by_level(result)
    if not means:
        return []
    said = ", ".join(f"{level}: {mean:.1f}" for level, mean in means.items())
    return [f"Words per instruction, mean by score, of rows that show a whole video: {said}.", ""]
