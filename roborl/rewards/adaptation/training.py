"""Trains a judge on questions with known answers: resumable to the bit, and stopped where numbers go wrong."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from roborl.errors import DatasetError, TrainingError
from roborl.rewards.adaptation.config import AdaptationTraining
from roborl.rewards.adaptation.lessons import Album, Lessons, Sample
from roborl.rewards.adaptation.teaching import Teacher
from roborl.rewards.adaptation.weights import LearningWeights
from roborl.rewards.resume_points import (
    Identity,
    bearing,
    read_resume_point,
    restore_optimiser,
    write_resume_point,
)
from roborl.whole_files import as_json

logger = logging.getLogger(__name__)

_MOST_BROKEN = 10
_LOG_EVERY_S = 5.0
# On the weights that come out.
_NOT_BEARING = ("held_out", "measure_every", "measure", "report", "save_every_s")
_LAST_SHARE = 0.02  # of the largest learning rate, in the last step

type Log = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Adapted:
    """The outcome of a training run.

    Attributes:
        weights: What learnt; the judge's network judges again.
        steps: Steps taken, earlier sessions of a resumed run included.
        skipped: Steps that were left out because a number was not finite.
        first_loss: Mean loss of the first tenth of the steps.
        last_loss: The same of the last tenth.
        seconds: Time of this session.
    """

    weights: LearningWeights
    steps: int
    skipped: int
    first_loss: float
    last_loss: float
    seconds: float


def adapt(
    lessons: Lessons,
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    albums: tuple[Album, Album],
    training: AdaptationTraining,
    *,
    workspace: Path,
    log: Log | None = None,
) -> Adapted:
    """Train the judge of some lessons.

    Args:
        lessons: Whose judge, and how its answers are made.
        samples: Questions to learn from.
        held_out: Questions to measure with; none for no measurements.
        albums: Pictures of the former and of the latter.
        training: How.
        workspace: Folder for the resume point and ``log.jsonl``; a run that was cut goes on from there.
        log: Receives figures every few seconds, and with every measurement.

    Raises:
        DatasetError: If there is nothing to learn from.
        ModelLoadError: If ``workspace`` holds a resume point of another run.
        TrainingError: If losses or gradients stay without finite values.
    """
    if not samples:
        raise DatasetError(
            "There are no questions to learn from",
            remedy="Give successful episodes, or failures with marked sub-tasks",
        )
    return _Run(lessons, samples, held_out, albums, training, workspace, log).optimise()


class _Run:
    """Network, optimiser and order of one run, and its resume point."""

    def __init__(
        self,
        lessons: Lessons,
        samples: Sequence[Sample],
        held_out: Sequence[Sample],
        albums: tuple[Album, Album],
        training: AdaptationTraining,
        workspace: Path,
        log: Log | None,
    ) -> None:
        self.lessons, self.samples, self.training = lessons, samples, training
        self.album, self.held_album = albums
        self.held_out = _thinned(held_out, training.measure)
        self.workspace, self.log = workspace, log
        # Of the weights as they are read, before anything is done to them.
        self.identity = _identity(lessons, samples, self.album, training)
        torch.manual_seed(training.seed)
        self.weights = LearningWeights(lessons.judge.network.model, training)
        self.teacher = Teacher(lessons.judge)
        self.optimiser = torch.optim.AdamW(self.weights.groups(), lr=training.rate)
        self.planned = training.planned_steps(len(samples))
        self.step, self.skipped, self.broken = 0, 0, 0
        self.losses: list[float] = []
        self._resume()

    def optimise(self) -> Adapted:
        """Step to the end."""
        training, model = self.training, self.weights.model
        began = logged = saved = time.monotonic()
        model.train()
        while self.step < self.planned:
            figures = self._update()
            self.step += 1
            now = time.monotonic()
            measures = self.step % training.measure_every == 0 or self.step == self.planned
            if measures and self.held_out:
                figures |= self._measure()
            if measures or now - logged > _LOG_EVERY_S:
                self._note({"step": self.step, "planned": self.planned, "seconds": now - began, **figures})
                logged = now
            if now - saved > training.save_every_s:
                self._save()
                saved = now
        self._save()
        self.weights.settle()
        tenth = max(1, len(self.losses) // 10)
        return Adapted(
            weights=self.weights,
            steps=self.step,
            skipped=self.skipped,
            first_loss=_mean(self.losses[:tenth]),
            last_loss=_mean(self.losses[-tenth:]),
            seconds=time.monotonic() - began,
        )

    def _update(self) -> dict[str, float]:
        """Take one step, or leave it out where a number is not finite; return its figures."""
        training, size = self.training, self.training.batch * self.training.accumulate
        # Whatever is random in a step depends on its number alone, so that a resumed run draws the same.
        torch.manual_seed(training.seed * 1_000_003 + self.step)
        places = _order(len(self.samples), self.step * size, size, training.seed)
        rate = training.rate * schedule(self.step, self.planned, training.warm_up)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["share"]
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for start in range(0, size, training.batch):
            loss = self._loss([self.samples[i] for i in places[start : start + training.batch]]) / size
            total += loss.item()
            if not math.isfinite(total):
                break
            loss.backward()  # type: ignore[no-untyped-call]
        norm = math.nan
        if math.isfinite(total):
            norm = float(torch.nn.utils.clip_grad_norm_(list(self.weights.named.values()), training.clip))
        if math.isfinite(norm):
            self.optimiser.step()
            self.broken = 0
        else:
            self._leave_out()
            total = math.nan
        self.losses.append(total)
        return {"loss": total, "rate": rate, "gradient": norm, "skipped": float(self.skipped)}

    def _leave_out(self) -> None:
        self.skipped += 1
        self.broken += 1
        logger.warning("step %d is left out: its loss or gradient is not finite", self.step)
        if self.broken >= _MOST_BROKEN:
            raise TrainingError(
                "The training has come to nothing: losses or gradients are not finite",
                seen=f"{self.broken} steps in a row, up to step {self.step}",
                remedy="Lower --training.learning_rate, and go on from the last resume point",
            )

    def _loss(self, samples: Sequence[Sample]) -> torch.Tensor:
        with self._rounding():
            losses, _ = self.teacher.losses(*self._questions(samples, self.album))
        return losses.sum()

    def _questions(self, samples: Sequence[Sample], album: Album) -> tuple[list[Any], list[str]]:
        queries, answers = [], []
        for sample in samples:
            pictures = album.pictures(sample)
            queries.append(sample.ask(pictures))
            answers.append(self.lessons.relabelled(sample, pictures).answer)
        return queries, answers

    def _measure(self) -> dict[str, float]:
        """Return loss and share of whole answers that are right on held-out questions."""
        model = self.weights.model
        model.eval()
        losses: list[float] = []
        right: list[bool] = []
        with torch.no_grad(), self._rounding():
            for start in range(0, len(self.held_out), self.training.batch):
                part = self.held_out[start : start + self.training.batch]
                one, other = self.teacher.losses(*self._questions(part, self.held_album))
                losses += one.tolist()
                right += other.tolist()
        model.train()
        return {"held_out_loss": float(np.mean(losses)), "held_out_right": float(np.mean(right))}

    def _rounding(self) -> AbstractContextManager[Any]:
        """Half precision on a GPU, where the weights that learn are kept whole."""
        model = self.weights.model
        if model.device.type == "cuda" and model.dtype == torch.float32:
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def _note(self, figures: Mapping[str, float]) -> None:
        path = self.workspace / "log.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(as_json(figures) + "\n")
        if self.log is not None:
            self.log(figures)

    def _save(self) -> None:
        meta = {
            "step": str(self.step),
            "skipped": str(self.skipped),
            "losses": json.dumps(self.losses),
        }
        write_resume_point(
            self.workspace / "resume.safetensors",
            tensors={f"weights.{name}": p for name, p in self.weights.named.items()},
            parameters=self.weights.named,
            optimiser=self.optimiser,
            identity=self.identity,
            meta=meta,
        )

    def _resume(self) -> None:
        point = read_resume_point(self.workspace / "resume.safetensors", identity=self.identity)
        log = self.workspace / "log.jsonl"
        if point is None:
            log.unlink(missing_ok=True)
            return
        meta, tensors = point
        self.step, self.skipped = int(meta["step"]), int(meta["skipped"])
        self.losses = json.loads(meta["losses"])
        self.weights.load({name: tensors[f"weights.{name}"] for name in self.weights.named})
        restore_optimiser(self.optimiser, self.weights.named, tensors)
        if log.is_file():
            # What was noted after the resume point is noted again.
            lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= self.step]
            log.write_text("".join(f"{line}\n" for line in lines))
        logger.info("goes on from step %d of %d", self.step, self.planned)


def schedule(step: int, planned: int, warm_up: float) -> float:
    """Return the factor of the learning rate: straight up, then a cosine down to a fiftieth.

    Example:
        >>> [round(schedule(step, 100, 0.1), 2) for step in (0, 9, 55, 99)]
        [0.1, 1.0, 0.51, 0.02]
    """
    rising = round(warm_up * planned)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, planned - rising)
    return _LAST_SHARE + (1.0 - _LAST_SHARE) * 0.5 * (1.0 + math.cos(math.pi * done))


def _order(count: int, start: int, size: int, seed: int) -> list[int]:
    """Return which questions a step is about: all of them in random order, then in another, and so on."""
    places: list[int] = []
    while len(places) < size:
        epoch, offset = divmod(start + len(places), count)
        order = np.random.default_rng([seed, epoch]).permutation(count)
        places += order[offset : offset + size - len(places)].tolist()
    return places


def _mean(losses: Sequence[float]) -> float:
    """Return the mean of those that are numbers."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return float(np.mean(finite)) if finite else math.nan


def _thinned(samples: Sequence[Sample], most: int) -> list[Sample]:
    places: NDArray[np.int64] = np.unique(np.linspace(0, len(samples) - 1, min(most, len(samples))).round())
    return [samples[int(i)] for i in places] if samples else []


def _identity(
    lessons: Lessons, samples: Sequence[Sample], album: Album, training: AdaptationTraining
) -> Identity:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample.spots} {sample.answer}".encode())
    return {
        **bearing("training", training, without=_NOT_BEARING),
        "judge": lessons.judge.identity,
        "prompt": lessons.prompt_sha256,
        "pictures": album.digest,
        "questions": digest.hexdigest(),
    }
