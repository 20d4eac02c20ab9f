"""``roborl check --plan``: what is named, put together, held against the cards, and refused where it cannot fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

from roborl.errors import ConfigError
from roborl.loops.planning.memory_plan import (
    GIB,
    HOST,
    Candidate,
    DoesNotFit,
    PlanLine,
    check_devices,
    largest_batch,
    largest_that_fits,
    over,
    table,
    used_bytes,
)
from roborl.rewards.judges.footprint import Kept
from roborl.rewards.pool_config import PoolConfig

LEARNERS = (
    "rlpd",
    "judge-lora",
    "judge-full",
    "policy-lora",
    "policy-full",
    "weighted-lora",
    "weighted-full",
)
# Formats that a judge may be kept in instead, with bits per weight; others are as large as one of these.
_LADDER = {Kept.BF16: 16.0, Kept.INT8: 8.0, Kept.NF4: 4.5}


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What is to run, and where."""

    # Judge: a published name such as roboreward-8b, dopamine-4b or vlac-2b; or KIND:CHECKPOINT or KIND:SETTINGS.yaml,
    # whose files are then read; empty for none.
    judge: str = ""
    # How the judge's weights are kept: fp32, bf16, fp16, int8 or nf4; empty for what its settings or files say.
    dtype: str = ""
    # Questions that the judge reads at once; in int8 it reads one, however many are asked.
    questions: int = PoolConfig.max_batch
    # Height of the cameras' pictures, px.
    height_px: int = 240
    # Their width, px.
    width_px: int = 320
    # Policy: small, smolvla, pi0, pi05, act, or the folder of one; empty for none.
    policy: str = ""
    # Learner: rlpd, or judge-lora or judge-full (train-reward on that judge, which then does not serve), or policy-lora
    # or policy-full (LeRobot's trainer on that policy), or weighted-lora or weighted-full (roborl train with that policy);
    # empty for none.
    learner: str = ""
    # Questions or observations that are learnt from at once, for all but rlpd; 0 for the trainer's own number.
    learner_batch: int = 0
    # Whether a judge's activations are computed again in the backward pass.
    checkpointing: bool = False
    # Cameras that the policy looks through; a small policy and the replay memory take those of the bench.
    cameras: int = 2
    # Where the judge lies: cpu or cuda:0, cuda:1, ...
    judge_device: str = "cuda:0"
    # Where the policy lies; a small one is always on the cpu.
    policy_device: str = "cuda:0"
    # Where the learner lies; rlpd is always on the cpu.
    learner_device: str = "cuda:0"
    # Memory of each card, GiB, from cuda:0 on; empty for what is free on the cards of this computer.
    card_gib: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("dtype", self.dtype, [*map(str, Kept)]),
            ("learner", self.learner, LEARNERS),
        ):
            if value and value not in allowed:
                raise ConfigError(f"There is no such {name}", seen=value, allowed=allowed)
        devices = (self.judge_device, self.policy_device, self.learner_device)
        if any(d != HOST and not (d.startswith("cuda:") and d[5:].isdigit()) for d in devices):
            raise ConfigError(
                "There is no such device", seen=devices, allowed=f"{HOST} or cuda:0, cuda:1, ..."
            )
        counts = (self.questions, self.height_px, self.width_px, self.cameras)
        if (
            min(counts) < 1
            or self.learner_batch < 0
            or not all(0 < size < math.inf for size in self.card_gib)
        ):
            raise ConfigError(
                "A plan cannot be made of these numbers",
                seen=f"questions {self.questions}, picture {self.height_px} x {self.width_px}, cameras {self.cameras},"
                f" learner_batch {self.learner_batch}, card_gib {self.card_gib}",
                allowed="at least 1 of each, learner_batch ≥ 0, cards above 0 GiB and finite",
            )
        for learner, part in (("judge", "judge"), ("policy", "policy"), ("weighted", "policy")):
            if self.learner.startswith(f"{learner}-") and not getattr(self, part):
                raise ConfigError(
                    f"A learner has no {part} to learn",
                    seen=self.learner,
                    remedy=f"Name it: --{part} ...",
                )


def read_cards(config: PlanConfig) -> dict[str, int]:
    """Return the bytes of each card: as stated, else what is free of those that torch sees; empty where there are none."""
    if config.card_gib:
        return {f"cuda:{i}": int(size * GIB) for i, size in enumerate(config.card_gib)}
    import torch

    if not torch.cuda.is_available():
        return {}
    return {f"cuda:{i}": torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())}


def make_plan(
    config: PlanConfig, bench: str, bench_overrides: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Sum everything up and say the table.

    Args:
        config: What is to run.
        bench: Bench file, for a small policy and for a run's replay memory.
        bench_overrides: Dotted overrides of it.
        say: Takes lines for people.

    Returns:
        Parts, devices and cards, in bytes.

    Raises:
        ConfigError: If something named does not exist, nothing is named, or no card is known.
        ModelLoadError: If a checkpoint cannot be read.
        DoesNotFit: If a card is too small; it names what would fit.
    """
    judge = _judge(config)
    if config.judge and not judge:
        say(f"{config.judge} is asked at its endpoints: it takes nothing here")
    parts = [*judge, *_others(config, bench, bench_overrides)]
    if not parts:
        raise ConfigError(
            "There is nothing to plan",
            seen="no judge in this process, no policy, no learner",
            remedy="For example: roborl check --plan --judge roboreward-8b --policy smolvla --card_gib 24",
        )
    cards = read_cards(config)
    say(table(parts, cards))
    check_devices(parts, cards)
    short = over(parts, cards)
    if short:
        raise DoesNotFit(
            "The plan does not fit",
            seen=", ".join(f"{card} needs {used_bytes(parts)[card] / GIB:.2f} GiB" for card in sorted(short)),
            allowed=", ".join(f"{card} has {cards[card] / GIB:.2f} GiB" for card in sorted(short)),
            remedy=_advice(config, parts, cards),
        )
    return {
        "parts": [asdict(part) for part in parts],
        "used_bytes": used_bytes(parts),
        "card_bytes": cards,
        "measured_bytes": sum(part.nbytes for part in parts if part.measured),
        "fits": True,
    }


def _judge(config: PlanConfig) -> tuple[PlanLine, ...]:
    """Return the parts of the judge, or of what learns it."""
    if not config.judge:
        return ()
    from roborl.loops.planning.plan_parts import judge_parts, plan_judge, training_parts

    judge = plan_judge(
        config.judge,
        Kept(config.dtype) if config.dtype else None,
        height_px=config.height_px,
        width_px=config.width_px,
    )
    if judge is None:
        return ()
    if not config.learner.startswith("judge-"):
        return tuple(judge_parts(judge, config.judge_device, config.questions))
    from roborl.rewards.adaptation.config import AdaptationTraining, Method

    training = AdaptationTraining(
        method=Method(config.learner.removeprefix("judge-")),
        batch=config.learner_batch or AdaptationTraining.batch,
        checkpointing=config.checkpointing,
    )
    return tuple(training_parts(judge, config.learner_device, training))


def _others(config: PlanConfig, bench: str, bench_overrides: Sequence[str]) -> Iterator[PlanLine]:
    """Yield the parts of policy and learner, but for a judge's.

    Raises:
        ConfigError: If a policy is to learn as only those of another kind do, or there is no such policy.
    """
    from roborl.loops.planning import plan_learning

    small = config.policy == plan_learning.SMALL
    who, _, how = config.learner.partition("-")
    if small and who in ("policy", "weighted"):
        raise ConfigError(
            "A small policy learns by rlpd alone",
            seen=f"--policy {config.policy} --learner {config.learner}",
            allowed="--learner rlpd",
            remedy="Choose that, or another --policy, such as smolvla",
        )
    if config.policy and not small and who == "rlpd":
        raise ConfigError(
            "A LeRobot policy does not learn by rlpd",
            seen=f"--policy {config.policy} --learner {config.learner}",
            allowed=[name for name in LEARNERS if name.startswith(("policy-", "weighted-"))],
            remedy="Choose --learner weighted-lora, or --policy small",
        )
    if config.policy and not small:
        yield from plan_learning.policy_parts(config.policy, config.policy_device, cameras=config.cameras)
    if who == "weighted":
        from roborl.rewards.adaptation.config import Method

        yield from plan_learning.version_parts(config.policy, Method(how))
    if small or who in ("rlpd", "weighted"):
        from roborl.loops.learner.learn import form_of
        from roborl.loops.learner.learn_config import LearnConfig

        learn = LearnConfig(bench=bench, bench_overrides=list(bench_overrides))
        form = form_of(learn)
        if small:
            yield from plan_learning.small_policy_parts(form)
        if who == "rlpd":
            yield from plan_learning.rlpd_parts(form, learn.store)
        if who == "weighted":
            yield from plan_learning.weighted_parts(form, learn.store)
    if who in ("policy", "weighted"):
        yield from _policy_training(config, _learner_batch(config))


def _policy_training(config: PlanConfig, batch: int) -> Iterator[PlanLine]:
    """Yield what a policy takes as it learns from so many observations at once."""
    from roborl.loops.planning.plan_learning import policy_training_parts
    from roborl.rewards.adaptation.config import Method

    method = Method(config.learner.partition("-")[2])
    yield from policy_training_parts(
        config.policy, config.learner_device, method, cameras=config.cameras, batch=batch
    )


def _learner_batch(config: PlanConfig) -> int:
    """Return from how many observations a policy learns at once."""
    if config.learner_batch:
        return config.learner_batch
    if config.learner.startswith("weighted-"):
        from roborl.learning.weighted import WeightedConfig

        return WeightedConfig.batch_size
    from lerobot.configs.train import TrainPipelineConfig

    return int(TrainPipelineConfig.batch_size)


def _advice(config: PlanConfig, parts: Sequence[PlanLine], cards: dict[str, int]) -> str:
    """Return what would fit in place of what does not."""
    trains = config.learner.startswith("judge-")
    judges = ("learner",) if trains else ("judge",)
    others = [part for part in parts if not config.judge or part.process not in judges]
    smaller = _smaller_batch(config, parts, cards)
    if over(others, cards):
        either = "It would not fit without a judge either. " if config.judge and not smaller else ""
        return smaller or f"{either}Take a larger card, another device, or a smaller policy"
    best = largest_that_fits(_candidates(config), others, cards)
    advice = [
        f"The largest judge that fits: {best.name}" if best else "No published judge fits beside the rest"
    ]
    if trains:
        if not over([*_judge(replace(config, checkpointing=True)), *others], cards):
            advice.append("This one fits with --checkpointing true")
    elif few := largest_batch(
        lambda questions: [*_judge(replace(config, questions=questions)), *others], config.questions, cards
    ):
        advice.append(f"This one fits with --questions {few}")
    if smaller:
        advice.append(smaller)
    if best is None and len(advice) == 1:
        advice.append("Take a larger card or another device")
    return ". ".join(advice)


def _smaller_batch(config: PlanConfig, parts: Sequence[PlanLine], cards: dict[str, int]) -> str:
    """Return with how many observations at once everything fits where a policy learns, empty where that does not help."""
    who = config.learner.partition("-")[0]
    if who not in ("policy", "weighted"):
        return ""
    # What else a learner has lies on no card.
    rest = [part for part in parts if part.process != "learner"]
    few = largest_batch(
        lambda batch: [*rest, *_policy_training(config, batch)], _learner_batch(config), cards
    )
    if not few:
        return ""
    own = f", which is --weighted.batch_size {few} of roborl train" if who == "weighted" else ""
    return f"This one fits with --learner_batch {few}{own}"


def _candidates(config: PlanConfig) -> Iterator[Candidate]:
    """Yield the judges that might be used instead: this and all published ones, in every number format and way of learning."""
    from roborl.loops.planning.plan_parts import plan_judge
    from roborl.rewards.published import PUBLISHED

    # Packed weights are learnt beside, by an adapter, and not themselves.
    formats = {Kept.BF16: 16.0} if config.learner == "judge-full" else _LADDER
    trains, ways = config.learner.startswith("judge-"), {"": config.checkpointing}
    if trains and not config.checkpointing:
        ways[" --checkpointing true"] = True
    # Whoever teaches a judge wants that one, packed or smaller; whoever asks one takes what there is.
    kind = config.judge.partition(":")[0].partition("-")[0] if trains else ""
    for name in dict.fromkeys([config.judge, *(name for name in PUBLISHED if name.startswith(kind))]):
        known = plan_judge(name, None, height_px=config.height_px, width_px=config.width_px)
        if known is None:
            continue
        for (dtype, bits), (setting, checkpointing) in product(formats.items(), ways.items()):
            yield Candidate(
                name=f"--judge {name} --dtype {dtype}{setting}",
                parameters=known.blueprint.parameters,
                precision=bits,
                parts=_judge(replace(config, judge=name, dtype=dtype, checkpointing=checkpointing)),
            )
