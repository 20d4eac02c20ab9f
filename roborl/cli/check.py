"""``roborl check``: whether this computer is ready; with ``--plan true``, whether judge, policy and learner fit on its cards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from roborl.errors import ConfigError
from roborl.loops.planning.check_plan import PlanConfig


@dataclass(frozen=True, kw_only=True)
class Config(PlanConfig):
    """What to look at; the settings that follow the bench's are for the plan."""

    # Sum judge, policy and learner against the cards, and look at nothing else.
    plan: bool = False
    # Bench file: a path, or a name in hardware_configs/.
    bench: str = "so101_sim"
    # Dotted overrides of it, such as --bench_overrides '[--robot.scene=Reach]'.
    bench_overrides: list[str] = field(default_factory=list)
    # Python modules to import first: they register robots, cameras or teleoperators of your own with LeRobot.
    plugins: list[str] = field(default_factory=list)
    # Open the bench's cameras and read its motors; nothing is written to them, and the arm stays as it is.
    look: bool = True


def prepare_args(args: Sequence[str]) -> list[str]:
    """Let ``--plan`` stand alone for ``--plan true``."""
    rest: list[str] = []
    for place, argument in enumerate(args):
        rest.append(argument)
        if argument == "--plan" and (place + 1 == len(args) or args[place + 1].startswith("--")):
            rest.append("true")
    return rest


def main(config: Config) -> dict[str, Any]:
    """Look, or plan.

    Raises:
        ConfigError: If a plug-in cannot be imported, or the plan names something that does not exist or is not asked for.
        DoesNotFit: If the plan does not fit.
    """
    from roborl.envs.bench import import_plugins

    import_plugins(config.plugins)
    if config.plan:
        from roborl.loops.planning.check_plan import make_plan

        return make_plan(config, config.bench, config.bench_overrides, _say)
    if config.judge or config.policy or config.learner:
        raise ConfigError(
            "Something is named for a plan, and no plan is asked for",
            seen=config.judge or config.policy or config.learner,
            remedy="Add: --plan",
        )
    from roborl.loops.planning.check_machine import check_bench, check_cards, check_versions

    findings = [
        *check_versions(),
        *check_cards(),
        *check_bench(config.bench, config.bench_overrides, look=config.look),
    ]
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        _say(f"{'ok  ' if finding.ok else 'FAIL'} {finding.what:<{width}}  {finding.says}")
    failed = [finding.what for finding in findings if not finding.ok]
    return {
        "findings": [asdict(finding) for finding in findings],
        "failed": failed,
        "exit": int(bool(failed)),
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
