"""What the judge learns from, and how far it is from it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from roborl.errors import ConfigError, DatasetError, ModelLoadError
from roborl.rewards.fusion import hop_between
from roborl.rewards.pairs.batches import PairSampler, hop_bounds, pairs_loss, prepare_task
from roborl.rewards.pairs.config import PairNetworkConfig, PairTraining
from roborl.rewards.pairs.network import PairNetwork, hop_loss
from roborl.rewards.pairs.training import train_pairs

from .conftest import SIDE, drive

HOPS = torch.linspace(-1.0, 1.0, 5)
CAMERAS = ("front", "wrist")


def loss(probabilities: list[float], low: float, high: float) -> float:
    logits = torch.tensor([probabilities]).clamp_min(1e-9).log()
    return hop_loss(logits, HOPS, torch.tensor([low]), torch.tensor([high])).item()


def test_an_exact_hop_is_learnt_as_the_mean_of_its_two_nearest_bins() -> None:
    # 0.125 lies a quarter of the way from 0 to 0.5.
    best = loss([0, 0, 0.75, 0.25, 0], 0.125, 0.125)
    assert best < loss([0, 0, 0.8, 0.2, 0], 0.125, 0.125)
    assert best < loss([0, 0, 0.7, 0.3, 0], 0.125, 0.125)
    assert loss([0, 0, 0, 0, 1], 1.0, 1.0) == pytest.approx(0.0, abs=1e-4)


def test_of_a_hop_within_bounds_only_what_lies_outside_is_wrong() -> None:
    for inside in ([0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0.3, 0.7, 0]):
        assert loss(inside, 0.0, 0.5) == pytest.approx(0.0, abs=1e-4)
    assert loss([0.5, 0, 0.5, 0, 0], 0.0, 0.5) == pytest.approx(np.log(2), abs=1e-3)


def test_bounds_of_a_hop_hold_every_hop_within_the_bounds_of_its_moments() -> None:
    rng = np.random.default_rng(0)
    p, q = np.sort(rng.random((2, 200, 2)), axis=2)
    low, high = hop_bounds(*(torch.from_numpy(x) for x in (p[:, 0], p[:, 1], q[:, 0], q[:, 1])))
    for share in np.linspace(0, 1, 5):
        for other in np.linspace(0, 1, 5):
            hop = hop_between(p[:, 0] + share * np.ptp(p, axis=1), q[:, 0] + other * np.ptp(q, axis=1))
            assert (low.numpy() - 1e-6 <= hop).all()
            assert (hop <= high.numpy() + 1e-6).all()


def test_marks_give_the_progress_of_successes_and_bounds_of_failures() -> None:
    success, failure = prepare_task([drive(0), drive(1, success=False)], CAMERAS, SIDE)
    assert success.low == pytest.approx(drive(0).benchmark, abs=1e-6), "each sub-task is half of it"
    assert (success.low == success.high).all()
    assert failure.low[-1] == 0.0
    assert failure.high[-1] == 0.5
    with pytest.raises(DatasetError, match="needs a successful episode"):
        prepare_task([drive(1, success=False)], CAMERAS, SIDE)
    with pytest.raises(DatasetError, match="lacks a camera"):
        prepare_task([drive(0)], ("front", "side"), SIDE)


def test_privileged_progress_is_not_looked_at() -> None:
    honest, lying = drive(1, success=False), drive(1, success=False)
    lying = replace(lying, benchmark=1.0 - lying.benchmark)
    (_, one), (_, two) = (prepare_task([drive(0), e], CAMERAS, SIDE) for e in (honest, lying))
    assert np.array_equal(one.low, two.low)
    assert np.array_equal(one.high, two.high)


def test_the_same_generator_draws_the_same_batch_and_a_demonstration_more_often() -> None:
    tasks = {
        "here": prepare_task([drive(0)], CAMERAS, SIDE),
        "there": prepare_task([drive(1), drive(2, success=False)], CAMERAS, SIDE),
    }
    training = PairTraining(episodes=4, moments=5, colour=0.0, shift_px=0, mirror=0.0)
    one, two = (PairSampler(tasks, [0.5, 0.5], training).draw(np.random.default_rng(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.views, two.views, strict=True))
    assert torch.equal(one.low, two.low)
    assert one.views[0].shape == (20, SIDE, SIDE, 3)
    assert one.references.shape == (8, SIDE, SIDE, 3)
    only = PairSampler(tasks, [1.0, 0.0], training).draw(np.random.default_rng(3))
    ends = torch.from_numpy(np.stack([drive(0).images["front"][0], drive(0).images["front"][-1]]))
    assert torch.equal(only.references[:2], ends)
    with pytest.raises(ConfigError, match="no such task"):
        train_pairs(PairNetwork(PairNetworkConfig(), 1), tasks, training, demonstration="elsewhere")


def test_a_run_that_was_cut_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    small = PairNetworkConfig(image_px=SIDE, keypoints=2, channels=2, width=8, bins=5)
    tasks = {"task": prepare_task([drive(0), drive(1, success=False)], CAMERAS, SIDE)}
    training = PairTraining(steps=5, episodes=2, moments=4, save_every_s=0.0)

    def fresh() -> PairNetwork:
        torch.manual_seed(0)
        return PairNetwork(small, 1)

    class Cut(Exception):
        pass

    def cut(figures: Mapping[str, float]) -> None:
        if figures["step"] == 3:
            raise Cut

    whole, parted = fresh(), fresh()
    assert train_pairs(whole, tasks, training).last_loss > 0.0
    monkey = pytest.MonkeyPatch()
    monkey.setattr("roborl.rewards.training.run._LOG_EVERY_S", -1.0)
    with pytest.raises(Cut):
        train_pairs(parted, tasks, training, workspace=tmp_path, log=cut)
    monkey.undo()
    again, steps = fresh(), []
    train_pairs(again, tasks, training, workspace=tmp_path, log=lambda f: steps.append(f["step"]))
    assert steps == [5]
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    finished = fresh()
    train_pairs(finished, tasks, replace(training, save_every_s=9.0), workspace=tmp_path)
    assert all(map(torch.equal, finished.parameters(), again.parameters()))
    with pytest.raises(ModelLoadError, match=r"other settings.*, training\.colour 0\.15 and not 0\.0\."):
        train_pairs(fresh(), tasks, replace(training, colour=0.0), workspace=tmp_path)
    with pytest.raises(ModelLoadError, match=r", network pairs-\w+ and not pairs-\w+\."):
        train_pairs(whole, tasks, training, workspace=tmp_path)


def test_a_wrist_that_is_not_seen_teaches_nothing() -> None:
    network = PairNetwork(PairNetworkConfig(image_px=SIDE, keypoints=2, channels=2, width=8, bins=5), 1)
    tasks = {"task": prepare_task([drive(0)], CAMERAS, SIDE)}
    batch = PairSampler(tasks, [1.0], PairTraining(episodes=1)).draw(np.random.default_rng(0))
    pairs_loss(network, batch, 1.0).backward()
    assert all(not p.grad.any() for p in network.eyes[1].parameters() if p.grad is not None)
    network.zero_grad()
    pairs_loss(network, batch, 0.0).backward()
    assert any(p.grad.any() for p in network.eyes[1].parameters())
