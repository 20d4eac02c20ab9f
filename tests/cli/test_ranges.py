"""Numbers that mean nothing are refused as they are read, by name, and not taken for something else."""

from __future__ import annotations

import math

import pytest

from roborl.cli.main import main
from roborl.loops.actor.act_config import ActSettings
from roborl.loops.demo_config import DemoConfig
from roborl.loops.train_config import TrainConfig
from roborl.loops.watch import WatchConfig

NEEDED = {
    "act": [],
    "bench-reward": ["--model", "brightness", "--graded", "videos"],
    "evaluate": ["--policy", "scripted"],
    "relabel": ["--source", "reach"],
    "serve": [],
    "train": [],
    "train-reward": ["--dataset", "reach", "--out", "reward"],
    "watch": ["--source", "reach"],
}
SENSELESS = [
    ("act", "drain_s", "-1"),
    ("act", "episodes", "-1"),
    ("act", "replan_steps", "0"),
    ("act", "seed", "-1"),
    ("act", "live.stale_s", ".nan"),
    ("bench-reward", "graded_hz", ".inf"),
    ("bench-reward", "graded_hz", ".nan"),
    ("bench-reward", "graded_hz", "0"),
    ("train", "seed", "-1"),
    ("train", "seed", "40000"),
    ("train", "shaping.scale", ".nan"),
    ("evaluate", "video_episodes", "-1"),
    ("relabel", "judge.prefix_cache_mb", "-1"),
    ("relabel", "judge.vision_cache_mb", "-1"),
    ("relabel", "max_pixels", "-1"),
    ("serve", "pool.max_bytes", "-1"),
    ("serve", "pool.max_sessions", "0"),
    ("serve", "report_s", "-1"),
    ("serve", "report_s", ".nan"),
    ("train", "act.drain_s", ".nan"),
    ("train", "act.ring_mb", "0"),
    ("train", "act.threads", "0"),
    ("train", "demos.limit", "-1"),
    ("train", "finish_s", "-1"),
    ("train", "rlpd.advantage_weight", "-1"),
    ("train", "rlpd.clone_weight", ".nan"),
    ("train", "rlpd.clone_weight", "-1"),
    ("train", "rlpd.demo_fraction", "-1"),
    ("train", "rlpd.discount", "1.5"),
    ("train", "rlpd.least_value", "0"),
    ("train", "rlpd.target_noise", ".inf"),
    ("train", "serve_threads", "0"),
    ("train", "trainer.budget.ratio", ".inf"),
    ("train", "trainer.budget.ratio", ".nan"),
    ("train", "trainer.budget.silence_s", "-1"),
    ("train", "trainer.budget.start_at", "-1"),
    ("train", "trainer.metrics_every_s", "-1"),
    ("train", "trainer.probes", "-1"),
    ("train", "trainer.refresh_every_s", ".inf"),
    ("train", "trainer.refresh_every_s", ".nan"),
    ("train", "weighted.demo_fraction", "2"),
    ("train", "weighted.least_value", "-1"),
    ("train-reward", "model.attention_heads", "-1"),
    ("train-reward", "model.attention_heads", "0"),
    ("train-reward", "model.done_progress", "-1"),
    ("watch", "count", "-5"),
    ("watch", "deadline_s", "0"),
    ("watch", "rate_hz", "-1"),
    ("watch", "rate_hz", ".inf"),
]


@pytest.mark.parametrize(("verb", "option", "number"), SENSELESS)
def test_a_number_that_means_nothing_is_refused_by_its_name(
    verb: str, option: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, *NEEDED[verb], f"--{option}={number}", "--print_config"]) == 2
    said = capsys.readouterr().err
    assert option.split(".")[-1] in said
    assert "Allowed: " in said
    assert number.strip(".") in said


def test_a_wait_without_end_is_one() -> None:
    assert TrainConfig(finish_s=math.inf, act=ActSettings(drain_s=math.inf)).finish_s == math.inf
    assert WatchConfig(source="s", deadline_s=math.inf).deadline_s == math.inf
    assert DemoConfig(reward_budget_s=math.inf).reward_budget_s == math.inf
