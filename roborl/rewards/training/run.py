"""The loop of every training of a reward model: its pace, resume points, progress, and end where numbers go wrong."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from roborl.clock import Every
from roborl.errors import TrainingError
from roborl.rewards.resume_points import Identity, read_resume_point, restore_optimiser, write_resume_point
from roborl.rewards.training.pace import Pace

logger = logging.getLogger(__name__)

_LOG_EVERY_S = 5.0
_FILE = "resume.safetensors"
_LOSSES = "run.losses"

type Log = Callable[[Mapping[str, float]], None]


def step_line(figures: Mapping[str, float]) -> str:
    """Return in a line how far a training has come.

    Example:
        >>> step_line({"step": 19, "seconds": 5.2038, "loss": 0.25})
        'step    19     5.2 s  loss 0.2500'
    """
    return f"step {figures['step']:5.0f}  {figures['seconds']:6.1f} s  loss {figures['loss']:.4f}"


class Learner(ABC):
    """What learns: all in which the training of one reward model differs from that of another.

    Args:
        optimiser: Adam or AdamW; a group of it may have a ``share``, its part of the learning rate.
        named: What it moves, by name.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> None:
        self.optimiser, self.named = optimiser, named

    @abstractmethod
    def losses(self, step: int) -> Iterable[Tensor]:
        """Return the loss of a step, in parts that are gone back through one after the other; steps count from 0."""

    def moved(self, step: int) -> None:
        """Do what follows when a step has moved the weights; nothing as a rule."""
        return

    def measured(self, step: int, last: bool) -> Mapping[str, float] | None:
        """Return figures that are told at once after so many steps, beside those of every run; None for no telling."""
        return None

    def kept(self) -> dict[str, Tensor]:
        """Return the tensors of a resume point, by name."""
        return {f"network.{name}": tensor for name, tensor in self.named.items()}

    def words(self) -> dict[str, str]:
        """Return the words that are kept beside them."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> None:
        """Take back what was kept."""
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(tensors[f"network.{name}"])


class TrainingRun:
    """A run, new or gone on with from its resume point.

    Args:
        learner: What learns.
        pace: For how long, and how fast.
        identity: What the weights that come out depend on; a resume point of another run is refused.
        workspace: Folder for the resume point; None for none. Blocks on the disk.
        save_every_s: Seconds from one resume point to the next.
        clip: Longest gradient; a longer one is shortened.
        most_broken: A step whose loss or gradient is not finite moves nothing; so many in a row end the run.
        told_losses: How many losses the one that is told is the mean of.

    Attributes:
        losses: Loss of each step, earlier sessions included; NaN where it moved nothing.
        seconds: Seconds of optimisation, earlier sessions included.
        session_s: Those of this session.
        skipped: Steps that moved nothing.

    Raises:
        ModelLoadError: If ``workspace`` holds a resume point of another run, or one that cannot be read.
    """

    def __init__(
        self,
        learner: Learner,
        pace: Pace,
        *,
        identity: Identity,
        workspace: Path | None,
        save_every_s: float,
        clip: float = 1.0,
        most_broken: int = 1,
        told_losses: int = 50,
    ) -> None:
        self._learner, self._pace, self._identity = learner, pace, identity
        self._point = None if workspace is None else workspace / _FILE
        self._save_every_s, self._clip = save_every_s, clip
        self._most_broken, self._told_losses = most_broken, told_losses
        self._broken = 0
        self.losses: list[float] = []
        self.seconds, self.session_s, self.skipped = 0.0, 0.0, 0
        if self._point is not None:
            self._resume(self._point)

    @property
    def step(self) -> int:
        """How many steps were taken."""
        return len(self.losses)

    @property
    def first_loss(self) -> float:
        """Mean loss of the first tenth of the steps; NaN without any."""
        return _mean(self.losses[: self._tenth])

    @property
    def last_loss(self) -> float:
        """The same of the last tenth."""
        return _mean(self.losses[-self._tenth :])

    @property
    def recent_loss(self) -> float:
        """The same of the steps that are told about together."""
        return _mean(self.losses[-self._told_losses :])

    @property
    def _tenth(self) -> int:
        return max(1, self.step // 10)

    def optimise(self, log: Log | None = None) -> None:
        """Step to the end.

        Args:
            log: Receives step, seconds, loss and the like every few seconds, and after the last step.

        Raises:
            TrainingError: If losses, gradients or weights are no longer finite.
        """
        began, before_s = time.monotonic(), self.seconds
        telling, saving = (Every(s, at_once=False) for s in (_LOG_EVERY_S, self._save_every_s))
        while not self._pace.over(self.step, self.seconds):
            rate = self._pace.rate(self.step, self.seconds)
            gradient = self._update(rate)
            self.session_s = time.monotonic() - began
            self.seconds = before_s + self.session_s
            last = self._pace.over(self.step, self.seconds)
            measured = self._learner.measured(self.step, last)
            if log is not None and (telling.due() or last or measured is not None):
                log(self._figures(rate, gradient) | dict(measured or {}))
            if last:
                self._prove(rate)
            # Weights that have given no finite loss yet are not what a run should go on from.
            if not self._broken and (saving.due() or last):
                self._save(rate)

    def _update(self, rate: float) -> float:
        """Take one step, unless a number is not finite; return the length of its gradient."""
        learner, optimiser = self._learner, self._learner.optimiser
        for group in optimiser.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        optimiser.zero_grad(set_to_none=True)
        total, gradient = 0.0, math.nan
        for loss in learner.losses(self.step):
            total += loss.item()
            if not math.isfinite(total):
                break
            loss.backward()  # type: ignore[no-untyped-call]
        if math.isfinite(total):
            gradient = float(torch.nn.utils.clip_grad_norm_(list(learner.named.values()), self._clip))
        if math.isfinite(gradient):
            optimiser.step()
            learner.moved(self.step)
            self._broken = 0
        else:
            self._broken += 1
            if self._broken >= self._most_broken:
                raise self._failure(self.step + 1, rate, f"loss {total}, gradient {gradient}")
            logger.warning("step %d is left out: its loss or gradient is not finite", self.step + 1)
            self.skipped += 1
            total = math.nan
        self.losses.append(total)
        return gradient

    def _prove(self, rate: float) -> None:
        """Where the last steps were left out, see whether the weights give a finite loss after all."""
        ahead = self.step
        while self._broken:
            with torch.no_grad():
                loss = sum(part.item() for part in self._learner.losses(ahead))
            ahead += 1
            self._broken = 0 if math.isfinite(loss) else self._broken + 1
            if self._broken >= self._most_broken:
                raise self._failure(self.step, rate, f"loss {loss}")

    def _failure(self, step: int, rate: float, seen: str) -> TrainingError:
        again = ""
        if self._point is not None and self._point.exists():
            again = f", and give another folder or remove {self._point}"
        return TrainingError(
            "The training has come to nothing: its loss, gradient or weights are not finite",
            seen=f"{seen} in step {step} of {self._pace.steps}, at a learning rate of {rate:.3g}",
            remedy=f"Lower --training.learning_rate, {self._pace.learning_rate:.3g} at its largest{again}",
        )

    def _figures(self, rate: float, gradient: float) -> dict[str, float]:
        return {
            "step": self.step,
            "planned": self._pace.steps,
            "seconds": self.seconds,
            "loss": self.recent_loss,
            "rate": rate,
            "gradient": gradient,
            "skipped": float(self.skipped),
        }

    def _save(self, rate: float) -> None:
        kept = self._learner.kept()
        if broken := [name for name, tensor in kept.items() if not tensor.isfinite().all()]:
            raise self._failure(self.step, rate, f"{len(broken)} tensors, such as {broken[0]}")
        if self._point is None:
            return
        write_resume_point(
            self._point,
            tensors=kept | {_LOSSES: torch.tensor(self.losses, dtype=torch.float64)},
            parameters=self._learner.named,
            optimiser=self._learner.optimiser,
            identity=self._identity,
            meta={"seconds": repr(self.seconds), "skipped": str(self.skipped), **self._learner.words()},
        )

    def _resume(self, path: Path) -> None:
        point = read_resume_point(path, identity=self._identity)
        if point is None:
            return
        words, tensors = point
        self.losses = tensors[_LOSSES].tolist()
        self.seconds, self.skipped = float(words["seconds"]), int(words["skipped"])
        self._learner.restore(tensors, words)
        restore_optimiser(self._learner.optimiser, self._learner.named, tensors)
        logger.info("goes on from step %d of %d", self.step, self._pace.steps)


def _mean(losses: Sequence[float]) -> float:
    """Return the mean of those that are numbers."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return float(np.mean(finite)) if finite else math.nan
