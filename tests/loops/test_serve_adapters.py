"""Every reward model that the registry names, from its checkpoint to the scores that come back over a real socket.

The checkpoints are small and random, of the real classes. What a random vision-language network writes is never an answer,
so where an answer is to be written the network is taught first to spell such.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lerobot.utils import import_utils

from roborl.loops.score_episodes import score_over
from roborl.loops.score_line import ScoreLine
from roborl.loops.serve import serving
from roborl.rewards import lerobot_loading, registry
from roborl.rewards.calibration import Calibration
from roborl.rewards.dopamine import DopamineConfig
from roborl.rewards.dopamine_question import CONTRACT as HOP_WORDS
from roborl.rewards.measured import CALIBRATED, FORMAT
from roborl.rewards.model import score_episode
from roborl.rewards.pairs.config import PairNetworkConfig
from roborl.rewards.pairs.model import save_pair_model
from roborl.rewards.pairs.network import PairNetwork
from roborl.rewards.perceptual.checkpoint import save_perceptual
from roborl.rewards.perceptual.config import PerceptualConfig
from roborl.rewards.perceptual.training import learn_perceptual
from roborl.rewards.registry import load_reward_model
from roborl.rewards.sarm.checkpoint import freeze_sarm, save_sarm
from roborl.rewards.sarm.config import SarmConfig
from roborl.rewards.sarm.network import SarmNetwork
from roborl.rewards.sole import CONTRACT as SOLE_WORDS
from roborl.rewards.training.episodes import TrainingEpisode
from roborl.rewards.training.labels import StagePlan
from roborl.testing.check_reward_model import random_observations
from roborl.testing.spelling import teach_to_spell
from roborl.testing.tiny_clip import build_tiny_clip
from roborl.testing.tiny_lerobot_rewards import (
    build_tiny_classifier,
    build_tiny_robometer,
    build_tiny_topreward,
    stand_in_for_qwen_vl_utils,
)
from roborl.testing.tiny_lerobot_sarm import build_tiny_lerobot_sarm
from roborl.testing.tiny_vlac import IMAGE_PX, write_published_vlac
from roborl.testing.tiny_vlms import build_tiny_vlm

TASK, STATE_DIM, FRAMES = "put the red cube into the bowl", 3, 8
CPU = {"device": "cpu"}


def settings(folder: Path, **values: Any) -> str:
    place = folder / "watch.yaml"
    place.write_text(yaml.safe_dump(values))
    return str(place)


def random_film() -> TrainingEpisode:
    rng = np.random.default_rng(0)
    return TrainingEpisode(
        images={"front": rng.integers(0, 256, (16, 32, 32, 3), np.uint8)},
        state=np.zeros((16, STATE_DIM), np.float32),
        task=TASK,
        success=True,
        kind="success",
    )


def sarm(folder: Path) -> str:
    plan = StagePlan(names=("reach", "carry"), shares=(0.4, 0.6))
    network = SarmNetwork(SarmConfig(image_px=32, use_state=True), plan, ("front", "wrist"), STATE_DIM)
    model = freeze_sarm(network, plan, cameras=("front", "wrist"), tasks=(TASK,), state_dim=STATE_DIM)
    save_sarm(model, folder)
    return str(folder)


def pairs(folder: Path) -> str:
    network = PairNetwork(PairNetworkConfig(image_px=32, keypoints=4, channels=6, width=48), 0)
    goal = np.full((32, 32, 3), 200, np.uint8)
    save_pair_model(network, folder, asked=DopamineConfig(), tasks=[TASK], goal=goal)
    return str(folder)


def perceptual(folder: Path) -> str:
    model, _ = learn_perceptual([random_film(), random_film()], PerceptualConfig(image_px=32))
    save_perceptual(model, folder)
    return str(folder)


def calibrated(folder: Path) -> str:
    row = {
        "version": "brightness-all",
        "calibration": Calibration(raw=(0.0, 1.0), calibrated=(0.2, 0.7)).as_dict(),
    }
    result = folder / "bench_reward.json"
    result.write_text(json.dumps({"format": FORMAT, "models": {"one": row}}))
    return f"calibrated:{result}:brightness"


def clip(folder: Path) -> str:
    return "clip:" + settings(folder, checkpoint=str(build_tiny_clip(folder / "tiny")), **CPU)


def dopamine(folder: Path) -> str:
    network = build_tiny_vlm(folder / "tiny", "qwen2_5_vl", width=64, words=[HOP_WORDS.own])
    limits = {"min_pixels": 1024, "max_pixels": 2048}
    return "dopamine:" + settings(folder, checkpoint=str(network), judge=CPU, **limits)


def roboreward(folder: Path) -> str:
    network = build_tiny_vlm(folder / "tiny", "qwen3_vl")
    limits = {"max_pixels": 4096, "min_cells": 1, "min_mass": 0.0, "frames": 4}
    return "roboreward:" + settings(folder, checkpoint=str(network), judge=CPU, **limits)


def sole(folder: Path) -> str:
    network = build_tiny_vlm(folder / "tiny", "qwen3_vl", width=64, words=[SOLE_WORDS.own])
    return "sole-r1:" + settings(
        folder,
        checkpoint=str(network),
        judge=CPU,
        cameras=["front", "wrist"],
        max_tokens=24,
        max_pixels=4096,
    )


def vlac(folder: Path) -> str:
    network = write_published_vlac(folder / "published")
    judge = CPU | {"dtype": "float32"}
    asked = {"image_px": IMAGE_PX, "reference_frames": 3, "contradiction": 1.0}
    return "vlac:" + settings(folder, checkpoint=str(network), judge=judge, **asked)


def lerobot_sarm(folder: Path) -> str:
    network, sees = build_tiny_lerobot_sarm(folder / "tiny"), build_tiny_clip(folder / "clip")
    asked = {"clip": str(sees), "repeat_present": True}
    return "sarm:" + settings(folder, checkpoint=str(network), **asked, **CPU)


def opensarm(folder: Path) -> str:
    from lerobot.rewards.sarm.modeling_sarm import StageTransformer, SubtaskTransformer

    sizes = {
        "d_model": 32,
        "vis_emb_dim": 16,
        "text_emb_dim": 16,
        "state_dim": STATE_DIM,
        "n_layers": 2,
        "n_heads": 4,
    }
    stage = StageTransformer(**sizes, num_classes_sparse=4, num_classes_dense=5)
    for name, network in (("stage_best.pt", stage), ("subtask_best.pt", SubtaskTransformer(**sizes))):
        torch.save({"model": network.state_dict(), "optimizer": {}, "epoch": 1}, folder / name)
    told = {"stages": ["grab", "flatten", "fold"], "shares": [0.2, 0.5, 0.3], "heads": 4, "steps": 4}
    return "sarm:" + settings(
        folder,
        checkpoint=str(folder),
        clip=str(build_tiny_clip(folder / "clip")),
        cameras=["front"],
        use_state=False,
        opensarm=told | {"behind": 2, "frame_gap": 6},
        **CPU,
    )


def bridge(build: Callable[[Path, Path], object], **asked: Any) -> Callable[[Path], str]:
    def made(folder: Path) -> str:
        build(folder / "tiny", folder / "backbone")
        where = {"checkpoint": str(folder / "tiny"), "backbone": str(folder / "backbone")}
        return "lerobot:" + settings(folder, **where, **asked, **CPU)

    return made


def tiny_sarm(folder: Path, backbone: Path) -> None:
    build_tiny_lerobot_sarm(folder)
    build_tiny_clip(backbone)


PLACES: dict[str, Callable[[Path], str]] = {
    "brightness": lambda folder: "brightness",
    "calibrated": calibrated,
    "clip": clip,
    "dopamine": dopamine,
    "lerobot reward_classifier": bridge(build_tiny_classifier),
    "lerobot robometer": bridge(build_tiny_robometer),
    "lerobot sarm": bridge(tiny_sarm, repeat_present=True),
    "lerobot topreward": bridge(build_tiny_topreward),
    "roboreward": roboreward,
    "roborl-pairs-1": pairs,
    "roborl-perceptual-1": perceptual,
    "roborl-sarm-1": sarm,
    "sarm of LeRobot": lerobot_sarm,
    "sarm of opensarm": opensarm,
    "sole-r1": sole,
    "vlac": vlac,
}
# The form of an answer, where it is written.
FORMS = {"dopamine": "<score>{:+}%</score>", "sole-r1": "It moved. <answer>{}%</answer>"}


def test_no_reward_model_of_the_registry_is_left_out() -> None:
    named = {*registry._FORMATS, *registry._NAMES, *registry._PUBLISHED, CALIBRATED.rstrip(":")}
    bridged = {f"lerobot {kind}" for kind in lerobot_loading._KINDS}
    assert {place.partition(" of ")[0] for place in PLACES} == named - {"lerobot"} | bridged


def teach_answers(model: Any, form: str, films: dict[str, Any]) -> None:
    fold = model.start(TASK, films)
    lessons = random_observations(model, count=9, seed=1, state_dim=STATE_DIM)
    asked = [query for shown in lessons for query in fold.queries(shown)]
    teach_to_spell(model.judge, [(query, form.format(1 + number % 9)) for number, query in enumerate(asked)])


@pytest.fixture
def qwen_vl_utils(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qwen_vl_utils", stand_in_for_qwen_vl_utils())
    monkeypatch.setitem(import_utils._require_package_cache, "qwen_vl_utils", True)


@pytest.mark.usefixtures("qwen_vl_utils")
@pytest.mark.parametrize("name", PLACES)
def test_an_episode_comes_back_over_a_socket_scored_as_here(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = load_reward_model(PLACES[name](tmp_path))
    shown = random_observations(model, count=FRAMES, state_dim=STATE_DIM)
    cameras = sorted(shown[0].frames)
    films = {f"demo/{camera}": np.stack([o.images[camera] for o in shown[::-1]]) for camera in cameras}
    if name in FORMS:
        teach_answers(model, FORMS[name], films)
    here = score_episode(model, TASK, shown, references=films)
    with serving({"it": model}) as server:
        line = ScoreLine(server.endpoint, cameras, references=films)
        try:
            there = score_over(line, TASK, shown, deadline_s=30.0)
            judge = line.judge()
        finally:
            line.leave()
    assert all(score.valid for score in here), [score.reply for score in here if not score.valid]
    assert len({score.raw for score in here}) > 1, "it looks at the pictures"
    assert [(s.frame_id, s.valid, s.done, s.stage) for s in there] == [
        (s.frame_id, s.valid, s.done, s.stage) for s in here
    ]
    for quantity in ("progress", "raw", "spread"):
        np.testing.assert_allclose(
            [getattr(s, quantity) for s in there], [getattr(s, quantity) for s in here], atol=2e-4, rtol=1e-4
        )
    assert all(score.version.startswith(model.info.version) for score in there)
    assert judge is not None
    assert json.loads(json.dumps(judge.info.about)) == json.loads(json.dumps(model.info.about))
    words = getattr(model, "prompt", None) or getattr(model, "wording", None)
    assert words is None or judge.info.about["prompt"] == words.sha256
