from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from roborl.envs.failures import Failure
from roborl.envs.tasks.registry import TASKS
from roborl.loops.benchmarks import seeds as bench_seeds
from roborl.loops.benchmarks.seeds import (
    ARMS,
    CLONE,
    SCENES,
    STAGED,
    arms_on,
    curves,
    differences,
    episodes_to,
    of_arm,
    settings_on,
    summary,
)
from roborl.loops.demo_config import DemoConfig
from roborl.loops.learner.learn import form_of
from roborl.loops.learner.learn_config import LearnConfig


def result(arm: str, seed: int, success: float, episodes: list[bool] | None = None) -> dict[str, Any]:
    return {
        "arm": f"Reach {arm}",
        "seed": seed,
        "commit": "abc",
        "config": {"scene": "Reach", "arm": arm},
        "success": success,
        "episodes": episodes or [True],
    }


def write_run(config: DemoConfig, *, lookahead: float) -> None:
    """Leave what a run's label is read off."""
    run = config.out / "run"
    run.mkdir(parents=True, exist_ok=True)
    (config.out / "stages.json").write_text("{}")
    settings = {
        "reward": "reward_model",
        "shaping": {"scale": config.shaping.scale},
        "rlpd": {"lookahead": config.rlpd.lookahead, "lookahead_updates": config.rlpd.lookahead_updates},
    }
    (run / "train.yaml").write_text(json.dumps(settings))
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"kind": "train", "lookahead": lookahead}) + "\n")


def test_arms_differ_from_the_shaped_run_in_what_their_name_says() -> None:
    base = DemoConfig()
    assert of_arm(base, "shaped") == base
    assert of_arm(base, "sparse").shaping.scale == 0
    damped = of_arm(base, "sparse damped")
    assert 0 < damped.shaping.scale < 1e-5
    assert damped.rlpd == base.rlpd
    assert of_arm(base, "shaped plain").rlpd.lookahead == 1
    assert not of_arm(base, "blind").rlpd.critic_sees_potential
    bare = of_arm(base, "sparse without demonstrations")
    assert bare.shaping.scale == 0
    assert not bare.replay_demonstrations
    assert of_arm(base, "shuffled").shaping.shuffled
    dense = of_arm(base, "blind dense")
    assert (base.labels.stride, dense.labels.stride) == (4, 1)
    assert not dense.rlpd.critic_sees_potential
    assert len({str(of_arm(base, arm)) for arm in ARMS if arm != CLONE}) == len(ARMS) - 1


@pytest.mark.parametrize("scene", SCENES)
def test_the_replay_memory_holds_all_that_a_run_records_and_meets(scene: str) -> None:
    config = settings_on(scene, {})
    learner = LearnConfig(run=Path("run"), bench=config.bench, bench_overrides=[f"--robot.scene={scene}"])
    rows = form_of(learner).arena(config.store).rows
    recorded = config.demonstrations + config.failures * len(Failure)
    assert rows >= (recorded + config.episodes) * (TASKS[scene].max_steps + 1)


def test_no_arm_is_the_full_run_under_another_name() -> None:
    assert arms_on(DemoConfig(), ARMS) == list(ARMS)
    assert set(ARMS) - set(arms_on(STAGED, ARMS)) == {"shaped dense", "blind dense"}


def test_differences_are_paired_over_the_seeds_that_both_have() -> None:
    results = [
        *(result("shaped", seed, 0.9) for seed in (1, 2, 3)),
        *(result("sparse", seed, 0.5) for seed in (2, 3, 4)),
    ]
    found = differences(results)["Reach: shaped - sparse"]
    assert found["seeds"] == [2, 3]
    assert found["mean"] == pytest.approx(0.4)
    assert found["interval"][0] > 0
    assert found["in practice"]["mean"] == 0


def test_an_arm_that_only_comes_as_far_more_slowly_is_behind_in_practice() -> None:
    quick, slow = [True] * 8 + [False] * 2, [True] * 5 + [False] * 5
    results = [result("shaped", seed, 1.0, quick[seed:] + quick[:seed]) for seed in (1, 2, 3)]
    results += [result("blind", seed, 1.0, slow) for seed in (1, 2)]
    results += [result("blind", 3, 1.0, [*slow[1:], True])]
    found = differences(results)["Reach: shaped - blind"]
    assert (found["mean"], found["interval"], found["interval by t"]) == (0, [0, 0], [0, 0])
    assert found["in practice"]["mean"] == pytest.approx(0.3)
    low, high = found["in practice"]["interval by t"]
    assert low == pytest.approx(0.3) == high


def test_what_did_not_practise_has_no_difference_in_practice() -> None:
    cloned = [result(CLONE, seed, 0.4) | {"episodes": []} for seed in (1, 2)]
    found = differences([*(result("shaped", seed, 0.9) for seed in (1, 2)), *cloned])
    assert "in practice" not in found[f"Reach: shaped - {CLONE}"]


def test_an_arm_is_set_beside_the_full_one_under_its_own_condition() -> None:
    arms = ("shaped", "blind", "shaped dense", "blind dense", "sparse without demonstrations")
    found = differences([result(arm, seed, 0.5) for arm in arms for seed in (1, 2)])
    assert set(found) == {"Reach: shaped - blind", "Reach: shaped dense - blind dense"}


def test_episodes_to_a_rate_counts_the_window() -> None:
    assert episodes_to([True] * 19, 0.9, 20) is None
    assert episodes_to([False] + [True] * 25, 0.9, 20) == 20
    assert episodes_to([False] * 100, 0.9, 20) is None


def test_a_grid_prepares_gates_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_seeds, "code_version", lambda: "abc")
    monkeypatch.setattr(bench_seeds, "try_clone", lambda config: 0.5 if config.seed == 2000 else 0.05)
    prepared_seeds: list[int] = []
    monkeypatch.setattr(bench_seeds, "prepare", lambda config: prepared_seeds.append(config.seed))
    monkeypatch.setattr(bench_seeds, "clone_all_and_measure", lambda config, prepared: {"success": 0.7})
    ran: list[tuple[int, float]] = []

    def learn(config: DemoConfig, *, prepared: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        assert str(config.seed) in prepared.name
        ran.append((config.seed, config.shaping.scale))
        write_run(config, lookahead=config.rlpd.lookahead)
        with (config.out / "run" / "metrics.jsonl").open("a") as metrics:
            metrics.write('{"kind": "episode", "success": true}\n{"kind": "episode", "success": null}\n')
        return {}, {"success": 0.9 if config.shaping.scale else 0.3}

    monkeypatch.setattr(bench_seeds, "learn_and_measure", learn)
    for _ in range(2):
        found = bench_seeds.run(
            scenes=("Reach",),
            arms=("shaped", "sparse", CLONE),
            seeds=2,
            first_seed=2000,
            out=tmp_path,
            starts=tmp_path / "starts",
        )
    assert found["rejected"] == [{"scene": "Reach", "seed": 2000, "success": 0.5}]
    assert prepared_seeds == [2001, 2002] * 2, "no reward model for a start that is turned away"
    assert sorted(seed for seed, _ in ran) == [2001, 2001, 2002, 2002], "each cell ran once, in two calls"
    assert found["table"]["Reach shaped"]["by_seed"] == {"2001": 0.9, "2002": 0.9}
    assert found["differences"][f"Reach: shaped - {CLONE}"]["mean"] == pytest.approx(0.2)
    assert found["differences"]["Reach: shaped - sparse"]["mean"] == pytest.approx(0.6)
    assert found["table"]["Reach shaped"]["says"] == "not yet policy-invariant"
    assert found["table"]["Reach sparse"]["says"] == "policy-invariant"
    assert (tmp_path / "seeds.png").stat().st_size > 5_000


def test_a_table_names_each_cells_commit() -> None:
    table = summary([result("shaped", 1, 0.9), result("shaped", 2, 0.7)])
    assert table["Reach shaped"]["success"] == pytest.approx(0.8)
    assert table["Reach shaped"]["commits"] == ["abc"]
    assert curves([result("shaped", 1, 0.9, [True, False])]) == {"Reach": {"shaped": [[True, False]]}}


def test_a_finished_cell_gives_its_replay_memory_back_and_keeps_its_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "run" / "store"
    for name in ("arena", "store.zarr"):
        (store / name).mkdir(parents=True)
    (tmp_path / "run" / "metrics.jsonl").write_text('{"kind": "episode", "success": true}\n')
    monkeypatch.setattr(bench_seeds, "learn_and_measure", lambda config, prepared: ({}, {"success": 0.9}))
    write_run(DemoConfig(out=tmp_path), lookahead=1.0)
    for _ in range(2):  # A kill may come between giving back and writing the cell.
        found = bench_seeds.learn_cell(DemoConfig(out=tmp_path), tmp_path)
        assert (found["success"], found["episodes"]) == (0.9, [True])
        assert found["says"] == "policy-invariant once critics look all the way ahead"
        assert [path.name for path in store.iterdir()] == ["store.zarr"]


def test_a_gate_that_is_shared_takes_the_same_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_seeds, "LOOK_AGAIN_S", 0.01)
    clones = {3: 0.0, 4: 0.5, 5: 0.1, 6: 0.0, 7: 0.0}
    tried: list[tuple[str, int]] = []
    begun = {3: threading.Event(), 4: threading.Event()}

    def try_clone(config: DemoConfig) -> float:
        tried.append((threading.current_thread().name, config.seed))
        if config.seed in begun:  # Each of the two has one in its hands before either goes on.
            begun[config.seed].set()
            assert all(event.wait(10) for event in begun.values())
        return clones[config.seed]

    monkeypatch.setattr(bench_seeds, "try_clone", try_clone)
    found: dict[str, Any] = {}

    def look(name: str) -> None:
        found[name] = bench_seeds.gate(
            DemoConfig(),
            lambda seed: tmp_path / f"{seed}",
            seeds=2,
            first_seed=3,
            base_at_most=0.1,
            ready=lambda start: None,
        )

    threads = [threading.Thread(target=look, args=(name,), name=name) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found["a"] == found["b"] == ([3, 5], [{"scene": DemoConfig().scene, "seed": 4, "success": 0.5}])
    assert {name for name, seed in tried if seed in (3, 4)} == {"a", "b"}
