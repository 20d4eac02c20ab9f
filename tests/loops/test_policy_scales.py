"""A policy says what its numbers stand for, and no bench on which they stand for something else is driven with it."""

from __future__ import annotations

import ctypes
from dataclasses import asdict
from pathlib import Path

import pytest

from roborl.cli import evaluate
from roborl.data.spec import StoreSpec, check_form
from roborl.envs.bench import Bench, load_bench
from roborl.errors import ConfigError, ModelLoadError
from roborl.loops.actor import act_config, inference
from roborl.loops.actor.act_config import ActConfig, Card
from roborl.loops.bench_scales import scales
from roborl.loops.learner.learn import prepare
from roborl.loops.learner.learn_config import LearnConfig, RunFolder
from roborl.loops.policy_scales import check_scales, keep_scales, kept_scales
from roborl.loops.supervise import Child

REACH = "--robot.scene=Reach"


def bench(*overrides: str) -> Bench:
    return load_bench("so101_sim", [REACH, *overrides])


def test_what_was_noted_is_read_again_and_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours = scales(bench())
    check_scales(tmp_path / "nowhere", ours)
    assert not caplog.text, "a policy that lies in no folder has a maker of its own"
    check_scales(tmp_path, ours)
    assert "does not say what the policy's states and actions stand for" in caplog.text
    keep_scales(tmp_path, ours)
    assert kept_scales(tmp_path) == ours
    check_scales(tmp_path, ours)


@pytest.mark.parametrize(
    ("change", "field", "remedy"),
    [
        ("--action.step_m=0.03", "action_unit", "step_m and gripper_step"),
        ("--safety.workspace_low_m=[0.14, -0.16, 0.01]", "state_low", "safety.workspace_low_m"),
        ("--safety.workspace_high_m=[0.30, 0.16, 0.12]", "state_high", "safety.workspace_high_m"),
    ],
)
def test_another_bench_is_refused_by_field_with_both_values(
    tmp_path: Path, change: str, field: str, remedy: str
) -> None:
    keep_scales(tmp_path, scales(bench()))
    with pytest.raises(ConfigError, match=rf"other scales.*Found: .*{field}.*Allowed: .*{field}.*{remedy}"):
        check_scales(tmp_path, scales(bench(change)))


@pytest.mark.parametrize(("policy", "ours"), [("joint_delta", "ee_delta"), ("ee_delta", "joint_delta")])
def test_a_policy_of_another_kind_of_action_is_refused_with_the_setting_that_mends_it(
    tmp_path: Path, policy: str, ours: str
) -> None:
    """Step sizes cannot make six numbers of four, and no demonstrations of one kind are taken for the other."""
    keep_scales(tmp_path, scales(bench(f"--action.kind={policy}")))
    with pytest.raises(ConfigError, match=r"Set back in the bench file: action\.kind; or") as refused:
        check_scales(tmp_path, scales(bench(f"--action.kind={ours}")))
    assert "step sizes" not in str(refused.value)
    assert "of either" not in str(refused.value)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    keep_scales(tmp_path, scales(bench()))
    (tmp_path / "scales.json").write_text("{")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        check_scales(tmp_path, scales(bench()))


def test_a_run_notes_its_benchs_scales_and_neither_simulation_nor_arm_takes_its_policy_with_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "run")
    prepare(LearnConfig(run=run.root, bench_overrides=[REACH]), stopping=lambda: False)
    for folder in (run.root, run.policy):
        assert kept_scales(folder) == scales(bench())

    copy = LearnConfig(
        run=tmp_path / "next", policy=str(run.policy), bench_overrides=[REACH, "--action.step_m=0.03"]
    )
    with pytest.raises(ConfigError, match=r"other scales.*action_unit"):
        prepare(copy, stopping=lambda: False)

    other = bench("--action.step_m=0.03")
    for folder in (run.root, run.policy):
        config = evaluate.Config(
            policy=str(folder), scene="Reach", bench_overrides=["--action.step_m=0.03"], episodes=1
        )
        with pytest.raises(ConfigError, match=r"other scales.*action_unit"):
            evaluate.main(config)

        monkeypatch.setattr(act_config, "_MEMORY_DISK", tmp_path)
        act = ActConfig(run=tmp_path / "act", policy=folder, mode="evaluate")
        card = Card(
            actor="arm",
            bench="b",
            cameras={},
            state_dim=9,
            action_dim=4,
            real_time=False,
            scales=asdict(scales(other)),
        )
        card.write(act_config.shared_folder(act.run, act.actor))
        with pytest.raises(ConfigError, match=r"other scales.*action_unit"):
            inference.main(Child("inference", None, ctypes.c_int64(0)), act)


@pytest.mark.parametrize("named", [True, False])
def test_a_run_from_before_that_goes_on_notes_what_its_store_was_made_with(
    tmp_path: Path, named: bool
) -> None:
    """Its policy has learnt of that store; where not even that says, nobody knows."""
    run = RunFolder(tmp_path / "run")
    form = prepare(LearnConfig(run=run.root, bench_overrides=[REACH]), stopping=lambda: False)
    spec = StoreSpec(
        cameras=form.cameras,
        image_px=form.image_px,
        state_dim=form.state_dim,
        action_dim=form.action_dim,
        max_steps=form.max_steps,
        scales=form.scales if named else None,
    )
    run.store.mkdir()
    check_form(run.store, spec)
    for folder in (run.root, run.policy):
        (folder / "scales.json").unlink()
    other = [REACH, "--action.step_m=0.03"]  # refused once the store opens
    for overrides in ([REACH], other):
        prepare(LearnConfig(run=run.root, bench_overrides=overrides, resume=True), stopping=lambda: False)
        for folder in (run.root, run.policy):
            assert kept_scales(folder) == (form.scales if named else None)
