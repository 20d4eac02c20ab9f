"""What ``roborl bench-reward`` has found: for people a table, for training a result that it can demand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import draccus

from roborl.loops.benchmarks.reward_cohort import Cohort
from roborl.loops.benchmarks.reward_config import BenchRewardConfig
from roborl.loops.requirements import Requirement
from roborl.rewards.benchmark import FIGURES, Measurement
from roborl.rewards.measured import FITTED_ON, FORMAT
from roborl.rewards.training.learnt_from import origin_rows

TIME_ONLY = "time only"


@dataclass(frozen=True, eq=False, kw_only=True)
class BenchRewardResult:
    """What was found.

    Attributes:
        cohort: The episodes.
        measured: Each model by its short name, and the model of time where there are episodes to learn it from.
        places: Where each model was found, by its short name.
        shown: Digest of what each model was shown, by its short name and the task.
        require: The bars.
        learnt_too: Whether figures count that are of episodes a model learnt from.
    """

    cohort: Cohort
    measured: Mapping[str, Measurement]
    places: Mapping[str, str]
    shown: Mapping[str, Mapping[str, str]]
    require: tuple[str, ...]
    learnt_too: bool = False

    def learnt(self, name: str) -> int:
        """Return how many episodes a model was judged on that it learnt from."""
        return self.cohort.learnt_by(self.places[name]) if name in self.places else 0

    def missed(self, name: str) -> list[str]:
        """Return the bars that a model does not meet: all of them where it was judged on what it learnt from."""
        if self.learnt(name) and not self.learnt_too:
            return list(self.require)
        figures = self.measured[name].figures
        return [text for text in self.require if not Requirement.parse(text, FIGURES).holds(figures)]

    @property
    def met(self) -> bool:
        """Whether every model meets every bar."""
        return not any(self.missed(name) for name in self.places)

    @property
    def summary(self) -> str:
        """What the figures are of, in a line."""
        about = self.cohort.described()
        return (
            f"{about['test_successes']} successes and {about['test_failures']} failures; {about['derived_grades']} with a"
            f" derived grade; progress privileged in {about['privileged_truth']}, elsewhere even between marks or ends;"
            f" {about['validation_episodes']} others to fit on; {about['given_grades']} videos graded by people;"
            f" {about['left_out_learnt']} left out that a model learnt from"
        )

    @property
    def table(self) -> str:
        """The report for people."""
        lines = [format_table({name: found.figures for name, found in self.measured.items()})]
        for name in self.places:
            if count := self.learnt(name):
                lines.append(f"{name}: measured on {count} episodes that it learnt from")
        return "\n".join(lines)

    def _learnt_from(self, name: str) -> dict[str, Any]:
        """Return how many episodes a model says it learnt from, None where it does not say, and how many it was judged on."""
        known = self.cohort.learnt.get(self.places.get(name, ""))
        said = None if known is None else len(known.origins) + known.unnamed
        return {"episodes": said, "measured_on": self.learnt(name)}

    def as_dict(self, config: BenchRewardConfig) -> dict[str, Any]:
        """Return plain values; a figure that is not there is NaN."""
        entries = {
            name: {
                "place": self.places.get(name, ""),
                "references": dict(self.shown.get(name, {})),
                "learnt_from": self._learnt_from(name),
                **found.as_dict(),
                "missed": self.missed(name),
            }
            for name, found in self.measured.items()
        }
        by_time = entries.pop(TIME_ONLY, None)
        return {
            "format": FORMAT,
            "settings": draccus.encode(config),
            "episodes": self.cohort.described(),
            FITTED_ON: origin_rows(o for s in self.cohort.validation if (o := s.episode.origin) is not None),
            "require": list(self.require),
            "met": self.met,
            "models": entries,
            "time_only": by_time,
        }


def format_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table with one column per model."""
    width = max(map(len, FIGURES.values()))
    columns = {name: max(10, len(name)) for name in figures}
    lines = [" " * width + "".join(f"  {name:>{columns[name]}}" for name in figures)]
    for key, meaning in FIGURES.items():
        values = [(columns[name], found[key]) for name, found in figures.items()]
        cells = "".join(f"  {'-' if math.isnan(value) else format(value, '.3f'):>{w}}" for w, value in values)
        lines.append(f"{meaning:<{width}}{cells}  {key}")
    return "\n".join(lines)
