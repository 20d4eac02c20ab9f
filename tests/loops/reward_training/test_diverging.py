"""A learning rate that no training survives: it ends with what to do, and leaves nothing that a run would open."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from roborl.cli.main import main
from roborl.errors import RoborlError
from roborl.rewards.registry import load_reward_model
from roborl.testing.episodes import crossing_episode, write_episodes
from roborl.testing.tiny_vlms import build_tiny_vlm

WORDS = "<image>".join(["Do {task}. <score>", *(f" before {i} after" for i in range(7)), "{task}: how far?"])
STEPS = 4  # fewer than a judge of language may leave out
SIZES = {
    "sarm": ["--model.image_px", "16", "--model.frame_dim", "8", "--model.dim", "8"],
    "pairs": ["--model.left_wrist", "", "--network.image_px", "16", "--network.channels", "2"],
    "dopamine": ["--model.left_wrist", "", "--training.batch", "2", "--training.accumulate", "1"],
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each kind is told, but for folder and learning rate."""
    folder = tmp_path_factory.mktemp("given")
    shown = [crossing_episode(seed, turns=turns) for seed, turns in enumerate((9, 12, 14))]
    write_episodes(folder / "data", *shown, crossing_episode(8, turns=12, stops_at=8))
    (folder / "words.txt").write_text(WORDS)
    network = build_tiny_vlm(folder / "network", "qwen3_vl", words=[WORDS])
    judge = ["--model.checkpoint", str(network), "--model.prompt.file", str(folder / "words.txt")]
    judge += ["--model.judge.device", "cpu", "--model.judge.dtype", "float32", "--training.method", "full"]
    judge += ["--samples.pairs", "30", "--samples.interval_frames", "4", "--training.report", "4"]
    judge += ["--model.min_pixels", "1024", "--model.max_pixels", "1024", "--model.max_tokens", "8"]
    data = {
        "sarm": str(folder / "data"),
        "pairs": f"[{folder / 'data'}]",
        "dopamine": str(folder / "data"),
    }
    return {
        kind: [
            "train-reward", "--model", kind, "--dataset", data[kind], "--training.steps", str(STEPS),
            *sizes, *(judge if kind == "dopamine" else []),
        ]
        for kind, sizes in SIZES.items()
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(SIZES))
def test_it_ends_with_what_to_do_and_leaves_nothing_that_looks_finished(
    kind: str, given: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(rate: str) -> int:
        torch.manual_seed(0)  # as in a new process, whose network of pairs begins with the same weights
        arguments = ["--out", str(tmp_path), "--training.save_every_s", "0", "--training.learning_rate", rate]
        return main([*given[kind], *arguments])

    assert train("1e30") == 1
    out, err = capsys.readouterr()
    assert not out
    assert re.search(r"not finite\. Found: .* in step \d of 4, at a learning rate of \d", err)
    point = tmp_path / "work" / "resume.safetensors"
    assert (
        f"Lower --training.learning_rate, 1e+30 at its largest, and give another folder or remove {point}."
        in err
    )
    assert not [*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.json")]
    with pytest.raises(RoborlError):
        load_reward_model(f"dopamine:{tmp_path}" if kind == "dopamine" else str(tmp_path))
    # The same again comes to the same, and what was said helps.
    assert train("1e30") == 1
    assert train("1e-3") == 1
    assert re.search(r"training\.learning_rate 1e\+30 and not 0\.001\.", capsys.readouterr().err)
    point.unlink()
    assert train("1e-3") == 0
    assert json.loads((tmp_path / ("training.json" if kind == "dopamine" else "config.json")).read_text())
