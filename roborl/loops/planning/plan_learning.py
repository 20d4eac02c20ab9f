"""The parts of a memory plan that belong to a policy and to what learns it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roborl.errors import ConfigError
from roborl.loops.learner.learn_config import BenchForm, StoreConfig
from roborl.loops.planning.memory_plan import HOST, PlanLine, Process
from roborl.policies.published import POLICIES, PublishedPolicy
from roborl.rewards.adaptation.config import LoraSettings, Method
from roborl.rewards.judges.blueprint import read_saved
from roborl.rewards.judges.footprint import Decoder, Learning, learning_bytes
from roborl.rewards.judges.weights import read_network_config

if TYPE_CHECKING:
    from roborl.policies.small import SmallPolicyConfig

_SINGLE = 4  # bytes of a number
# Numbers per unit of a hidden layer that wait for the backward pass: before and after its norm, and after its rectifier.
_PER_UNIT, _HIDDEN_LAYERS = 3, 2
# Sets of weights that an actor reserves memory for, whole.
_SETS = 4
# What stays as it is, in the names of SmolVLA's tensors and of the π family's, where the settings say so.
_LANGUAGE_NETWORKS = (".vlm.", ".paligemma.")
_VISION_NETWORKS = (".vlm.model.vision_model.", ".paligemma.model.vision_tower.")
ADAPTED = ("pi0", "pi05", "smolvla")
"""Kinds of policy of which LeRobot says where adapters go."""
SMALL = "small"
"""Name of the policy that ``roborl learn`` makes for a bench."""


def small_policy_parts(form: BenchForm) -> Iterator[PlanLine]:
    """Yield what the small policy of a bench takes as it acts; it runs on the CPU."""
    at = Process("policy", HOST)
    encoder, actor, _ = _small(form)
    yield at.measured("weights", _SINGLE * (encoder + actor), "counted on its own classes")


def rlpd_parts(form: BenchForm, store: StoreConfig) -> Iterator[PlanLine]:
    """Yield what ``roborl learn`` takes: all of it in the computer's memory."""
    from roborl.learning.rlpd import RlpdConfig

    config, at = RlpdConfig(), Process("learner", HOST)
    encoder, actor, critics = _small(form)
    yield at.measured(
        "weights",
        _SINGLE * (encoder + 2 * (actor + critics)),
        "the actor and its average, critics and targets",
    )
    yield at.measured("gradients, Adam", learning_bytes(actor + critics), "12 bytes for each that learns")
    units = _HIDDEN_LAYERS * (config.members * config.width + _shape(form).width)
    yield at.estimated(
        "activations", _SINGLE * config.batch_size * _PER_UNIT * units, f"a batch of {config.batch_size}"
    )
    yield from _replay_parts(form, store, 3 * _shape(form).keypoints * len(form.cameras))


def weighted_parts(form: BenchForm, store: StoreConfig) -> Iterator[PlanLine]:
    """Yield what ``roborl learn`` takes in the computer's memory for a LeRobot policy, beside the policy that learns."""
    from roborl.learning.weighted import WeightedConfig, value_networks

    config, at = WeightedConfig(), Process("learner", HOST)
    encoder, values = value_networks(
        config, tuple(form.cameras), image_px=form.image_px, state_dim=form.state_dim
    )
    frozen, learn = (
        sum(tensor.numel() for tensor in module.state_dict().values()) for module in (encoder.encoder, values)
    )
    yield at.measured(
        "values' weights",
        _SINGLE * (frozen + 2 * learn),
        f"{config.encoder}, which is frozen, values and targets",
    )
    yield at.measured("values' gradients, Adam", learning_bytes(learn), "12 bytes for each that learns")
    yield from _replay_parts(form, store, encoder.output_dim)


def _replay_parts(form: BenchForm, store: StoreConfig, features: int) -> Iterator[PlanLine]:
    """Yield what the replay memory takes, with so many numbers kept of each observation's pictures."""
    at, arena = Process("learner", HOST), form.arena(store)
    yield at.measured(
        "replay pictures", store.capacity_bytes, f"store.capacity_bytes: {arena.rows:,} observations"
    )
    # Beside the features of a row: who owned it when it was encoded, and who does now.
    yield at.measured("replay features", arena.rows * (_SINGLE * features + 16), f"{features} numbers each")


def policy_parts(name: str, device: str, *, cameras: int) -> Iterator[PlanLine]:
    """Yield what a policy takes as it acts.

    Args:
        name: A name of :data:`~roborl.policies.published.POLICIES`, or a folder that LeRobot or roborl saved.
        device: Where it runs.
        cameras: How many cameras it looks through.

    Raises:
        ConfigError: If there is no such policy.
        ModelLoadError: If its folder cannot be read.
    """
    found, at = _find_policy(name), Process("policy", device)
    known, number_bytes = found.known, found.number_bytes
    yield found.weights(at)
    if known is not None:
        tokens = known.tokens(cameras)
        seen = f"{tokens} tokens of {cameras} cameras"
        if known.caches:
            yield at.estimated(
                "keys and values",
                known.decoder.cache_bytes(tokens, 1, number_bytes),
                f"{seen}, one observation",
            )
        yield at.estimated("reading", known.decoder.reading_bytes(tokens, 1, number_bytes), seen)
    yield from at.context()


def policy_training_parts(
    name: str, device: str, method: Method, *, cameras: int, batch: int
) -> Iterator[PlanLine]:
    """Yield what a policy takes as it learns, by LeRobot's trainer or by ours; arguments as above.

    Args:
        name: As above; a folder must be of one of those kinds.
        device: As above.
        method: Small matrices, or all that learns by default.
        cameras: As above.
        batch: Observations read at once.

    Raises:
        ConfigError: If there is no such policy, or it is not known how it learns.
        ModelLoadError: If its folder cannot be read.
    """
    found, at = _find_policy(name), Process("learner", device)
    known = found.known_to_learn()
    yield found.weights(at)
    learns, how = found.learns(method)
    if method is Method.LORA:
        yield at.estimated("adapter, fp32", _SINGLE * learns, how)
    yield at.estimated("gradients, Adam", learning_bytes(learns), f"12 bytes for each of {learns:,}: {how}")
    tokens = known.tokens(cameras)
    learning = Learning.LORA if method is Method.LORA else Learning.FULL
    saved = known.decoder.saved_bytes(tokens, batch, learning)
    yield at.estimated(
        "activations",
        saved * found.number_bytes // 2,
        f"{batch} x {tokens} tokens; vision and action parts not counted",
    )
    yield from at.context()


def version_parts(name: str, method: Method) -> Iterator[PlanLine]:
    """Yield what versions of a LeRobot policy that learns in a run take in the memory that an actor's processes share.

    Args:
        name: As above.
        method: As above.

    Raises:
        ConfigError: If a run would refuse to let that learn: LeRobot has no place for adapters in this kind, or a version would
            be larger than what actors take.
        ModelLoadError: If its folder cannot be read.
    """
    from roborl.loops.learner.start_policy import check_sendable

    found = _find_policy(name)
    learns, how = found.learns(method)
    if method is Method.LORA and found.kind not in ADAPTED:
        raise ConfigError(
            "LeRobot does not say where adapters of low rank go in this kind of policy",
            seen=found.kind,
            allowed=f"--learner weighted-lora with one of {', '.join(ADAPTED)}",
            remedy="Let all of it learn: --learner weighted-full",
        )
    check_sendable(learns, remedy="Let adapters learn: --learner weighted-lora")
    nbytes = _SINGLE * learns
    yield Process("policy", HOST).estimated(
        "versions in /dev/shm", _SETS * nbytes, f"{_SETS} of {nbytes / 1e6:.1f} MB: {how}"
    )


@dataclass(frozen=True, kw_only=True)
class _Policy:
    """A policy as it is named, or as it is found in a folder."""

    name: str
    kind: str  # as LeRobot calls it; empty for ours
    numbers: int
    number_bytes: int
    nbytes: int
    measured: bool
    source: str
    learnt: int | None = None  # how many numbers learn, where its settings say so

    @property
    def known(self) -> PublishedPolicy | None:
        """What is known of its kind."""
        return POLICIES.get(self.kind)

    def known_to_learn(self) -> PublishedPolicy:
        """Return what is known of its kind.

        Raises:
            ConfigError: If that is nothing.
        """
        if self.known is None:
            raise ConfigError(
                "It is not known how this policy is trained",
                seen=self.name,
                allowed=f"a policy of LeRobot's, of one of the kinds {sorted(POLICIES)}",
                remedy="Plan a small policy's learning with: --learner rlpd",
            )
        return self.known

    def weights(self, at: Process) -> PlanLine:
        return at.part("weights", self.nbytes, self.measured, self.source)

    def learns(self, method: Method) -> tuple[int, str]:
        """Return how many numbers learn, and which these are."""
        known = self.known_to_learn()
        if method is Method.LORA:
            rank = LoraSettings().rank
            return _lora_numbers(known.decoder, rank), f"adapter of rank {rank}"
        if self.learnt is not None:
            return self.learnt, "all that learns by its config.json"
        return min(known.learns, self.numbers), "all that learns by default"


def _find_policy(name: str) -> _Policy:
    known = POLICIES.get(name)
    if known is not None:
        return _Policy(
            name=name,
            kind=name,
            numbers=known.parameters,
            number_bytes=known.number_bytes,
            nbytes=known.parameters * known.number_bytes,
            measured=False,
            source=known.source,
        )
    folder = Path(name)
    if not folder.is_dir():
        raise ConfigError(
            "There is no such policy to plan with",
            seen=name,
            allowed=f"{SMALL}, one of {sorted(POLICIES)}, or the folder of a policy",
            remedy="For example: --policy smolvla",
        )
    saved = read_saved(folder)
    ours = (folder / "policy.json").is_file()
    settings = {} if ours else read_network_config(folder)
    return _Policy(
        name=name,
        kind="" if ours else str(settings.get("type")),
        learnt=_learnt(settings, saved.sizes),
        numbers=saved.numbers,
        number_bytes=saved.kept.number_bytes,
        nbytes=saved.nbytes,
        measured=True,
        source="its files' headers",
    )


def _learnt(settings: Mapping[str, Any], sizes: Mapping[str, int]) -> int | None:
    """Return how many numbers learn by the settings of SmolVLA and the π family; None where there are no such settings.

    The few of SmolVLA's language network that its expert never reads are counted, and stay as they are.
    """
    if not isinstance(expert_only := settings.get("train_expert_only"), bool):
        return None
    if expert_only:
        frozen: tuple[str, ...] = _LANGUAGE_NETWORKS
    else:
        frozen = _VISION_NETWORKS if settings.get("freeze_vision_encoder") else ()
    return sum(size for name, size in sizes.items() if not any(part in name for part in frozen))


def _lora_numbers(decoder: Decoder, rank: int) -> int:
    """Return the size of an adapter on the four projections of attention."""
    q, kv = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
    return decoder.layers * rank * 2 * ((decoder.hidden + q) + (decoder.hidden + kv))


def _shape(form: BenchForm) -> SmallPolicyConfig:
    from roborl.policies.small import SmallPolicyConfig

    return SmallPolicyConfig(
        cameras=tuple(form.cameras),
        image_px=form.image_px,
        state_dim=form.state_dim,
        action_dim=form.action_dim,
    )


def _small(form: BenchForm) -> tuple[int, int, int]:
    """Return how many numbers encoder, actor and critics of a bench have, constants with them."""
    import torch

    from roborl.learning.rlpd import RlpdConfig
    from roborl.policies.networks import Critics
    from roborl.policies.small import SmallPolicy

    config = RlpdConfig()
    with torch.device("meta"):
        policy = SmallPolicy(_shape(form))
        critics = Critics(policy.remaining.output_dim + form.action_dim + 1, config.members, config.width)
    encoder, actor, judges = (
        sum(tensor.numel() for tensor in module.state_dict().values())
        for module in (policy.encoder, policy.actor, critics)
    )
    return encoder, actor, judges
