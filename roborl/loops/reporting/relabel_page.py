"""The one-page report of relabelled episodes: what there is, what gives scores away, what was rejected, and some ladders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import draccus
import numpy as np
import yaml

from roborl.data.relabel_rows import SPLITS
from roborl.loops.relabelling.card import words_by_level
from roborl.loops.relabelling.config import PAGE
from roborl.loops.relabelling.result import LEVELS, RelabelledEpisode, RelabelResult
from roborl.loops.reporting.filling import data_address, fill, percent
from roborl.loops.video import beside
from roborl.rewards.references import count_frames, spaced, video_frames
from roborl.rewards.relabelling.proposals import Kind
from roborl.rewards.relabelling.questions import Stage
from roborl.whole_files import write_whole

_LADDERS = 4
_MOMENTS = 6


def write_relabel_page(folder: Path, result: RelabelResult) -> None:
    """Write the page, which holds its pictures itself and asks nothing of a network.

    Args:
        folder: With the videos.
        result: What was made.

    Raises:
        OSError: If it cannot be written.
    """
    figures, tally = result.figures, result.tally
    rejects = [reject for episode in result.episodes for reject in episode.found.rejects]
    unreadable = Counter(reject.stage for reject in rejects if reject.rule == "unreadable")
    broken = Counter(reject.stage for reject in rejects if reject.rule != "unreadable")
    warnings = _warnings(result)
    text = fill(
        "relabel.html",
        rows=len(result.rows),
        episodes=len(result.episodes),
        verification="" if warnings and warnings[0] == result.verification else result.verification,
        warnings=warnings,
        levels=LEVELS,
        counts=result.counts,
        facts=[
            *(
                (f"rows in {split}", f"{sum(len(e.rows) for e in result.episodes if e.split == split):,}")
                for split in SPLITS
            ),
            ("distinct videos", f"{len({row.video_sha256 for row in result.rows}):,}"),
            ("verified proposals that were kept", percent(figures["accepted"])),
            *((f"episodes left out: {reason}", f"{count:,}") for reason, count in result.left_out.items()),
        ],
        probes=[
            ("the words alone", "rows that show a whole video", result.by_words),
            ("the video alone", "all rows; clips are told from whole videos by nature", result.by_video),
        ],
        words=words_by_level(result),
        accepted=_accepted(result) if result.names else {},
        steps=[
            {
                "name": str(stage),
                "asked": tally.calls[stage],
                "known": tally.known[stage],
                "unreadable": unreadable[stage],
                "rejected": broken[stage],
                "unanswered": tally.unanswered[stage] + tally.unasked[stage],
            }
            for stage in Stage
        ],
        reasons=result.reasons,
        ladders=[_ladder(folder, episode) for episode in _shown(result)],
        made=[*result.names.items(), ("instructions put right", _cleaned(result))],
        settings_text=yaml.safe_dump(draccus.encode(result.config), sort_keys=False),
    )
    write_whole(folder / PAGE, text)


def _warnings(result: RelabelResult) -> list[str]:
    said = [] if result.names and "made up" not in result.verification else [result.verification]
    said += [f"Not met: {text}" for text in result.missed]
    unfinished = int(result.figures["unfinished"])
    if unfinished:
        said.append(
            f"{unfinished} episodes have questions that nobody answered; the same command again asks them alone"
        )
    if result.shared:
        said.append(
            f"{result.shared} videos stand in more than one split: the source holds copies of episodes"
        )
    if empty := [split for split in SPLITS if not any(e.split == split and e.rows for e in result.episodes)]:
        said.append(f"There is nothing in {' and '.join(empty)}: there are few episodes")
    return said


def _accepted(result: RelabelResult) -> dict[str, dict[int, str]]:
    """Return how many proposals were kept of those that came before the verifier, by kind and score."""
    turned_down = result.rejected_by(Stage.VERIFY, "unreadable")
    return {
        kind: {
            level: f"{kept} of {kept + turned_down[kind, level]}" if kept + turned_down[kind, level] else "–"
            for level, kept in by.items()
        }
        for kind, by in result.counts.items()
    }


def _cleaned(result: RelabelResult) -> str:
    return f"{sum(e.found.cleaned for e in result.episodes)} of {len(result.episodes)}"


def _shown(result: RelabelResult) -> list[RelabelledEpisode]:
    """Return the episodes with the most rows, of different instructions where there are some."""
    best: dict[str, RelabelledEpisode] = {}
    for episode in sorted(result.episodes, key=lambda e: -len(e.rows)):
        if any(row.kind not in (Kind.CLIP, Kind.REWIND) for row in episode.rows):
            best.setdefault(episode.source.task, episode)
    return list(best.values())[:_LADDERS]


def _ladder(folder: Path, episode: RelabelledEpisode) -> dict[str, Any]:
    whole = next(row for row in episode.rows if row.kind not in (Kind.CLIP, Kind.REWIND))
    video = folder / episode.split / whole.file_name
    moments = video_frames(video, spaced(count_frames(video), _MOMENTS))
    strip = beside({str(place): picture for place, picture in moments.items()}, height_px=150)
    done, packed = cv2.imencode(".jpg", strip[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert done, "every uint8 picture has a JPEG"
    source = episode.source
    return {
        "task": source.task,
        "name": f"{source.dataset}, episode {source.episode}, {source.camera}, {episode.split}, {episode.ladder}",
        "strip": data_address("image/jpeg", np.asarray(packed).tobytes()),
        "rows": sorted(episode.rows, key=lambda row: (-row.reward, row.kind, row.task)),
    }
