"""From settings to a judge; only the code of the kind that is named is loaded."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from roborl.rewards.judges.checkpoints import copy_here, find_checkpoint
from roborl.rewards.judges.config import JudgeConfig, JudgeKind
from roborl.rewards.judges.queries import VlmJudge
from roborl.rewards.prompts import Prompt, PromptContract, load_prompt

log = logging.getLogger(__name__)


def checkpoint_folder(config: JudgeConfig, checkpoint: str) -> Path | None:
    """Return where a checkpoint's files stand on this machine: its folder, or its place in the hub's cache.

    Args:
        config: How the judge runs.
        checkpoint: A folder, or a name on the hub.

    Returns:
        The folder; None where this machine has no copy and needs none.

    Raises:
        ModelLoadError: If the judge is to load it and it is not here.
    """
    return find_checkpoint(checkpoint) if config.kind is JudgeKind.TRANSFORMERS else copy_here(checkpoint)


def open_judge(
    config: JudgeConfig,
    checkpoint: str,
    *,
    min_pixels: int = 0,
    max_pixels: int = 0,
) -> VlmJudge:
    """Load or connect the judge that the settings name.

    Args:
        config: How it runs.
        checkpoint: Folder with the network's weights and processor, or a name in the hub's cache; at endpoints, part of
            the judge's identity, and where its files are here, what tells the size of a visual token.
        min_pixels: Least pixels of a frame as a Qwen network sees it; 0 leaves the checkpoint's own limit.
        max_pixels: Most pixels of the same, however many frames a clip has. Endpoints are sent frames within both.

    Raises:
        ModelLoadError: If the checkpoint cannot be used.
        JudgeDown: If none of the endpoints answers.
    """
    if config.kind is JudgeKind.OPENAI:
        from roborl.rewards.judges.openai_judge import OpenAiJudge

        return OpenAiJudge(config, checkpoint, min_pixels=min_pixels, max_pixels=max_pixels)
    if config.kind is JudgeKind.FAKE:
        from roborl.rewards.judges.fake import FakeJudge

        log.warning("a fake judge answers every question with %r, whatever it is shown", config.reply)
        return FakeJudge(config.reply)
    if config.kind is JudgeKind.PAIRS:
        from roborl.rewards.pairs.checkpoint import load_pairs
        from roborl.rewards.pairs.judge import PairJudge

        return PairJudge(load_pairs(checkpoint))
    from roborl.rewards.judges.transformers_judge import TransformersJudge

    judge: VlmJudge = TransformersJudge.load(config, checkpoint, min_pixels=min_pixels, max_pixels=max_pixels)
    return judge


def open_with_words(
    config: Any, contract: PromptContract, *, min_pixels: int = 0, max_pixels: int = 0
) -> tuple[VlmJudge, Prompt]:
    """Open the judge that the settings name, with the words that its checkpoint brings or the settings name.

    Args:
        config: The dataclass of settings; it has ``checkpoint``, ``judge`` and ``prompt``.
        contract: What the words must hold.
        min_pixels: As of :func:`open_judge`.
        max_pixels: As of :func:`open_judge`.

    Raises:
        ModelLoadError: If the checkpoint cannot be used.
        ConfigError: If the words cannot be used.
        JudgeDown: If none of the endpoints answers.
    """
    prompt = load_prompt(contract, config.prompt, checkpoint_folder(config.judge, config.checkpoint))
    judge = open_judge(config.judge, config.checkpoint, min_pixels=min_pixels, max_pixels=max_pixels)
    return judge, prompt
