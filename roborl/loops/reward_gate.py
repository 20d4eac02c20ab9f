"""The gate between a reward model and a run: it serves only if its benchmark says that it may."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from roborl.envs.bench import Bench
from roborl.envs.bench_maps import state_map
from roborl.errors import ConfigError
from roborl.images import square
from roborl.loops.requirements import Requirement
from roborl.rewards.benchmark import FIGURES
from roborl.rewards.measured import read_measured, row_of
from roborl.rewards.model import Fold, RewardModel
from roborl.types import Frame, Observation


def require_question(model: RewardModel[Any, Any], fold: Fold[Any, Any], bench: Bench) -> None:
    """See whether a model can ask about what a bench records; nobody is asked.

    Args:
        model: The model.
        fold: A new episode of its.
        bench: The bench; it is asked about one black observation of its cameras.

    Raises:
        RoborlError: If it cannot: every observation of a run would go without a score.
    """
    pictures = {
        name: np.zeros((bench.cameras[name].height_px, bench.cameras[name].width_px, 3), np.uint8)
        for name in model.info.cameras or tuple(bench.cameras)
    }
    side = model.info.image_px
    frames = {
        name: Frame(rgb=rgb if side is None else square(rgb, side), camera=name, stamp_ns=0, id=0)
        for name, rgb in pictures.items()
    }
    state = np.zeros(state_map(bench).size, np.float32)
    fold.queries(Observation(frames=frames, state=state, stamp_ns=0))


@dataclass(frozen=True, kw_only=True)
class RewardGate:
    """What a reward model must have shown before it is served."""

    # bench_reward.json that roborl bench-reward wrote for this model; empty asks for nothing
    result: str = ""
    # bars that its figures there must meet, like "voc>=0.8"; empty: those that the benchmark was run with
    require: list[str] = field(default_factory=list)
    # whether figures count there that are of episodes the model learnt from
    learnt_too: bool = False

    def __post_init__(self) -> None:
        if self.require and not self.result:
            raise ConfigError(
                "A reward gate has bars and no figures to hold against them",
                seen=self.require,
                allowed="the bench_reward.json of the model beside them",
                remedy="Set result as well",
            )
        for text in self.require:
            Requirement.parse(text, FIGURES)

    def check(self, version: str, shown: str | None = None) -> None:
        """Let a model pass, or not.

        Args:
            version: Of the model as it was loaded: the hash of everything that bears on its scores, with its calibration
                where it has one: a calibrated model passes by a benchmark of the calibrated model.
            shown: Digest of the references that it will be shown, empty where there are none; None where whoever opens
                sessions answers for that.

        Raises:
            ConfigError: If the result cannot be read, is of another version, was measured otherwise than training asks,
                or misses a bar.
        """
        if not self.result:
            return
        measured = read_measured(Path(self.result))
        found = row_of(measured, version, path=Path(self.result))
        known = sorted(found["references"].values()) or [""]
        if shown is not None and shown not in known:
            raise ConfigError(
                f"The reward gate {self.result} was measured with another demonstration than training shows",
                seen=shown or "none",
                allowed=", ".join(one or "none" for one in known),
                remedy="Give roborl bench-reward and roborl train the same --references",
            )
        # A result that was written before that was looked at does not say.
        count = int(found.get("learnt_from", {}).get("measured_on", 0))
        if count and not self.learnt_too:
            raise ConfigError(
                f"The reward gate {self.result} was measured on episodes that the model learnt from",
                seen=f"{count} of them",
                allowed="none: on those it may look good and be worth nothing",
                remedy="Run roborl bench-reward on a dataset that it did not learn from, or set learnt_too here",
            )
        bars = self.require or measured["require"]
        if not bars:
            raise ConfigError(
                f"The reward gate {self.result} asks for nothing",
                seen="no bars, here or there",
                allowed="at least one, like 'voc>=0.8'",
                remedy="Run roborl bench-reward with --require, or set require here",
            )
        # A result that was written before a figure was known has none of it.
        known_figures = {name: value for name, value in found["figures"].items() if value is not None}
        figures = dict.fromkeys(FIGURES, math.nan) | known_figures
        missed = [text for text in bars if not Requirement.parse(text, FIGURES).holds(figures)]
        if missed:
            names = {text: Requirement.parse(text, FIGURES).name for text in missed}
            raise ConfigError(
                "The reward model does not pass its gate",
                seen=", ".join(f"{names[text]} {figures[names[text]]:.3g}" for text in missed),
                allowed=", ".join(missed),
                remedy="Train it further, serve it as calibrated:RESULT:MODEL, use another, or ask for less",
            )
