"""Published judges by name: which network each is, and what it is asked. Facts with their sources; no weights.

The networks are described as their ``config.json`` does, so far as it bears on memory. Those files are not part of this
package and were not at hand when this was written: sizes are those of the sources named beside them, and of each network
that is built of them the parameters are counted (see the tests).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from roborl.errors import ConfigError
from roborl.rewards.dopamine import DopamineConfig
from roborl.rewards.roboreward import CONTRACT as ROBOREWARD
from roborl.rewards.roboreward_config import RoboRewardConfig
from roborl.rewards.settings import read_settings
from roborl.rewards.sole import SoleConfig, composed_px
from roborl.rewards.vlac.config import VlacConfig

_FRAMES_PER_SIGHT = 2  # Qwen's vision networks see the frames of a clip two by two
_CHARACTERS = 4  # of English per token, about
_FRAMING = 32  # tokens of the chat's own marks and of the instruction, about
_STAMP = 10  # tokens of the instant and the marks around a piece of a clip, about
_MARKS = 5  # tokens around and between pictures, about

type Settings = RoboRewardConfig | DopamineConfig | VlacConfig | SoleConfig

KINDS: dict[str, type[Settings]] = {
    "dopamine": DopamineConfig,
    "roboreward": RoboRewardConfig,
    "sole-r1": SoleConfig,
    "vlac": VlacConfig,
}
"""Reward models with a vision-language judge, by the name that stands before the colon, and their settings."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published checkpoint.

    Attributes:
        kind: Which reward model it is, one of :data:`KINDS`.
        network: What its ``config.json`` says, so far as it bears on memory.
        source: Where that is known from.
    """

    kind: str
    network: Mapping[str, Any]
    source: str


@dataclass(frozen=True, kw_only=True)
class QuestionSize:
    """How long a question is, by the settings of who asks it.

    Attributes:
        pictures: Pictures, or pieces of a clip, that it shows.
        words: Tokens beside the visual ones, the longest reply with them; estimated from the length of the text.
        height_px: Height of a picture as it comes.
        width_px: Its width.
        min_pixels: Least pixels as the network sees it, 0 for no such limit.
        max_pixels: Most, 0 likewise.
    """

    pictures: int
    words: int
    height_px: int
    width_px: int
    min_pixels: int = 0
    max_pixels: int = 0


def read_judge(place: str) -> tuple[str, Settings, Published | None]:
    """Return the kind of a judge, its settings, and its published network where it is named by that.

    Args:
        place: A name of :data:`PUBLISHED`; or a kind, a colon, and a checkpoint or a YAML file of settings.

    Raises:
        ConfigError: If it is neither, or the settings cannot be used.

    Example:
        >>> kind, settings, published = read_judge("vlac-2b")
        >>> kind, settings.reference_frames
        ('vlac', 6)
    """
    published = PUBLISHED.get(place)
    if published is not None:
        return published.kind, KINDS[published.kind](), published
    kind, colon, checkpoint = place.partition(":")
    if not colon or kind not in KINDS:
        raise ConfigError(
            "There is no such judge to plan with",
            seen=place,
            allowed=f"one of {sorted(PUBLISHED)}, or KIND:CHECKPOINT with one of {sorted(KINDS)}",
            remedy="For example: --judge roboreward-8b, or --judge roboreward:FOLDER",
        )
    return kind, read_settings(KINDS[kind], checkpoint), None


def question_of(settings: Settings, *, height_px: int, width_px: int) -> QuestionSize:
    """Return how long the longest question under these settings is.

    Args:
        settings: Of the reward model.
        height_px: Height of the cameras' pictures.
        width_px: Their width; VLAC and SOLE-R1 bring pictures to a size of their own.
    """
    match settings:
        case RoboRewardConfig():
            pieces = math.ceil(settings.frames / _FRAMES_PER_SIGHT)
            words = len(ROBOREWARD.own) // _CHARACTERS + _FRAMING + _STAMP * pieces + settings.max_tokens
            return QuestionSize(
                pictures=pieces,
                words=words,
                height_px=height_px,
                width_px=width_px,
                min_pixels=settings.min_pixels,
                max_pixels=settings.max_pixels,
            )
        case DopamineConfig():
            # The authors' text has 3,040 characters.
            return QuestionSize(
                pictures=8,
                words=3040 // _CHARACTERS + _FRAMING + _MARKS * 8 + settings.max_tokens,
                height_px=height_px,
                width_px=width_px,
                min_pixels=settings.min_pixels,
                max_pixels=settings.max_pixels,
            )
        case VlacConfig():
            pictures = 2 + (settings.reference_frames + 1 if settings.reference_frames else 0)
            # Of two pictures the authors' question has about 650 tokens, 2 x 259 of them visual and beside them.
            return QuestionSize(
                pictures=pictures,
                words=132 + _MARKS * pictures + settings.max_tokens,
                height_px=settings.image_px,
                width_px=settings.image_px,
            )
        case SoleConfig():
            height_px, width_px = composed_px(max(1, len(settings.cameras)))
            return QuestionSize(
                pictures=1,
                words=_FRAMING + 160 + settings.max_tokens,
                height_px=height_px,
                width_px=width_px,
                max_pixels=settings.max_pixels,
            )


def _qwen3_vl(text: dict[str, Any], vision: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    shared = {"vocab_size": 151_936, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_interleaved": True,
        "mrope_section": [24, 20, 20],
    }
    return {
        "model_type": "qwen3_vl",
        "text_config": {**shared, "num_hidden_layers": 36, "rope_parameters": rope, **text},
        "vision_config": {"num_heads": 16, "out_hidden_size": text["hidden_size"], **vision},
        "tie_word_embeddings": tied,
    }


def _qwen2_5_vl(text: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420}
    return {
        "model_type": "qwen2_5_vl",
        "text_config": {"rope_parameters": rope, **text},
        "vision_config": {"out_hidden_size": text["hidden_size"], **vision},
        "tie_word_embeddings": tied,
    }


def _internvl2(**text: int) -> dict[str, Any]:
    return {
        "model_type": "internvl",
        "text_config": {"model_type": "llama", "vocab_size": 92_553, "num_key_value_heads": 8, **text},
        # InternViT-300M-448: the library's own sizes, with biases.
        "vision_config": {"attention_bias": True},
        "tie_word_embeddings": False,
    }


_QWEN3_VL_4B = _qwen3_vl(
    {"hidden_size": 2560, "intermediate_size": 9728},
    {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]},
    tied=True,
)
_QWEN3_VL_8B = _qwen3_vl(
    {"hidden_size": 4096, "intermediate_size": 12_288},
    {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]},
    tied=False,
)
_QWEN2_5_VL_3B = _qwen2_5_vl(
    {
        "vocab_size": 151_936,
        "hidden_size": 2048,
        "intermediate_size": 11_008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
    },
    tied=True,
)
_QWEN2_5_VL_7B = _qwen2_5_vl(
    {
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    tied=False,
)
# RoboReward's base: arXiv 2601.00675. Robo-Dopamine's cards name the class, and the size as "4B" and "8B": which of the
# class's published networks that is, is taken from that; the first Robo-Dopamine's from RoboBrain 2.0, of which it
# started. Sizes: config.json of Qwen/Qwen3-VL-4B-Instruct, -8B-Instruct, Qwen/Qwen2.5-VL-3B-Instruct and -7B-Instruct,
# as other projects restate them; Qwen3-VL-8B then has its published 8.77 billion parameters, Qwen2.5-VL-7B its 8.29.
_SIZES = "{}'s sizes, {}"

PUBLISHED: dict[str, Published] = {
    "roboreward-4b": Published(
        kind="roboreward",
        network=_QWEN3_VL_4B,
        source=_SIZES.format("Qwen3-VL-4B-Instruct", "arXiv 2601.00675"),
    ),
    "roboreward-8b": Published(
        kind="roboreward",
        network=_QWEN3_VL_8B,
        source=_SIZES.format("Qwen3-VL-8B-Instruct", "arXiv 2601.00675"),
    ),
    "dopamine-3b": Published(
        kind="dopamine",
        network=_QWEN2_5_VL_3B,
        source=_SIZES.format("Qwen2.5-VL-3B-Instruct", "by its card's class"),
    ),
    "dopamine-4b": Published(
        kind="dopamine",
        network=_QWEN3_VL_4B,
        source=_SIZES.format("Qwen3-VL-4B-Instruct", "by its card's class"),
    ),
    "dopamine-8b": Published(
        kind="dopamine",
        network=_QWEN3_VL_8B,
        source=_SIZES.format("Qwen3-VL-8B-Instruct", "by its card's class"),
    ),
    # The first GRM-8B, of RoboBrain 2.0; dopamine-8b is that of GRM 2.0.
    "dopamine-v1-8b": Published(
        kind="dopamine",
        network=_QWEN2_5_VL_7B,
        source=_SIZES.format("Qwen2.5-VL-7B-Instruct", "the base of RoboBrain2.0-7B"),
    ),
    "sole-r1-8b": Published(
        kind="sole-r1",
        network=_QWEN3_VL_8B,
        source=_SIZES.format("Qwen3-VL-8B-Instruct", "arXiv 2603.28730"),
    ),
    "vlac-2b": Published(
        kind="vlac",
        network=_internvl2(
            hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=16
        ),
        # 2,205,754,368 parameters are, in bfloat16, the 4.41 GB of InternRobotics/VLAC's one file.
        source=_SIZES.format("InternVL2-2B", "as large as the published file"),
    ),
    "vlac-8b": Published(
        kind="vlac",
        network=_internvl2(
            hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32
        ),
        source=_SIZES.format("InternVL2-8B", "its published base"),
    ),
}
"""Checkpoints that can be planned with by name; their weights are published in bfloat16."""
