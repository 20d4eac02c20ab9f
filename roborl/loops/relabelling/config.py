"""What ``roborl relabel`` is asked: which episodes, who is asked, which rows, against which bars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from roborl.errors import ConfigError
from roborl.loops.requirements import Requirement
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.relabelling.proposals import LadderConfig

RESULT, CARD, PAGE, REJECTS, STAGES = "relabel.json", "README.md", "report.html", "rejects.jsonl", "stages"

NONE, FAKE = "none", "fake"
"""Places where nobody is asked, and where replies are made up."""

FIGURES: Mapping[str, str] = {
    "rows": "rows kept",
    "accepted": "share of verified proposals that were kept",
    "text_only": "score told from the words alone",
    "text_only_chance": "  by chance",
    "text_only_high": "  upper bound",
    "video_only": "score told from the video alone",
    "video_only_chance": "  by chance",
    "video_only_high": "  upper bound",
    "unreadable": "share of replies that could not be read",
    "unfinished": "episodes with questions that nobody answered",
}
"""Names of the figures, which bars speak of, and what they are."""


def _patient() -> JudgeConfig:
    """Return how networks are asked here by default: nobody waits for a reply, and a long one takes its time."""
    return JudgeConfig(clips="pictures", deadline_s=600.0, timeout_s=180.0, attempts=6, backoff_s=1.0)


@dataclass(frozen=True, kw_only=True)
class RelabelConfig(LadderConfig):
    """Which episodes, who is asked, which rows, against which bars."""

    # episodes to relabel: RLDS datasets as those of Open X-Embodiment are, LeRobotDatasets (folders or hub ids), folders of
    # videos with keyframes or with metadata.jsonl, or a folder of such datasets
    source: list[str] = field(default_factory=list)
    # folder for rows, videos, logs, card and report; the same again goes on where it stopped, with further sources as well
    out: Path = Path("outputs/relabelled")
    # sees the video: says what it shows, and plans. An endpoint as URL or NAME@URL, several URLs joined by commas; a folder
    # of a checkpoint; fake, which makes its replies up; none makes only rows that need no network, and verifies nothing
    model: str = NONE
    # sees no pictures: puts instructions right and writes commands; empty for the model
    writer: str = ""
    # sees the video and scores; better another than the writer; empty for the model
    verifier: str = ""
    # how the model is asked, see roborl/rewards/judges/config.py; kind, endpoints and served_model follow from its place
    judge: JudgeConfig = field(default_factory=_patient)
    # how a writer of its own is asked
    writer_judge: JudgeConfig = field(default_factory=_patient)
    # how a verifier of its own is asked
    verifier_judge: JudgeConfig = field(default_factory=_patient)
    # most pixels of a picture as networks are sent it; 0 for no limit
    max_pixels: int = 262_144
    # most calls of networks in this run; 0 for no limit. What is not asked is left for another run
    max_calls: int = 0
    # most tokens of a reply
    max_tokens: int = 1024
    # of sampling; 0 takes the likeliest token
    temperature: float = 0.0
    # view that rows show; empty for the first that is not on the wrist and not black
    camera: str = ""
    # what of an RLDS dataset holds the instruction, where datasets/oxe.yaml does not know
    instruction: str = ""
    # observations per second, Hz, where nobody says or it is wrong; by default what the sources and datasets/oxe.yaml say
    rate_hz: float | None = None
    # whether the episodes succeeded, whatever the sources say; by default what they say of each, and one of which nobody
    # says it is left out; what is a demonstration unless somebody says otherwise, such as videos with keyframes, did
    success: bool | None = None
    # most episodes of each dataset and split of a source, drawn evenly; 0 for all
    episodes: int = 0
    # share of an episode after which its task is done, where neither marked sub-tasks nor datasets/oxe.yaml say, in (0, 1]
    onset: float = 1.0
    # the same by the name of the source, above these
    onsets: dict[str, float] = field(default_factory=dict)
    # share of the episodes that go to val, with everything made from them
    val: float = 0.1
    # share of the episodes that go to test
    test: float = 0.1
    # pictures per second of every video, Hz: faster sources are thinned out, slower ones show theirs several times
    video_hz: float = 10.0
    # longer side of a video, px; smaller pictures stay as they are
    video_px: int = 320
    # bars like "text_only<=0.4", which set the exit code
    require: list[str] = field(default_factory=list)
    # say how many calls and pictures it would take, and ask nobody
    dry_run: bool = False
    # of all draws
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_respondents()
        shares = [self.onset, *self.onsets.values()]
        if (
            self.episodes < 0
            or not all(0.0 < share <= 1.0 for share in shares)
            or not all(0.0 <= share < 1.0 for share in (self.val, self.test, self.val + self.test))
            or not 0.0 < self.video_hz < math.inf
            or not (self.rate_hz is None or 0.0 < self.rate_hz < math.inf)
            or self.video_px < 16
            or self.max_pixels < 0
            or self.max_calls < 0
            or not 0.0 <= self.temperature < math.inf
            or self.max_tokens < 1
        ):
            raise ConfigError(
                "Episodes cannot be relabelled in this way",
                seen=f"episodes {self.episodes}, onset {shares}, val {self.val}, test {self.test},"
                f" video_hz {self.video_hz}, rate_hz {self.rate_hz}, video_px {self.video_px}, max_pixels {self.max_pixels},"
                f" max_calls {self.max_calls},"
                f" max_tokens {self.max_tokens}, temperature {self.temperature}",
                allowed="episodes ≥ 0, onsets in (0, 1], val and test ≥ 0 and below 1 together, video_hz and rate_hz > 0, video_px ≥ 16,"
                " max_tokens ≥ 1, max_pixels, max_calls and temperature ≥ 0",
            )
        for text in self.require:
            Requirement.parse(text, FIGURES)

    def _check_respondents(self) -> None:
        alone = [name for name in ("writer", "verifier") if getattr(self, name) not in ("", NONE)]
        if self.model == NONE and alone:
            raise ConfigError(
                "Somebody has to see the videos before commands are written and verified",
                seen=f"{', '.join(alone)} without a model",
                remedy="Name it as --model, such as --model http://127.0.0.1:8000/v1",
            )
        if NONE in (self.writer, self.verifier) and self.model != NONE:
            raise ConfigError(
                "What a network writes has to be verified, and what is verified has to be written",
                seen=f"writer {self.writer!r}, verifier {self.verifier!r}",
                allowed="a place, or nothing for the model itself",
            )
