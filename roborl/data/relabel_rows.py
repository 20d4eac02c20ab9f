"""Rows of relabelled episodes in the layout of RoboReward, with the columns that its release lacks.

A folder has ``train``, ``val`` and ``test``, each with ``metadata.jsonl`` and the videos in a folder for each source. Every
video stands there once; rows name it.

Source: Lee et al., "RoboReward", arXiv 2601.00675, and its data, teetone/RoboReward.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from roborl.rewards.graded_videos import METADATA
from roborl.whole_files import write_whole

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class RelabelRow:
    """One question about a video, with its score.

    Attributes:
        file_name: The video, relative to the folder of its split.
        task: The instruction.
        reward: The score, 1 to 5.
        kind: ``original``, ``counterfactual``, ``paraphrase``, ``clip``, ``rewind`` or ``wrong_task``.
        source_dataset: Where the episode is from.
        source_split: Its split there.
        source_episode: Its id there.
        source_content: Digest of the recording, by which models that learn from it are not measured on it; may be empty.
        ladder: The same for all rows of an episode, and for no other's.
        original_task: The instruction as it was recorded.
        camera: The view.
        video_hz: Pictures per second of the video.
        video_frames: Its pictures.
        video_sha256: Hash of the file.
        clip_fraction: Share of the way to success at the end of a clip or rewind; None for others.
        onset: Share of the episode after which it is a success.
        verified: ``blind``, ``shown`` or ``none``.
        verifier_score: What the verifier gave; None where it was not asked for a score.
        verifier_reason: Why, in its words.
        rejections: Replies rejected on the way to this row.
        models: Who was asked, by role.
        prompts: Hashes of the wordings that had a part in the row, by name.
    """

    file_name: str
    task: str
    reward: int
    kind: str
    source_dataset: str
    source_split: str
    source_episode: str
    ladder: str
    original_task: str
    camera: str
    video_hz: float
    video_frames: int
    video_sha256: str
    clip_fraction: float | None = None
    onset: float = 1.0
    source_content: str = ""
    verified: str = "none"
    verifier_score: int | None = None
    verifier_reason: str = ""
    rejections: int = 0
    models: dict[str, str] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)


def write_rows(folder: Path, rows: Sequence[RelabelRow]) -> None:
    """Write the rows of a split, whole or not at all; without any, its metadata goes."""
    path = folder / METADATA
    if not rows:
        path.unlink(missing_ok=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))
