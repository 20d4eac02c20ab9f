"""What ``roborl filter`` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from roborl.data.rabc import RabcSettings
from roborl.errors import ConfigError
from roborl.loops.rabc.episode_figures import DROP_FIGURES
from roborl.loops.requirements import Requirement


@dataclass(frozen=True, kw_only=True)
class FilterConfig(RabcSettings):
    """Which dataset, by which progress, and what is done with it."""

    # LeRobotDataset v3 that was labelled: a folder or a hub id
    dataset: str = ""
    # progress to weigh by: a version, or the file that roborl label wrote, or LeRobot's; empty: the only one beside the dataset
    progress: str = ""
    # episodes to leave out, by rules like "progress<0.5", any of which suffices; of progress (the last), highest, gain,
    # regression (the deepest fall from what had been reached), flat (share of the rows that neither gain nor have finished),
    # order (rank correlation with time), missing (share of the scores), weight (the mean), steps
    drop: list[str] = field(default_factory=list)
    # folder for a dataset without those episodes, with progress and weights beside it; empty: none, and weights of 0
    out: Path | None = None
    # folder for the report: filter.json, weights.png and report.html
    report: Path = Path("outputs/filter")
    # kind of policy in the command that is printed: smolvla, pi0 or pi05, which begin with their published weights, or another
    # whose loss LeRobot can weigh
    policy: str = "smolvla"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset:
            raise ConfigError(
                "There is nothing to filter",
                seen="no dataset",
                allowed="a LeRobotDataset that was labelled",
                remedy="For example: roborl filter --dataset outputs/reach --chunk 8",
            )
        self.rules()

    def rules(self) -> list[Requirement]:
        """Return what an episode is left out for.

        Raises:
            ConfigError: If a rule cannot be read.
        """
        return [Requirement.parse(text, DROP_FIGURES, option="--drop") for text in self.drop]
