"""What the judging machinery is worth: batches, prefixes read once, the server's own time, and lanes under overload.

The networks are small and random, built here in seconds: the ways through them are those of published checkpoints, and
ratios are of one network with itself. What a batch gains is a matter of the network and the machine; so the gain of the
bare language network stands beside ours. It is no limit: a batch also shares what is done around that network. Rounds
alternate and medians are taken.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from roborl.loops.benchmarks.judging_server import measure_server
from roborl.rewards.dopamine import DopamineConfig, DopamineModel
from roborl.rewards.dopamine_question import CONTRACT
from roborl.rewards.fusion import FusionConfig, Perspective
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.judges.queries import VlmQuery, VlmReply
from roborl.rewards.judges.transformers_judge import TransformersJudge
from roborl.rewards.model import References, RewardModel
from roborl.rewards.pool import SessionPool
from roborl.rewards.pool_config import PoolConfig
from roborl.rewards.prompts import Prompt, own_prompt
from roborl.rewards.roboreward import RoboRewardModel
from roborl.rewards.roboreward_config import RoboRewardConfig
from roborl.rewards.vlac.config import DoneQuestion, VlacConfig
from roborl.rewards.vlac.conversion import convert_checkpoint
from roborl.rewards.vlac.model import VlacModel
from roborl.testing.tiny_vlac import IMAGE_PX, write_published_vlac
from roborl.testing.tiny_vlms import build_tiny_vlm
from roborl.types import Frame, Image, Observation

SESSIONS = 8
_SIZES = (1, 2, 4, SESSIONS)
_PX = 224
_TASK = "put the red cube into the bowl"
_DEMO = 6  # pictures of a demonstration
_MB = 1 << 20
_BOUND_MB = 8

FORWARD, BACKWARD = "Dopamine forward", "Dopamine backward"
ONE_SHOT = "VLAC one-shot"
SHORT = "RoboReward, two small frames"


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A network and a model that asks it.

    Attributes:
        checkpoint: Folder of the network.
        model: Takes a judge; returns the model.
        references: Draws what an episode is told.
        px: Side of the pictures that its sessions are shown.
    """

    checkpoint: Path
    model: Callable[[TransformersJudge], RewardModel[Any, Any]]
    references: Callable[[np.random.Generator], References]
    px: int = _PX

    def open(self, **options: Any) -> RewardModel[Any, Any]:
        config = JudgeConfig(device="cpu", dtype="float32", **options)
        return self.model(TransformersJudge.load(config, str(self.checkpoint)))


def run(
    *, rounds: int = 7, observations: int = 8, episodes: int = 12, frames: int = 200, load_s: float = 6.0
) -> dict[str, Any]:
    """Measure all of it on one thread.

    Args:
        rounds: How often batches are measured.
        observations: Observations of an episode whose prefix stays the same.
        episodes: Episodes with a prefix each, for what is kept of them.
        frames: New frames by which the server's own time is measured.
        load_s: How long frames come three times as fast as they can be judged, s.

    Returns:
        Scores per second in batches and one by one; ms per score with and without what is kept, how far the replies
        differ, and what is kept at most; the server's own ms per frame; ages and counts of both lanes under overload.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            small = _small(folder)
            short = _short(small.pop(SHORT), rounds)
            batches = {name: _batches(case, rounds) for name, case in small.items()}
            prefixes = {
                name: _prefixes(case, observations, episodes) for name, case in _larger(folder).items()
            }
            server = measure_server(str(folder), frames=frames, load_s=load_s)
    finally:
        torch.set_num_threads(threads)
    return {
        "batches": {SHORT: short, **batches},
        "prefixes": prefixes,
        **server,
        "ratios": {
            f"{SHORT}: eight sessions / one by one": short["eight sessions / one by one"],
            **{
                f"{name}: gain of a batch / 3, or what the network alone gains if less": b[
                    "eight sessions / one by one"
                ]
                / min(3.0, b["network alone: eight / one by one"])
                for name, b in batches.items()
            },
            **{f"{name}: no prefix kept / kept": p["no prefix kept / kept"] for name, p in prefixes.items()},
            **{
                f"{name}: prefixes kept at most / their bound": p["prefixes kept at most, MB"]
                / p["their bound, MB"]
                for name, p in prefixes.items()
            },
        },
    }


def _dopamine(perspective: Perspective, checkpoint: Path) -> _Case:
    config = DopamineConfig(fusion=FusionConfig(perspectives=(perspective,)))
    return _Case(
        checkpoint=checkpoint,
        model=lambda judge: DopamineModel(judge=judge, config=config, prompt=own_prompt(CONTRACT)),
        references=lambda rng: {"goal/front": _picture(rng)},
    )


def _roboreward(checkpoint: Path) -> _Case:
    """A question with few words, and little for the network to do: what counts is the way to it."""
    config = RoboRewardConfig(frames=2, min_cells=1, min_mass=0.0)
    prompt = Prompt(template="Grade this: {task}", slot="{task}", mark="<image>", origin="found")
    return _Case(
        checkpoint=checkpoint,
        model=lambda judge: RoboRewardModel(judge, prompt, config),
        references=lambda rng: {},
        px=64,
    )


def _vlac(checkpoint: Path, image_px: int) -> _Case:
    config = VlacConfig(
        image_px=image_px,
        reference_frames=_DEMO,
        two_sided=False,
        done=DoneQuestion.OFF,
        use_probabilities=True,
        abstain_pairs=0,
    )
    return _Case(
        checkpoint=checkpoint,
        model=lambda judge: VlacModel(judge=judge, config=config),
        references=lambda rng: {"demo/front": np.stack([_picture(rng) for _ in range(_DEMO)])},
    )


def _small(folder: Path) -> dict[str, _Case]:
    """The tiny networks, as everywhere in the tests."""
    native = folder / "vlac"
    convert_checkpoint(write_published_vlac(folder / "published"), native)
    grm = build_tiny_vlm(folder / "grm", "qwen3_vl", words=[CONTRACT.own])
    return {
        SHORT: _roboreward(grm),
        FORWARD: _dopamine(Perspective.FORWARD, grm),
        ONE_SHOT: _vlac(native, IMAGE_PX),
    }


def _larger(folder: Path) -> dict[str, _Case]:
    """Networks large enough for what they compute to count beside the way to it."""
    size: dict[str, Any] = {"width": 256, "layers": 8, "words": [CONTRACT.own]}
    grm = build_tiny_vlm(folder / "larger_grm", "qwen3_vl", pixels=76_800, **size)
    critic = build_tiny_vlm(folder / "larger_vlac", "internvl", **size)
    return {
        FORWARD: _dopamine(Perspective.FORWARD, grm),
        BACKWARD: _dopamine(Perspective.BACKWARD, grm),
        ONE_SHOT: _vlac(critic, 56),
    }


def _batches(case: _Case, rounds: int) -> dict[str, float]:
    """Return scores per second of eight sessions in one pool by the most of a batch, and what the network alone gains."""
    rng = np.random.default_rng(0)
    ways = _sessions(case, rng)
    alone = _NetworkAlone(case, rng)
    ways |= {f"network alone, at most {most} a batch": partial(alone.go, most) for most in (1, SESSIONS)}
    rate = _rates(ways, rounds)
    ours, theirs = (
        rate[f"{who}, at most {SESSIONS} a batch"] / rate[f"{who}, at most 1 a batch"]
        for who in ("scores/s", "network alone")
    )
    return {**rate, "eight sessions / one by one": ours, "network alone: eight / one by one": theirs}


def _short(case: _Case, rounds: int) -> dict[str, float]:
    """Return scores per second likewise, where there is little for the network to do."""
    rate = _rates(_sessions(case, np.random.default_rng(0)), rounds)
    ours = rate[f"scores/s, at most {SESSIONS} a batch"] / rate["scores/s, at most 1 a batch"]
    return {**rate, "eight sessions / one by one": ours}


def _sessions(case: _Case, rng: np.random.Generator) -> dict[str, Callable[[], float]]:
    return {f"scores/s, at most {most} a batch": _EightSessions(case, most, rng).go for most in _SIZES}


def _rates(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return for each way of answering one question of each session how many it answers per second."""
    took_s: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, go in ways.items():
            took = go()
            if turn:  # the first round warms up
                took_s[name].append(took)
    return {name: SESSIONS / statistics.median(values) for name, values in took_s.items()}


class _EightSessions:
    """Eight episodes that one model watches, a new picture each at every turn."""

    def __init__(self, case: _Case, max_batch: int, rng: np.random.Generator) -> None:
        self._pool = SessionPool({"m": case.open()}, PoolConfig(max_batch=max_batch, max_wait_s=0.0))
        self._rng, self._px, self._index = rng, case.px, 0
        for session in range(SESSIONS):
            references = case.references(rng)
            self._pool.open(str(session), model="m", task=_TASK, cameras=["front"], references=references)
        self.go()  # of the first observation hops are not asked about

    def go(self) -> float:
        """Return how long it takes to score the next observation of all sessions, s."""
        for session in range(SESSIONS):
            self._pool.push(str(session), _observation(self._index, self._rng, self._px))
        self._index += 1
        began = time.perf_counter()
        while self._pool.step("m"):
            pass
        return time.perf_counter() - began


class _NetworkAlone:
    """The bare language network at the lengths of a model's questions: random inputs, and none of our code around it."""

    def __init__(self, case: _Case, rng: np.random.Generator) -> None:
        model = case.open()
        judge: Any = model.judge
        asked = _questions(model, case.references(rng), 3, rng)
        _, reply = [judge.answer([query])[0] for query in asked]
        self._network = judge.network.model.model.language_model
        self._kept, self._rest = reply.reused_tokens, reply.prompt_tokens - reply.reused_tokens
        self._written = len(reply.tokens)
        self._layers = [
            (layer_keys[None], layer_values[None])
            for layer_keys, layer_values in judge.prefixes.values()[-1].layers
        ]

    @torch.inference_mode()
    def go(self, most: int) -> float:
        """Return how long it takes to read and write eight times, in batches of this size, s."""
        width = self._network.config.hidden_size
        began = time.perf_counter()
        for _ in range(SESSIONS // most):
            cache = DynamicCache(
                [(k.expand(most, -1, -1, -1), v.expand(most, -1, -1, -1)) for k, v in self._layers]
            )
            mask = torch.ones(most, self._kept + self._rest + self._written, dtype=torch.long)
            for length in (self._rest, *[1] * (self._written - 1)):
                end = cache.get_seq_length() + length
                self._network(
                    inputs_embeds=torch.randn(most, length, width),
                    attention_mask=mask[:, :end],
                    past_key_values=cache,
                    use_cache=True,
                )
        return time.perf_counter() - began


def _prefixes(case: _Case, observations: int, episodes: int) -> dict[str, float]:
    """Return ms per score with the prefix kept, with pictures alone kept, and with nothing; and whether replies agree."""
    rng = np.random.default_rng(1)
    judged = {
        "kept": case.open(),
        "no prefix kept": case.open(prefix_cache_mb=0),
        "nothing kept": case.open(prefix_cache_mb=0, vision_cache_mb=0),
    }
    queries = _questions(judged["kept"], case.references(rng), observations + 2, rng)
    took_ms: dict[str, list[float]] = {name: [] for name in judged}
    replies: dict[str, list[VlmReply]] = {name: [] for name in judged}
    for query in queries:
        for name, model in judged.items():
            began = time.perf_counter()
            (reply,) = model.judge.answer([query])
            took_ms[name].append(1e3 * (time.perf_counter() - began))
            assert reply is not None, "a finite network answers"
            replies[name].append(reply)
    # The first question reads the prefix.
    ms = {name: statistics.median(values[1:]) for name, values in took_ms.items()}
    last, others = replies["kept"][-1], zip(replies["kept"], replies["nothing kept"], strict=True)
    pairs = list(others)
    return {
        **{f"ms per score, {name}": value for name, value in ms.items()},
        "ms of the first, which reads the prefix": took_ms["kept"][0],
        "no prefix kept / kept": ms["no prefix kept"] / ms["kept"],
        "nothing kept / kept": ms["nothing kept"] / ms["kept"],
        "tokens of a question": last.prompt_tokens,
        "of which reused": last.reused_tokens,
        "replies compared": len(pairs),
        "replies with other words": sum(one.text != other.text for one, other in pairs),
        "most that a probability differs": max(_difference(one, other) for one, other in pairs),
        **_kept(case, episodes, rng),
    }


def _kept(case: _Case, episodes: int, rng: np.random.Generator) -> dict[str, float]:
    """Return what is kept at most of the prefixes of many episodes, beside the bound and what all of them would take."""
    model = case.open(prefix_cache_mb=_BOUND_MB, vision_cache_mb=_BOUND_MB)
    judge: Any = model.judge
    most = made = 0
    for _ in range(episodes):
        before = set(judge.prefixes.values())
        model.judge.answer(_questions(model, case.references(rng), 2, rng))
        made += sum(prefix.nbytes for prefix in set(judge.prefixes.values()) - before)
        most = max(most, judge.prefixes.nbytes)
    return {
        "prefixes kept at most, MB": most / _MB,
        "their bound, MB": _BOUND_MB,
        "prefixes of all episodes, MB": made / _MB,
    }


def _questions(
    model: RewardModel[Any, Any], references: References, count: int, rng: np.random.Generator
) -> list[VlmQuery]:
    """Return the questions of one episode of so many observations."""
    fold = model.start(_TASK, references)
    return [query for index in range(count) for query in fold.queries(_observation(index, rng))]


def _difference(one: VlmReply, other: VlmReply) -> float:
    """Return the most by which the probability of anything that both might have written differs, until they part."""
    most = 0.0
    for token, twin in zip(one.tokens, other.tokens, strict=False):
        # By rank: parts of letters are all spelt alike.
        chances, others = ([p for _, p in place.alternatives] for place in (token, twin))
        most = max([most, *(abs(p - q) for p, q in zip(chances, others, strict=True))])
        if token.text != twin.text:
            break
    return most


def _observation(index: int, rng: np.random.Generator, px: int = _PX) -> Observation:
    frame = Frame(rgb=_picture(rng, px), camera="front", stamp_ns=0, id=index)
    return Observation(frames={"front": frame}, state=np.zeros(1, np.float32), stamp_ns=0)


def _picture(rng: np.random.Generator, px: int = _PX) -> Image:
    picture: Image = rng.integers(0, 256, (px, px, 3), np.uint8)
    return picture
