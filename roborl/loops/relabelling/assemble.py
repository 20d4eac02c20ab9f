"""From what came of an episode to rows and videos on the disk, each video once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from roborl.data.relabel_rows import RelabelRow
from roborl.data.relabel_source import RelabelSource, require_one_size
from roborl.data.stage_log import StageLog
from roborl.images import resized
from roborl.loops.relabelling.sources import identity
from roborl.loops.video import write_video
from roborl.rewards.relabelling.cuts import Places, Timeline
from roborl.rewards.relabelling.probes import Features, look_of
from roborl.rewards.relabelling.proposals import Kind, Proposal
from roborl.rewards.relabelling.questions import Role, Verify
from roborl.rewards.relabelling.wording import WORDINGS
from roborl.types import Image

_AT_ONCE = 200  # pictures decoded at recorded size


class Assembler:
    """Writes the videos of rows and says what stands where.

    Args:
        out: The folder of all splits.
        log: Videos that are written already.
        video_px: Longer side of a video, px.
        names: Who was asked, by role.
        verify: What the verifier was told.

    Attributes:
        looks: What each video looks like at a glance, by the hash of its file.
    """

    def __init__(
        self, out: Path, log: StageLog, *, video_px: int, names: Mapping[str, str], verify: Verify
    ) -> None:
        self._out, self._log, self._video_px, self._names = out, log, video_px, names
        self._verify = verify
        self.looks: dict[str, Features] = {}

    def rows(
        self, source: RelabelSource, timeline: Timeline, split: str, proposals: Sequence[Proposal]
    ) -> list[RelabelRow]:
        """Write what is not there yet; return the rows of an episode, by kind and score.

        Raises:
            DamagedEpisode: If pictures cannot be read, or differ in size.
            DatasetError: If the log cannot be written.
        """
        ladder = identity(source)
        folder = slug(source.dataset)
        wanted = {p.places: self._key(ladder, p.places, timeline) for p in proposals}
        files = {
            places: f"{folder}/{slug(source.episode)}-{ladder[:6]}-{key[:10]}.mp4"
            for places, key in wanted.items()
        }
        self._write(source, timeline, split, {p: (wanted[p], files[p]) for p in wanted})
        order = list(Kind)
        found = []
        for proposal in sorted(proposals, key=lambda p: (order.index(p.kind), p.level, p.task)):
            known = self._log.get(f"{split} {wanted[proposal.places]}")
            assert known is not None, "it was written just now"
            self.looks[str(known["sha256"])] = np.asarray(known["look"], np.float64)
            roles, prompts = self._origin(proposal)
            found.append(
                RelabelRow(
                    file_name=files[proposal.places],
                    task=proposal.task,
                    reward=proposal.level,
                    kind=str(proposal.kind),
                    source_dataset=source.dataset,
                    source_split=source.split,
                    source_episode=source.episode,
                    source_content=source.recorded,
                    ladder=ladder,
                    original_task=source.task,
                    camera=source.camera,
                    video_hz=timeline.video_hz,
                    video_frames=len(proposal.places),
                    video_sha256=str(known["sha256"]),
                    clip_fraction=proposal.share,
                    onset=timeline.onset,
                    verified=proposal.verified,
                    verifier_score=proposal.given,
                    verifier_reason=proposal.said,
                    rejections=proposal.rejections,
                    models=roles,
                    prompts=prompts,
                )
            )
        return found

    def clear(self, kept: Collection[tuple[str, str]]) -> None:
        """Remove videos of earlier runs that no row names any more.

        Args:
            kept: Split and file name of those that rows name.
        """
        for line in self._log.lines():
            if (line["split"], line["file"]) not in kept:
                (self._out / line["split"] / line["file"]).unlink(missing_ok=True)

    def _key(self, ladder: str, places: Places, timeline: Timeline) -> str:
        stated = json.dumps([ladder, places, timeline.video_hz, self._video_px])
        return hashlib.sha256(stated.encode()).hexdigest()[:32]

    def _write(
        self,
        source: RelabelSource,
        timeline: Timeline,
        split: str,
        videos: Mapping[Places, tuple[str, str]],
    ) -> None:
        absent = {
            places: named
            for places, named in videos.items()
            if self._log.get(f"{split} {named[0]}") is None or not (self._out / split / named[1]).is_file()
        }
        if not absent:
            return
        pictures = self._pictures(source, sorted({index for places in absent for index in places}))
        for places, (key, file) in absent.items():
            path = self._out / split / file
            write_video(path, (pictures[index] for index in places), fps=timeline.video_hz)
            look = look_of(pictures[places[0]], pictures[places[-1]], len(places))
            self._log.append(
                f"{split} {key}",
                {
                    "file": file,
                    "split": split,
                    "frames": len(places),
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                    "look": np.round(look, 3).tolist(),
                },
            )

    def _pictures(self, source: RelabelSource, indices: Sequence[int]) -> dict[int, Image]:
        """Read pictures, each made smaller before the next ones are read."""
        found: dict[int, Image] = {}
        first: dict[int, Image] = {}
        for start in range(0, len(indices), _AT_ONCE):
            part = indices[start : start + _AT_ONCE]
            read = source.read(part)
            first = first or {part[0]: read[part[0]]}
            require_one_size(source, first | read)
            found |= {index: _smaller(picture, self._video_px) for index, picture in read.items()}
        return found

    def _origin(self, proposal: Proposal) -> tuple[dict[str, str], dict[str, str]]:
        """Return who had a part in a row, and the hashes of the words they were asked in."""
        if not self._names:
            return {}, {}
        roles, words = [Role.WRITER, Role.VERIFIER], ["clean", f"verify_{self._verify}"]
        if proposal.kind in (Kind.COUNTERFACTUAL, Kind.PARAPHRASE):
            roles = [Role.MODEL, *roles]
            words += ["analyse", "plan", "write" if proposal.kind is Kind.COUNTERFACTUAL else "paraphrase"]
        return (
            {str(role): self._names[str(role)] for role in roles},
            {name: WORDINGS[name].sha256 for name in words},
        )


def slug(name: str) -> str:
    """Return a name as a folder or file can have it.

    Example:
        >>> slug("lerobot/svla so101"), slug("../..")
        ('lerobot_svla_so101', '_')
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip(".") or "_"


def _smaller(picture: Image, longer_px: int) -> Image:
    height, width = picture.shape[:2]
    shrink = longer_px / max(height, width)
    if shrink >= 1:
        return picture
    return resized(picture, (max(2, round(height * shrink)), max(2, round(width * shrink))))
