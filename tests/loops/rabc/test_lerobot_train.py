"""LeRobot's own trainer takes our weights: a small SmolVLA, a few steps, the very command that filter prints."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from roborl.data.progress import Progress, write_progress
from roborl.loops.rabc.filter_config import FilterConfig
from roborl.loops.rabc.filter_dataset import filter_dataset
from roborl.testing.episodes import ACTION, CAMERAS, STATE, random_episode, write_episodes
from roborl.testing.tiny_policies import build_tiny_policy

_CHUNK = 6


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_command_that_filter_prints_trains_smolvla_by_our_weights(tmp_path: Path) -> None:
    data = tmp_path / "d"
    write_episodes(data, *(random_episode(i, 8) for i in range(3)))
    rising = Progress(np.linspace(0, 1, 9, dtype=np.float32), np.zeros(9, np.float32), np.ones(9, np.bool_))
    write_progress(data, "v1", {0: rising, 1: rising, 2: rising._replace(values=rising.spread)})
    filtered = filter_dataset(FilterConfig(dataset=str(data), chunk=_CHUNK))
    policy = build_tiny_policy(
        tmp_path / "policy",
        "smolvla",
        cameras=CAMERAS,
        state_dim=len(STATE),
        action_dim=len(ACTION),
        backbone=tmp_path / "backbone",
        chunk_size=_CHUNK,
    )
    small = json.loads((policy / "config.json").read_text())
    fields = ("vlm_model_name", "num_vlm_layers", "num_expert_layers", "max_state_dim", "max_action_dim")
    fields += ("tokenizer_max_length", "num_steps", "load_vlm_weights")
    words = [w for w in shlex.split(filtered.command) if not w.startswith("--output_dir")]
    words += [f"--policy.{name}={json.dumps(small[name]).strip(chr(34))}" for name in fields]
    words += ["--policy.resize_imgs_with_padding=[64,64]", "--policy.device=cpu", "--num_workers=0"]
    words += ["--batch_size=27", "--steps=2", "--log_freq=1", f"--output_dir={tmp_path / 'out'}"]
    words += ["--save_checkpoint=false", "--wandb.enable=false"]
    run = [sys.executable, "-m", "lerobot.scripts.lerobot_train", *words[1:]]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert "Creating sample weighter: rabc" in said
    assert f"Chunk size for delta computation: {_CHUNK}" in said
    assert "mean=0.5000, std=0.2500" in said
