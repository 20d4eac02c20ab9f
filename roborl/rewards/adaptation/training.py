"""Trains a judge on questions with known answers: resumable to the bit, and stopped where numbers go wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roborl.errors import DatasetError
from roborl.rewards.adaptation.config import AdaptationTraining
from roborl.rewards.adaptation.lessons import Album, Lessons, Sample
from roborl.rewards.adaptation.teaching import Teacher
from roborl.rewards.adaptation.weights import LearningWeights
from roborl.rewards.resume_points import Identity, bearing
from roborl.rewards.training.pace import Pace
from roborl.rewards.training.run import Learner, Log, TrainingRun
from roborl.whole_files import as_json, write_whole

_MOST_BROKEN = 10  # steps in a row: in half precision a single one may overflow
# On the weights that come out.
_NOT_BEARING = ("held_out", "measure_every", "measure", "report", "save_every_s")


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
        TrainingError: If losses, gradients or weights stay without finite values.
    """
    if not samples:
        raise DatasetError(
            "There are no questions to learn from",
            remedy="Give successful episodes, or failures with marked sub-tasks",
        )
    # Of the weights as they are read, before anything is done to them.
    identity = _identity(lessons, samples, albums[0], training)
    learner = _JudgeLearner(lessons, samples, held_out, albums, training)
    run = TrainingRun(
        learner,
        Pace(steps=learner.planned, learning_rate=training.rate, warm_up=training.warm_up),
        identity=identity,
        workspace=workspace,
        save_every_s=training.save_every_s,
        clip=training.clip,
        most_broken=_MOST_BROKEN,
        told_losses=1,
    )
    learner.weights.model.train()
    run.optimise(_noted(workspace / "log.jsonl", run.step, log))
    learner.weights.settle()
    return Adapted(
        weights=learner.weights,
        steps=run.step,
        skipped=run.skipped,
        first_loss=run.first_loss,
        last_loss=run.last_loss,
        seconds=run.session_s,
    )


class _JudgeLearner(Learner):
    """A judge's network, and the questions that it is asked."""

    def __init__(
        self,
        lessons: Lessons,
        samples: Sequence[Sample],
        held_out: Sequence[Sample],
        albums: tuple[Album, Album],
        training: AdaptationTraining,
    ) -> None:
        self.lessons, self.samples, self.training = lessons, samples, training
        self.album, self.held_album = albums
        self.held_out = _thinned(held_out, training.measure)
        self.planned = training.planned_steps(len(samples))
        torch.manual_seed(training.seed)
        self.weights = LearningWeights(lessons.judge.network.model, training)
        self.teacher = Teacher(lessons.judge)
        super().__init__(torch.optim.AdamW(self.weights.groups(), lr=training.rate), self.weights.named)

    def losses(self, step: int) -> Iterator[Tensor]:
        """Ask the questions of a step, and yield the loss of some after the other."""
        training, size = self.training, self.training.batch * self.training.accumulate
        # Whatever is random in a step depends on its number alone, so that a resumed run draws the same.
        torch.manual_seed(training.seed * 1_000_003 + step)
        places = _order(len(self.samples), step * size, size, training.seed)
        for start in range(0, size, training.batch):
            yield self._loss([self.samples[i] for i in places[start : start + training.batch]]) / size

    def measured(self, step: int, last: bool) -> dict[str, float] | None:
        """Ask held-out questions when it is time for that."""
        if step % self.training.measure_every and not last:
            return None
        return self._measure() if self.held_out else {}

    def _loss(self, samples: Sequence[Sample]) -> Tensor:
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


def _noted(path: Path, step: int, log: Log | None) -> Log:
    """Return a log that also writes a file; what was noted in it after so many steps is noted again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_bytes().splitlines() if path.is_file() else []
    write_whole(path, b"".join(line + b"\n" for line in lines if _noted_by(line, step)))

    def note(figures: Mapping[str, float]) -> None:
        with path.open("a") as file:
            file.write(as_json(figures) + "\n")
        if log is not None:
            log(figures)

    return note


def _noted_by(line: bytes, step: int) -> bool:
    """Whether a line is of this step or an earlier one; one that a kill or a full disk has torn is of none."""
    try:
        return bool(json.loads(line)["step"] <= step)
    except ValueError:
        return False


def _order(count: int, start: int, size: int, seed: int) -> list[int]:
    """Return which questions a step is about: all of them in random order, then in another, and so on."""
    places: list[int] = []
    while len(places) < size:
        epoch, offset = divmod(start + len(places), count)
        order = np.random.default_rng([seed, epoch]).permutation(count)
        places += order[offset : offset + size - len(places)].tolist()
    return places


def _thinned(samples: Sequence[Sample], most: int) -> list[Sample]:
    places: NDArray[np.int64] = np.unique(np.linspace(0, len(samples) - 1, min(most, len(samples))).round())
    return [samples[int(i)] for i in places] if samples else []


def _identity(
    lessons: Lessons, samples: Sequence[Sample], album: Album, training: AdaptationTraining
) -> Identity:
    digest = hashlib.sha256()
    for sample in samples:
        # With the words: an instruction stands neither in the answer nor in the prompt that it is filled into.
        words = [part for part in sample.ask(album.pictures(sample)).parts if isinstance(part, str)]
        digest.update(f"{sample.spots} {words} {sample.answer}".encode())
    return {
        **bearing("training", training, without=_NOT_BEARING),
        "judge": lessons.judge.identity,
        "prompt": lessons.prompt_sha256,
        "pictures": album.digest,
        "questions": digest.hexdigest(),
    }
