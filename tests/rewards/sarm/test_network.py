from __future__ import annotations

import pytest
import torch

from roborl.rewards.sarm.batches import WindowBatch
from roborl.rewards.sarm.config import SarmConfig
from roborl.rewards.sarm.loss import window_losses
from roborl.rewards.sarm.network import Heads, SarmNetwork
from roborl.rewards.sarm.windows import WindowConfig
from roborl.rewards.training.labels import StagePlan

PLAN = StagePlan(names=("a", "b"), shares=(0.25, 0.75))
CONFIG = SarmConfig(
    image_px=16,
    frame_dim=12,
    dim=16,
    attention_heads=2,
    members=2,
    use_state=True,
    window=WindowConfig(history=5),
)


@pytest.fixture
def network() -> SarmNetwork:
    torch.manual_seed(0)
    return SarmNetwork(CONFIG, PLAN, ("front", "wrist"), 3).eval()


def run(network: SarmNetwork, frames: torch.Tensor, state: torch.Tensor, filled: torch.Tensor) -> Heads:
    with torch.no_grad():
        return network(frames, state, network.text(["do it"] * len(frames)), filled)


@pytest.mark.parametrize("changed", range(6))
def test_a_slot_changes_nothing_before_it_and_something_from_it_on(
    network: SarmNetwork, changed: int
) -> None:
    frames, state = torch.randn(1, 6, 2, 12), torch.randn(1, 6, 3)
    filled = torch.ones(1, 6, dtype=torch.bool)
    before = run(network, frames, state, filled).stage_logits
    for camera in range(2):
        other = frames.clone()
        other[:, changed, camera] += 1.0
        after = run(network, other, state, filled).stage_logits
        assert torch.equal(before[:, :, :changed], after[:, :, :changed])
        assert ((before - after).abs().amax(dim=(0, 1, 3))[changed:] > 1e-6).all()


def test_what_stands_in_an_empty_slot_has_no_effect(network: SarmNetwork) -> None:
    frames, state = torch.randn(2, 6, 2, 12), torch.randn(2, 6, 3)
    filled = torch.tensor([[True, False, True, False, True, True], [False] * 5 + [True]])
    before = run(network, frames, state, filled)
    frames[~filled], state[~filled] = 1e3, float("nan")
    after = run(network, frames, state, filled)
    keep = filled[None, :, :, None].expand_as(before.within)
    assert torch.isfinite(after.within).all()
    assert torch.equal(before.within[keep], after.within[keep])


def test_the_stage_reaches_the_within_stage_output(network: SarmNetwork) -> None:
    frames, state = torch.randn(4, 6, 2, 12), torch.randn(4, 6, 3)
    filled = torch.ones(4, 6, dtype=torch.bool)
    before = run(network, frames, state, filled)
    assert (before.within[..., 0] - before.within[..., 1]).abs().mean() > 1e-3
    for member in network.members:
        member.stage_code.data[0] += 1.0
    after = run(network, frames, state, filled)
    assert (before.within[..., 0] - after.within[..., 0]).abs().min() > 0.0
    assert torch.equal(before.within[..., 1], after.within[..., 1])


def test_progress_is_the_expected_value_over_the_stages(network: SarmNetwork) -> None:
    heads = Heads(
        stage_logits=torch.tensor([[[[0.0, 0.0, -1e9]], [[-1e9, -1e9, 0.0]]]]),
        within=torch.tensor([[[[0.5, 0.2]], [[0.3, 0.3]]]]),
    )
    progress, variance = network.progress(heads)
    low, high = 0.25 * 0.5, 0.25 + 0.75 * 0.2
    assert progress.flatten().tolist() == pytest.approx([(low + high) / 2, 1.0])
    assert variance.flatten().tolist() == pytest.approx([((high - low) / 2) ** 2, 0.0])


def test_empty_slots_count_in_no_loss(network: SarmNetwork) -> None:
    b, s = 2, 6
    filled = torch.tensor([[True] * 6, [False, False, False, True, True, True]])
    labels = {
        "stage": torch.zeros(b, s, dtype=torch.long),
        "within": torch.full((b, s), 0.5),
        "progress": torch.full((b, s), 0.2),
        "ceiling": torch.full((b, s), 0.1),
    }
    heads = run(network, torch.randn(b, s, 2, 12), torch.randn(b, s, 3), filled)
    trains = torch.ones(2, b, dtype=torch.bool)

    def losses(**changed: torch.Tensor) -> list[float]:
        batch = WindowBatch(
            frames=(),
            place=torch.zeros(b, s, dtype=torch.long),
            filled=filled,
            state=torch.zeros(b, s, 3),
            texts=["x"] * b,
            episode=torch.zeros(b, dtype=torch.long),
            **(labels | changed),
        )
        found = window_losses(network, heads, batch, trains)
        return [x.item() for x in (found.stage, found.within, found.progress, found.ceiling)]

    base = losses()
    assert min(base) > 0.0
    for name, other in (("stage", 1), ("within", 0.9), ("progress", 0.9), ("ceiling", 0.0)):
        in_empty, in_filled = labels[name].clone(), labels[name].clone()
        in_empty[~filled] = other
        in_filled[1, 4] = other
        assert losses(**{name: in_empty}) == base
        assert losses(**{name: in_filled}) != base


def test_state_statistics_travel_with_the_weights(network: SarmNetwork) -> None:
    states = torch.randn(50, 3).numpy() * 4 + 7
    network.set_state_statistics(states)
    other = SarmNetwork(CONFIG, PLAN, ("front", "wrist"), 3)
    other.load_state_dict(network.state_dict())
    assert torch.allclose(other.state_mean, torch.from_numpy(states.mean(axis=0)))
    assert torch.allclose(other.state_std, torch.from_numpy(states.std(axis=0)))
