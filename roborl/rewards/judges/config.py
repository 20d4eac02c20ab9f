"""Which judge answers a model's questions, and how it runs: the settings, and the way from them to a judge."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from roborl.errors import ConfigError
from roborl.rewards.judges.queries import VlmJudge


class JudgeKind(StrEnum):
    """Where the network runs."""

    TRANSFORMERS = "transformers"
    """In this process."""
    OPENAI = "openai"
    """Behind endpoints that speak OpenAI's protocol, such as those of vLLM and SGLang."""


class Quantisation(StrEnum):
    """How the weights of a network in this process are kept."""

    NONE = "none"
    INT8 = "int8"
    INT4 = "int4"


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How a vision-language network is run. Checkpoint, prompt and pixels are settings of the reward model that asks."""

    # Where the network runs: transformers (in this process) or openai (endpoints).
    kind: JudgeKind = JudgeKind.TRANSFORMERS
    # Number format of the weights: auto (as saved), bfloat16, float16 or float32.
    dtype: str = "auto"
    # Where the network lies: auto (a GPU where there is one), cpu, cuda, cuda:1, or balanced to spread it over all.
    device: str = "auto"
    # Attention code: sdpa, eager or flash_attention_2.
    attention: str = "sdpa"
    # none, int8 or int4; the latter two need bitsandbytes.
    quantisation: Quantisation = Quantisation.NONE
    # Folder of a LoRA adapter that is merged into the weights; empty for none.
    adapter: str = ""
    # Visual tokens of pictures seen before that are kept, MB.
    vision_cache_mb: int = 512
    # What was made of prefixes read before that is kept, MB; 0 reads every question from its start.
    prefix_cache_mb: int = 1024
    # Whether questions of unequal length share a batch; without, a reply has the same rounding as alone.
    padding: bool = True
    # Addresses of endpoints, such as http://127.0.0.1:8000/v1; asked in turn.
    endpoints: tuple[str, ...] = ()
    # Name of the model at the endpoints; empty where they serve one alone.
    served_model: str = ""
    # Environment variable with the endpoints' key; empty for none.
    key_variable: str = ""
    # How endpoints are shown clips: pictures (their frames, each behind its instant) or video (vLLM's form).
    clips: str = "pictures"
    # Whether endpoints can be made to start a reply with given words, as vLLM and SGLang can.
    prefill: bool = True
    # Questions under way at each endpoint.
    concurrency: int = 8
    # Longest that a question may take, all attempts together, s.
    deadline_s: float = 60.0
    # Longest that one attempt may take, s.
    timeout_s: float = 30.0
    # Attempts per question.
    attempts: int = 4
    # Pause after the first failed attempt, s; doubled each time.
    backoff_s: float = 0.25

    def __post_init__(self) -> None:
        if self.kind is JudgeKind.OPENAI and not self.endpoints:
            raise ConfigError(
                "A judge behind endpoints has no endpoint", remedy="Set --judge.endpoints '[http://…/v1]'"
            )
        dtypes = ("auto", "bfloat16", "float16", "float32")
        if self.dtype not in dtypes:
            raise ConfigError("There is no such number format", seen=self.dtype, allowed=dtypes)
        if self.clips not in ("pictures", "video"):
            raise ConfigError(
                "Clips cannot be shown in this way", seen=self.clips, allowed=("pictures", "video")
            )
        counts = (self.concurrency, self.attempts)
        if min(counts) < 1 or min(self.deadline_s, self.timeout_s) <= 0 or self.backoff_s < 0:
            raise ConfigError(
                "The settings of a judge's endpoints cannot be used",
                seen=f"concurrency {self.concurrency}, attempts {self.attempts}, deadline_s {self.deadline_s},"
                f" timeout_s {self.timeout_s}, backoff_s {self.backoff_s}",
                allowed="concurrency and attempts ≥ 1, times > 0",
            )


def open_judge(
    config: JudgeConfig,
    checkpoint: str,
    *,
    min_pixels: int = 0,
    max_pixels: int = 0,
    tiles: bool = False,
) -> VlmJudge:
    """Load or connect the judge that the settings name.

    Args:
        config: How it runs.
        checkpoint: Folder with the network's weights and processor, or a name in the hub's cache; at endpoints, only
            part of the judge's identity.
        min_pixels: Least pixels of a frame as a Qwen network sees it; 0 leaves the checkpoint's own limit.
        max_pixels: Most pixels of the same, however many frames a clip has. Endpoints are told by whoever starts them.
        tiles: Whether an InternVL network sees a large picture as several tiles.

    Raises:
        ModelLoadError: If the checkpoint cannot be used.
        JudgeDown: If none of the endpoints answers.
    """
    if config.kind is JudgeKind.OPENAI:
        from roborl.rewards.judges.openai_judge import OpenAiJudge

        return OpenAiJudge(config, checkpoint)
    from roborl.rewards.judges.transformers_judge import TransformersJudge

    judge: VlmJudge = TransformersJudge.load(
        config, checkpoint, min_pixels=min_pixels, max_pixels=max_pixels, tiles=tiles
    )
    return judge
