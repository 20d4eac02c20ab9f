from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roborl.envs.bench import load_bench
from roborl.envs.robot_env import RobotEnv
from roborl.loops.benchmarks import judges as bench_judges
from roborl.loops.benchmarks import seeds
from roborl.loops.benchmarks.judges import ARMS, FUSED, NAIVE, UNSHAPED, GridPart, of_arm
from roborl.loops.demo import Folders
from roborl.loops.demo_config import DemoConfig
from roborl.loops.record import record_scripted
from roborl.loops.scripts import failure_kinds, script_maker
from roborl.rewards.fusion import Perspective
from roborl.rewards.registry import load_reward_model


def test_arms_differ_in_what_their_name_says() -> None:
    base, prepared = DemoConfig(), Path("prepared")
    made = {arm: of_arm(base, arm, prepared) for arm in ARMS}
    assert len({str(config) for config in made.values()}) == len(ARMS)
    assert made[UNSHAPED].shaping.scale == 0
    assert replace(made[UNSHAPED], judge="") == seeds.of_arm(base, "sparse"), (
        "the same run, but for who watches"
    )
    assert made[NAIVE].judge == made[FUSED].judge
    assert {str(p) for p in Perspective} <= set(made)


def test_a_judge_learns_on_the_other_tasks_and_is_asked_from_each_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_judges, "code_version", lambda: "abc")
    monkeypatch.setattr(bench_judges, "NAMES", ("Reach", "PickCube"))
    ran: list[tuple[str, int, str]] = []

    def gate(config: DemoConfig, folder: Any, *, ready: Any, **_: Any) -> tuple[list[int], list[Any]]:
        start = DemoConfig(scene=config.scene, seed=7, out=folder(7))
        env = RobotEnv(load_bench("so101_sim", [f"--robot.scene={config.scene}"]))
        try:
            record_scripted(
                env,
                Folders(root=start.out).dataset,
                script_maker(),
                demonstrations=2,
                failures=1,
                failure_kinds=failure_kinds(env)[:1],
                seed=7,
            )
        finally:
            env.close()
        ready(start)
        return [7], []

    def learn(config: DemoConfig, prepared: Path) -> dict[str, Any]:
        model = load_reward_model(config.judge)
        ran.append((config.scene, config.seed, model.info.version))
        return {"success": 0.9, "episodes": [True], "says": "policy-invariant"}

    monkeypatch.setattr(bench_judges, "gate", gate)
    monkeypatch.setattr(bench_judges, "learn_cell", learn)
    part = GridPart(scene="Reach", arms=(FUSED, "forward", UNSHAPED), seeds=1)
    for _ in range(2):
        found = bench_judges.run(
            grid=(part,), recorded=2, steps=2, adapting_steps=1, out=tmp_path, starts=tmp_path / "starts"
        )
    assert [scene for scene, _, _ in ran] == ["Reach"] * 3, "each cell ran once, in two calls"
    fused, forward, unshaped = (version for _, _, version in ran)
    assert fused == unshaped
    assert fused != forward, "how a judge is asked is part of its version"
    judge = found["judges"]["Reach 7"]
    assert set(judge["episodes"]) == {"pick up the red cube", "touch the red ball"}
    assert judge["episodes"]["touch the red ball"] == 1, "one demonstration"
    assert found["table"]["Reach fused"]["by_seed"] == {"7": 0.9}
    bench_judges.run(
        grid=(part,), recorded=2, steps=1, adapting_steps=1, out=tmp_path, starts=tmp_path / "starts"
    )
    assert len(ran) == 6, "other settings are another experiment"
    assert ran[3][2] != fused, "with another judge"
