"""Which judge answers a model's questions, and how it runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from urllib.parse import urlsplit

from roborl.errors import ConfigError


class JudgeKind(StrEnum):
    """Where the network runs."""

    TRANSFORMERS = "transformers"
    """In this process."""
    OPENAI = "openai"
    """Behind endpoints that speak OpenAI's protocol, such as those of vLLM and SGLang."""
    PAIRS = "pairs"
    """In this process: the small judge of hops that ``roborl train-reward --model pairs`` trains."""
    FAKE = "fake"
    """Nowhere: the words of :attr:`JudgeConfig.reply` answer every question."""


class Quantisation(StrEnum):
    """How the weights of a network in this process are kept."""

    NONE = "none"
    INT8 = "int8"
    INT4 = "int4"


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """How a vision-language network is run. Checkpoint, prompt and pixels are settings of the reward model that asks."""

    # Where the network runs: transformers (in this process) or openai (endpoints); pairs for the small judge of hops;
    # fake for none, to try a bench without a GPU.
    kind: JudgeKind = JudgeKind.TRANSFORMERS
    # What a fake judge says to every question, such as 'ANSWER: 3' to RoboReward's; to Dopamine's a signed percentage
    # between <score> and </score>.
    reply: str = ""
    # Number format of the weights: auto (as saved), bfloat16, float16 or float32.
    dtype: str = "auto"
    # Where the network lies: auto (a GPU where there is one), cpu, cuda, cuda:1, or balanced to spread it over all.
    device: str = "auto"
    # Attention code: sdpa, eager or flash_attention_2.
    attention: str = "sdpa"
    # none, int8 or int4; the latter two need bitsandbytes. With int8 pictures and questions are read one at a time,
    # whatever is asked at once: a column that is large for one of them is computed whole for all.
    quantisation: Quantisation = Quantisation.NONE
    # Folder of a LoRA adapter; empty for none. It is merged into the weights, but runs beside those of int8 or int4, in
    # which it would be rounded away.
    adapter: str = ""
    # Visual tokens of pictures seen before that are kept, MB.
    vision_cache_mb: int = 512
    # What was made of prefixes read before that is kept, MB; 0 reads every question from its start.
    prefix_cache_mb: int = 1024
    # Lengths of questions are padded to a multiple of so many tokens, alone as in company: those that come out equal
    # share a batch, and what else is in it changes no reply, not even by rounding.
    pad_to: int = 32
    # Addresses of endpoints, such as http://127.0.0.1:8000/v1; asked in turn.
    endpoints: tuple[str, ...] = ()
    # Name of the model at the endpoints; empty where they serve one alone.
    served_model: str = ""
    # Environment variable with the endpoints' key; empty for none.
    key_variable: str = ""
    # Whether endpoints take fields beyond OpenAI's own protocol, as vLLM and SGLang do. With them sampling is neutral,
    # and pictures and the instants of clips are seen as they are sent. For one that refuses them set this to False: its
    # own settings act then, clips go as pictures, and no reply is started for it.
    extensions: bool = True
    # How endpoints are shown clips: video (what networks were trained on; vLLM's form, 32 frames at most unless it is
    # started with --media-io-kwargs '{"video": {"num_frames": -1}}', and at the right instants since its pull request
    # 40133 of April 2026) or pictures (the frames, each behind its instant; for SGLang, which has no such form).
    clips: str = "video"
    # Side of the square that one visual token of the network at the endpoints covers, px: 32 for Qwen3-VL, 28 for
    # Qwen2.5-VL. Pictures are sent in multiples of it. 0 reads it from the checkpoint, where that lies on this machine.
    cell_px: int = 0
    # Whether endpoints can be made to start a reply with given words, as vLLM and SGLang can; needs extensions.
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

    @property
    def one_at_a_time(self) -> bool:
        """Whether each picture and each question is read by itself, because what is read with it would bear on it."""
        return self.quantisation is Quantisation.INT8

    @property
    def prefills(self) -> bool:
        """Whether endpoints are made to start replies."""
        return self.prefill and self.extensions

    @property
    def shows_videos(self) -> bool:
        """Whether endpoints are shown clips as videos."""
        return self.clips == "video" and self.extensions

    def __post_init__(self) -> None:
        if self.kind is JudgeKind.OPENAI and not self.endpoints:
            raise ConfigError(
                "A judge behind endpoints has no endpoint",
                remedy="Name them in the model's settings, such as judge.endpoints: ['http://localhost:8000/v1']",
            )
        wrong = [url for url in self.endpoints if not _is_address(url)]
        if wrong:
            raise ConfigError(
                "An endpoint of a judge has no address that can be asked",
                seen=wrong,
                allowed="http://HOST:PORT/PATH or https://HOST/PATH",
                remedy="Correct it; in a model's settings, such as judge.endpoints: ['http://localhost:8000/v1']",
            )
        if self.kind is JudgeKind.FAKE and not self.reply:
            raise ConfigError(
                "A fake judge has nothing to say",
                remedy="Set judge.reply in the model's settings, such as 'ANSWER: 3'",
            )
        dtypes = ("auto", "bfloat16", "float16", "float32")
        if self.dtype not in dtypes:
            raise ConfigError("There is no such number format", seen=self.dtype, allowed=dtypes)
        if self.clips not in ("pictures", "video"):
            raise ConfigError(
                "Clips cannot be shown in this way", seen=self.clips, allowed=("pictures", "video")
            )
        counts = (self.concurrency, self.attempts, self.pad_to)
        if (
            min(counts) < 1
            or min(self.cell_px, self.vision_cache_mb, self.prefix_cache_mb) < 0
            or not (self.deadline_s > 0 and self.timeout_s > 0 and self.backoff_s >= 0)
        ):
            raise ConfigError(
                "The settings of a judge cannot be used",
                seen=f"vision_cache_mb {self.vision_cache_mb}, prefix_cache_mb {self.prefix_cache_mb},"
                f" pad_to {self.pad_to}, cell_px {self.cell_px}, concurrency {self.concurrency},"
                f" attempts {self.attempts}, deadline_s {self.deadline_s}, timeout_s {self.timeout_s}, backoff_s {self.backoff_s}",
                allowed="pad_to, concurrency and attempts ≥ 1, vision_cache_mb, prefix_cache_mb, cell_px and backoff_s ≥ 0,"
                " the other times > 0",
                remedy="Correct what is too small, such as --judge.prefix_cache_mb 0 to keep nothing",
            )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port  # The port is read as it is looked at.
        if re.fullmatch(r"\d+(\.\d+){3}", host):
            IPv4Address(host)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and not re.search(r"\s", url)
