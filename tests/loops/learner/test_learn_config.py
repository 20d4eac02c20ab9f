"""What a checkpoint says that it was made for."""

from __future__ import annotations

from dataclasses import replace

from roborl.envs.bench import load_bench
from roborl.envs.bench_maps import action_map, state_map
from roborl.loops.bench_scales import scales
from roborl.loops.learner.learn import form_of
from roborl.loops.learner.learn_config import BenchForm, LearnConfig


def test_a_checkpoints_identity_names_the_benchs_scales_where_they_are_known() -> None:
    bench = load_bench("so101_sim", ["--robot.scene=Reach", "--action.kind=joint_delta"])
    form = BenchForm(
        task="shine",
        cameras={"front": (96, 96)},
        image_px=32,
        state_dim=state_map(bench).size,
        action_dim=action_map(bench).size,
        max_steps=50,
        policy_hz=10.0,
    )
    assert "action_unit" not in form.identity("rlpd")
    named = replace(form, scales=scales(bench)).identity("rlpd")
    assert named["model"] == "so101_sim"
    assert named["action_unit"] == (6.0, 6.0, 6.0, 6.0, 6.0, 34.0)
    assert len(named["state_low"]) == len(named["state_high"]) == form.state_dim
    assert named["state_low"][-1] == bench.safety.workspace_low_m[2]


def test_a_run_knows_the_scales_of_its_bench() -> None:
    config = LearnConfig(bench="so101_sim", bench_overrides=["--robot.scene=Reach", "--action.step_m=0.012"])
    known = form_of(config).scales
    assert known is not None
    assert known.action_unit == (0.012, 0.012, 0.012, 34.0)
