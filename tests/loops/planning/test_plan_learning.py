"""What is planned for small networks, held against the networks as they learn; and LeRobot's by name and by folder."""

from __future__ import annotations

import copy
import json
from itertools import chain
from pathlib import Path

import pytest
import torch
from lerobot.policies.factory import get_policy_class
from lerobot.policies.pretrained import PreTrainedPolicy
from safetensors.torch import save_file

from roborl.errors import ConfigError
from roborl.learning.rlpd import RlpdConfig
from roborl.learning.weighted import WeightedConfig, value_networks
from roborl.loops.actor.weights_slot import WeightsSlot
from roborl.loops.learner.learn_config import BenchForm, StoreConfig
from roborl.loops.planning.memory_plan import PlanLine
from roborl.loops.planning.plan_learning import (
    ADAPTED,
    policy_parts,
    policy_training_parts,
    rlpd_parts,
    small_policy_parts,
    version_parts,
    weighted_parts,
)
from roborl.policies.networks import Critics
from roborl.policies.published import POLICIES
from roborl.policies.small import SmallPolicy, SmallPolicyConfig
from roborl.rewards.adaptation.config import Method
from roborl.testing.tiny_policies import build_tiny_policy

FORM = BenchForm(
    task="shine",
    cameras={"front": (96, 96), "wrist": (96, 96)},
    image_px=32,
    state_dim=7,
    action_dim=4,
    max_steps=50,
    policy_hz=10.0,
)


def by_name(parts: list[PlanLine]) -> dict[str, PlanLine]:
    assert len({part.what for part in parts}) == len(parts)
    return {part.what: part for part in parts}


def nbytes(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def real_networks() -> tuple[SmallPolicy, Critics]:
    shape = SmallPolicyConfig(cameras=("front", "wrist"), image_px=32, state_dim=7, action_dim=4)
    policy, config = SmallPolicy(shape), RlpdConfig()
    inputs = policy.encoder.output_dim + 7
    return policy, Critics(inputs + 4 + 1, config.members, config.width)


def test_rlpd_takes_as_much_as_its_networks_their_gradients_and_their_optimisers() -> None:
    policy, critics = real_networks()
    actor, averaged = policy.actor.requires_grad_(True), copy.deepcopy(policy.actor)
    targets = copy.deepcopy(critics)
    learn = [*actor.parameters(), *critics.parameters()]
    optimiser = torch.optim.Adam(learn)
    for parameter in learn:
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    averages = [t for s in optimiser.state.values() for n, t in s.items() if n != "step"]
    parts = by_name(list(rlpd_parts(FORM, StoreConfig(capacity_bytes=1 << 26))))
    networks = (policy.encoder, actor, averaged, critics, targets)
    assert parts["weights"].nbytes == sum(map(nbytes, networks))
    gradients = [p.grad for p in learn if p.grad is not None]
    assert parts["gradients, Adam"].nbytes == sum(t.nbytes for t in chain(gradients, averages))
    assert parts["replay pictures"].nbytes == 1 << 26
    assert {part.device for part in parts.values()} == {"cpu"}
    assert [name for name, part in parts.items() if not part.measured] == ["activations"]


def test_replay_features_are_those_of_the_observations_that_fit() -> None:
    small, large = (
        by_name(list(rlpd_parts(FORM, StoreConfig(capacity_bytes=size))))["replay features"].nbytes
        for size in (1 << 26, 1 << 27)
    )
    assert large == pytest.approx(2 * small, rel=1e-3)
    features = 3 * 16 * 2
    rows = (1 << 26) / (2 * 40 * 40 * 3)  # with fewer bytes for all but the pictures
    assert small == pytest.approx(rows * (4 * features + 16), rel=0.05)


def test_a_run_with_a_policy_of_lerobots_keeps_values_and_features_in_the_computers_memory() -> None:
    config = WeightedConfig()
    encoder, values = value_networks(config, ("front", "wrist"), image_px=32, state_dim=7)
    parts = by_name(list(weighted_parts(FORM, StoreConfig(capacity_bytes=1 << 26))))
    assert parts["values' weights"].nbytes == nbytes(encoder.encoder) + 2 * nbytes(values)
    rlpd = by_name(list(rlpd_parts(FORM, StoreConfig(capacity_bytes=1 << 26))))
    assert parts["replay pictures"] == rlpd["replay pictures"]
    rows = rlpd["replay features"].nbytes // (4 * 3 * 16 * 2 + 16)
    assert parts["replay features"].nbytes == rows * (4 * encoder.output_dim + 16)
    assert {part.device for part in parts.values()} == {"cpu"}


def test_a_small_policy_is_planned_as_it_is_saved(tmp_path: Path) -> None:
    policy, _ = real_networks()
    policy.save(tmp_path)
    (planned,) = small_policy_parts(FORM)
    read = by_name(list(policy_parts(str(tmp_path), "cpu", cameras=2)))["weights"]
    assert planned.nbytes == read.nbytes == nbytes(policy.encoder) + nbytes(policy.actor)
    assert planned.measured
    assert read.measured


def test_a_policy_of_lerobots_is_estimated_by_name_and_measured_by_folder(tmp_path: Path) -> None:
    named = by_name(list(policy_parts("smolvla", "cuda:1", cameras=2)))
    assert named["weights"].nbytes == 4 * POLICIES["smolvla"].parameters
    assert not any(part.measured for part in named.values())
    assert {part.device for part in named.values()} == {"cuda:1"}
    tensors = {"a": torch.zeros(3, 5, dtype=torch.bfloat16), "b": torch.zeros(7), "n": torch.zeros(2).bool()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"type": "smolvla"}))
    saved = by_name(list(policy_parts(str(tmp_path), "cuda:1", cameras=2)))
    assert saved["weights"].nbytes == 30 + 28 + 2
    assert saved["weights"].measured
    # In bfloat16, as its first weights are.
    assert 2 * saved["keys and values"].nbytes == named["keys and values"].nbytes


def test_learning_all_of_a_policy_takes_more_than_learning_an_adapter() -> None:
    def gib(method: Method) -> float:
        parts = policy_training_parts("pi0", "cuda:0", method, cameras=2, batch=1)
        return sum(part.nbytes for part in parts) / 2**30

    # openpi states more than 22.5 GB for the one, with half-precision weights, and more than 70 GB for the other.
    assert 13 < gib(Method.LORA) < 25
    assert 50 < gib(Method.FULL) < 80


def write_smolvla(folder: Path, numbers: int) -> Path:
    """Leave what looks like a SmolVLA of so many numbers."""
    save_file({"a": torch.zeros(numbers)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"type": "smolvla"}))
    return folder


def test_an_actor_reserves_as_much_for_versions_as_is_planned(tmp_path: Path) -> None:
    slot = tmp_path / "slot"
    slot.mkdir()
    place = str(write_smolvla(tmp_path, 24))
    (planned,) = version_parts(place, Method.FULL)
    WeightsSlot(slot).take(4 * 24)
    assert planned.nbytes == sum(path.stat().st_size for path in slot.glob("weights-*.bin"))
    assert planned.device == "cpu"
    (whole,) = version_parts("smolvla", Method.FULL)
    assert whole.nbytes == 4 * 4 * POLICIES["smolvla"].learns


@pytest.mark.parametrize(("expert_only", "frozen_vision"), [(True, True), (False, True), (False, False)])
def test_what_of_a_saved_policy_learns_is_read_from_its_settings(
    tmp_path: Path, expert_only: bool, frozen_vision: bool
) -> None:
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    fields = {"train_expert_only": expert_only, "freeze_vision_encoder": frozen_vision}
    shape = {"cameras": {"front": (64, 64)}, "state_dim": 6, "action_dim": 6}
    folder = build_tiny_policy(tmp_path / "p", "smolvla", backbone=tmp_path / "b", **shape, **fields)
    named = SmolVLAPolicy.from_pretrained(folder).named_parameters()
    learns = sum(each.numel() for _, each in named if each.requires_grad)
    parts = by_name(list(policy_training_parts(str(folder), "cpu", Method.FULL, cameras=1, batch=1)))
    planned = parts["gradients, Adam"].nbytes
    # Constants are counted with it, and of the language network what nothing reads: its output layer above all.
    assert 12 * learns <= planned <= (1.01 if expert_only else 1.35) * 12 * learns


def test_what_a_run_refuses_to_let_learn_is_refused_in_its_words() -> None:
    for name in ("pi0", "pi05"):
        with pytest.raises(ConfigError, match=r"than actors can be sent.*Found: 14\d\d\d MB.*weighted-lora"):
            list(version_parts(name, Method.FULL))
        assert list(version_parts(name, Method.LORA))
    assert list(version_parts("act", Method.FULL))
    with pytest.raises(ConfigError, match=r"where adapters of low rank go.*Found: act.*weighted-full"):
        list(version_parts("act", Method.LORA))


def test_adapters_are_planned_where_lerobot_says_that_they_go() -> None:
    for name in POLICIES:
        places = get_policy_class(name)._get_default_peft_targets
        assert (name in ADAPTED) == (places is not PreTrainedPolicy._get_default_peft_targets)


def test_what_cannot_be_planned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such policy") as caught:
        list(policy_parts("dreamer", "cpu", cameras=1))
    assert "smolvla" in str(caught.value)
    policy, _ = real_networks()
    policy.save(tmp_path)
    with pytest.raises(ConfigError, match="rlpd"):
        list(policy_training_parts(str(tmp_path), "cpu", Method.FULL, cameras=2, batch=1))
