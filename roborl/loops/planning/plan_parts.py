"""The parts of a memory plan that belong to a judge: as it judges, and as it is adapted."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass

from roborl.loops.planning.memory_plan import HOST, PlanLine, Process
from roborl.rewards.adaptation.config import AdaptationTraining, Method
from roborl.rewards.judges.blueprint import Blueprint, read_blueprint
from roborl.rewards.judges.config import JudgeConfig, JudgeKind, Quantisation
from roborl.rewards.judges.footprint import Kept, Learning, learning_bytes
from roborl.rewards.judges.seeing import AT_ONCE
from roborl.rewards.published import QuestionSize, question_of, read_judge

_MB = 1 << 20
_SINGLE = 4  # bytes of a number


@dataclass(frozen=True, kw_only=True)
class PlannedJudge:
    """A judge as far as memory is concerned.

    Attributes:
        name: As it was named.
        blueprint: Its network.
        kept: How its weights are kept.
        question: Its longest question.
        settings: How it runs.
        measured: Whether its files are here.
        source: Where its size is known from.
    """

    name: str
    blueprint: Blueprint
    kept: Kept
    question: QuestionSize
    settings: JudgeConfig
    measured: bool
    source: str

    @property
    def picture_tokens(self) -> int:
        """Visual tokens of a picture."""
        asked = self.question
        return self.blueprint.visual_tokens(
            asked.height_px, asked.width_px, min_pixels=asked.min_pixels, max_pixels=asked.max_pixels
        )

    @property
    def tokens(self) -> int:
        """Tokens of the longest question with its reply, padded as the judge pads them: once per half."""
        length = self.picture_tokens * self.question.pictures + self.question.words
        pad = self.settings.pad_to
        return -(-length // pad) * pad + pad


@functools.cache
def _published_blueprint(network: str) -> Blueprint:
    """Return the network that published settings describe; advice tries each in every number format."""
    return Blueprint(json.loads(network))


def plan_judge(place: str, kept: Kept | None, *, height_px: int, width_px: int) -> PlannedJudge | None:
    """Look a judge up.

    Args:
        place: A published name, or a kind, a colon and a checkpoint or settings.
        kept: How its weights are kept; None for what its settings say.
        height_px: Height of the cameras' pictures.
        width_px: Their width.

    Returns:
        The judge; None where endpoints run it, and nothing of it is in memory here, or it is too small to plan for.

    Raises:
        ConfigError: If there is no such judge.
        ModelLoadError: If its checkpoint cannot be read.
    """
    _, settings, published = read_judge(place)
    judge = settings.judge
    if judge.kind is not JudgeKind.TRANSFORMERS:
        return None
    if published is not None:
        blueprint, saved = _published_blueprint(json.dumps(published.network)), Kept.BF16
    else:
        blueprint, files = read_blueprint(settings.checkpoint)
        saved = files.kept
    return PlannedJudge(
        name=place,
        blueprint=blueprint,
        kept=kept or _kept(judge, saved),
        question=question_of(settings, height_px=height_px, width_px=width_px),
        settings=judge,
        measured=published is None,
        source=published.source if published else "its files' headers",
    )


def _kept(judge: JudgeConfig, saved: Kept) -> Kept:
    if judge.quantisation is not Quantisation.NONE:
        return Kept.INT8 if judge.quantisation is Quantisation.INT8 else Kept.NF4
    named = {"float32": Kept.FP32, "bfloat16": Kept.BF16, "float16": Kept.FP16}
    return named.get(judge.dtype, saved)


def judge_parts(judge: PlannedJudge, device: str, questions: int) -> Iterator[PlanLine]:
    """Yield what ``roborl serve`` takes with one judge that reads so many questions at once; in int8 it reads one.

    Pictures are seen in batches of their own; all of a question's are taken to be new.
    """
    blueprint, kept, bound = judge.blueprint, judge.kept, judge.settings
    decoder, tokens, picture = blueprint.decoder, judge.tokens, judge.picture_tokens
    shown = min(AT_ONCE, judge.question.pictures * questions)
    if kept is Kept.INT8:
        questions = shown = 1
    asked = f"{questions} x {tokens} tokens"
    pictures = f"{judge.question.pictures} pictures of {picture} each"
    at = Process("judge", device)
    cache = decoder.cache_bytes(tokens, questions, kept.number_bytes)
    reading = decoder.reading_bytes(tokens, questions, kept.number_bytes) + blueprint.unpacked_bytes(kept)
    # Pictures are seen before anything is read, and what that took is free again.
    seeing = max(0, blueprint.seeing_bytes(picture, shown, kept) - cache - reading)
    yield _weights(at, judge, kept)
    yield at.estimated("keys and values", cache, f"{asked}: {pictures}, the rest words")
    yield at.estimated("reading", reading, f"{asked}, one layer at a time")
    if seeing:
        yield at.estimated("seeing, beyond reading", seeing, f"{shown} x {picture} tokens")
    yield at.measured("pictures kept", bound.vision_cache_mb * _MB, "their bound, judge.vision_cache_mb")
    yield at.measured("prefixes kept", bound.prefix_cache_mb * _MB, "their bound, judge.prefix_cache_mb")
    yield from at.context()


def _weights(at: Process, judge: PlannedJudge, kept: Kept) -> PlanLine:
    nbytes = judge.blueprint.weight_bytes(kept)
    if kept.quantised:
        return at.estimated(f"weights, {kept}", nbytes, f"{judge.source}; as bitsandbytes packs them")
    return at.part(f"weights, {kept}", nbytes, judge.measured, judge.source)


def training_parts(judge: PlannedJudge, device: str, training: AdaptationTraining) -> Iterator[PlanLine]:
    """Yield what ``roborl train-reward`` takes to adapt a judge.

    With LoRA the weights stay as they are, and the small matrices learn in single precision, as peft keeps them.
    Otherwise all weights are kept in single precision, and on a card the linear ones once more in bfloat16.
    """
    blueprint, tokens, at = judge.blueprint, judge.tokens, Process("learner", device)
    lora = training.method is Method.LORA
    learning = Learning.LORA if lora else Learning.FULL if device == HOST else Learning.MIXED
    if lora:
        learns = blueprint.lora_parameters(training.lora.rank, training.lora.targets)
        yield _weights(at, judge, judge.kept)
        yield at.part("adapter, fp32", _SINGLE * learns, judge.measured, f"rank {training.lora.rank}")
    else:
        learns = blueprint.parameters
        yield _weights(at, judge, Kept.FP32)
    if learning is Learning.MIXED:
        yield at.estimated("copies, bf16", 2 * learns, "autocast's, of every weight")
    yield at.part(
        "gradients, Adam", learning_bytes(learns), judge.measured, f"12 bytes for each of {learns:,} weights"
    )
    yield at.estimated(
        "activations",
        blueprint.decoder.saved_bytes(tokens, training.batch, learning, checkpointing=training.checkpointing),
        f"{training.batch} x {tokens} tokens; those of the vision network are not counted",
    )
    yield from at.context()
