"""What of a LeRobot policy learns in a run, and how it travels: learner to actor, and home to LeRobot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from roborl.errors import ModelLoadError
from roborl.images import square
from roborl.policies import load_policy
from roborl.policies.exploration import ExplorationConfig
from roborl.policies.lerobot_learning import OnlineForm, learnt_parameters, sample_losses, save_learnt
from roborl.policies.lerobot_opening import LeRobotParts
from roborl.policies.lerobot_policy import LeRobotPolicy
from roborl.testing.check_policy import noise_observations
from roborl.testing.tiny_policies import build_tiny_policy

CAMERAS = {"front": (24, 32)}
SHAPE: dict[str, Any] = {"cameras": CAMERAS, "state_dim": 3, "action_dim": 2}
PX = 16
SEEN = noise_observations({"front": (48, 64)}, 3, count=2)
HEAD = ("model.action_head",)
Saved = Callable[..., Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Returns the folder of a run's policy, its network built once for each kind; large files are links."""
    root = tmp_path_factory.mktemp("policies")

    def build(
        kind: str = "smolvla", learn: tuple[str, ...] = ("all",), name: str = "", **fields: Any
    ) -> Path:
        plain = root / f"{kind}{name}"
        if not plain.exists():
            build_tiny_policy(plain, kind, backbone=root / "backbone", **SHAPE, **fields)
        folder = root / f"{kind}{name}-{'-'.join(learn)}"
        if not folder.exists():
            shutil.copytree(plain, folder, copy_function=lambda a, b: Path(b).symlink_to(a))
            OnlineForm(image_px=PX, learn=learn, lora_rank=2).write(folder)
        return folder

    return build


def opened(folder: Path, **options: Any) -> LeRobotPolicy:
    policy = load_policy(folder, task="reach the target", **options)
    assert isinstance(policy, LeRobotPolicy)
    return policy


def moved(policy: LeRobotPolicy) -> dict[str, Any]:
    """Weights as after training: every number a little elsewhere."""
    random = np.random.default_rng(3)
    return {
        name: (array + 0.05 * random.standard_normal(array.shape)).astype(np.float32)
        for name, array in policy.actor_weights().items()
    }


@pytest.mark.parametrize(("kind", "learn"), [("act", HEAD), ("smolvla", ("all",)), ("smolvla", ("lora",))])
def test_an_actor_does_exactly_what_the_learner_would(
    saved: Saved, kind: str, learn: tuple[str, ...]
) -> None:
    folder = saved(kind, learn)
    learner, actor = opened(folder), opened(folder)
    first = actor.act(SEEN[0])
    learner.act(SEEN[0])  # as many draws
    weights = moved(learner)
    learner.load_actor(weights, 4)
    actor.load_actor(learner.actor_weights(), 4)
    assert actor.version == 4
    answer = actor.act(SEEN[0])
    np.testing.assert_array_equal(answer, learner.act(SEEN[0]))
    assert not np.allclose(answer, first)
    assert sum(array.size for array in weights.values()) < sum(
        p.numel() for p in actor.parts.model.parameters()
    )


@pytest.mark.parametrize(("kind", "learn"), [("smolvla", ("all",)), ("smolvla", ("lora",))])
def test_what_was_learnt_goes_home_as_lerobot_saves_a_policy(
    saved: Saved, tmp_path: Path, kind: str, learn: tuple[str, ...]
) -> None:
    from lerobot.policies.factory import get_policy_class

    folder = saved(kind, learn)
    run = opened(folder)
    weights = moved(run)
    run.load_actor(weights, 1)
    save_learnt(folder, weights, tmp_path / "pretrained_model")
    save_learnt(folder, weights, tmp_path / "pretrained_model")
    home = opened(tmp_path / "pretrained_model")
    assert home.online is None
    # The pictures of a run, at the size that it was trained with: what the run shows it, within rounding.
    shown = run._batch(run._pictures(SEEN[0]), SEEN[0].state[None])
    torch.manual_seed(0)
    found = home.parts.model.predict_action_chunk(home.parts.before(dict(shown)))
    torch.manual_seed(0)
    wanted = run.parts.model.predict_action_chunk(run.parts.before(dict(shown)))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    get_policy_class(kind).from_pretrained(tmp_path / "pretrained_model", strict=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pretrained_model"]


def test_a_runs_policy_sees_the_squares_of_the_replay_memory_and_no_more(saved: Saved) -> None:
    policy = opened(saved())
    coarse = square(SEEN[0].frames["front"].rgb, PX)
    memory = policy._batch({"front": coarse[None]}, SEEN[0].state[None])
    live = policy._batch(policy._pictures(SEEN[0]), SEEN[0].state[None])
    assert memory["observation.images.front"].shape == (1, 3, *CAMERAS["front"])
    assert torch.equal(memory["observation.images.front"], live["observation.images.front"])


def test_weights_that_do_not_fit_or_are_not_finite_leave_the_old_ones(saved: Saved) -> None:
    policy = opened(saved())
    before = policy.actor_weights()
    name = next(iter(before))
    wrong: list[tuple[dict[str, Any], str]] = [
        (before | {name: np.full_like(before[name], np.nan)}, "not finite"),
        (before | {name: before[name][:1]}, "do not fit"),
        (before | {"more": np.zeros(1, np.float32)}, "do not fit"),
    ]
    for weights, words in wrong:
        with pytest.raises(ModelLoadError, match=words) as caught:
            policy.load_actor(weights, 3)
        assert all((caught.value.seen, caught.value.allowed, caught.value.remedy))
    assert policy.version == 0
    assert all(np.array_equal(array, before[name]) for name, array in policy.actor_weights().items())


def test_a_kind_that_answers_alike_explores_and_one_that_draws_does_not(saved: Saved) -> None:
    explore = ExplorationConfig(std=0.3)
    strays = opened(saved("act", HEAD), explore=explore).act(SEEN[0]) - opened(saved("act", HEAD)).act(
        SEEN[0]
    )
    assert len(np.unique(strays[:, 0])) == len(strays) > 1, "each step in its own way"
    vla = saved("smolvla", ("all",))
    np.testing.assert_array_equal(opened(vla, explore=explore).act(SEEN[0]), opened(vla).act(SEEN[0]))


def test_an_episode_explores_on_when_plans_are_forgotten(saved: Saved) -> None:
    planner, other = (opened(saved("act", HEAD), explore=ExplorationConfig(std=0.3)) for _ in range(2))
    for policy in (planner, other):
        policy.act(SEEN[0])
    planner.forget_plans()
    np.testing.assert_array_equal(planner.act(SEEN[1]), other.act(SEEN[1]))


@pytest.mark.parametrize(
    ("kind", "learn", "words"),
    [
        ("act", ("lora",), r"does not say where adapters.*act.*smolvla"),
        ("act", ("model.nothing",), r"not in this LeRobot policy.*model\.nothing.*model\.action_head"),
    ],
)
def test_what_cannot_learn_is_refused_in_words(
    saved: Saved, kind: str, learn: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ModelLoadError, match=words) as caught:
        opened(saved(kind, learn))
    assert all((caught.value.seen, caught.value.allowed, caught.value.remedy))


@pytest.mark.parametrize(("kind", "steps"), [("vqbet", 1), ("act", 2)])
def test_a_kind_whose_loss_is_not_known_by_sample_is_refused(kind: str, steps: int) -> None:
    parts: Any = SimpleNamespace(kind=kind, config=SimpleNamespace(n_obs_steps=steps))
    with pytest.raises(
        ModelLoadError, match=r"cannot fine-tune this kind.*act, evo1, pi0, pi05, smolvla"
    ) as caught:
        learnt_parameters(parts, OnlineForm(image_px=PX))
    assert all((caught.value.seen, caught.value.allowed, caught.value.remedy))


@pytest.mark.parametrize("enabled", [True, False])
def test_actions_that_are_learnt_from_where_the_arm_is_are_refused(
    saved: Saved, tmp_path: Path, enabled: bool
) -> None:
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.processor import AbsoluteActionsProcessorStep, RelativeActionsProcessorStep

    folder = shutil.copytree(saved("act", HEAD), tmp_path / "relative", symlinks=True)
    config = PreTrainedConfig.from_pretrained(folder)
    before, after = make_pre_post_processors(config, pretrained_path=str(folder))
    relative = RelativeActionsProcessorStep(enabled=enabled)
    before.steps = [relative, *before.steps]
    after.steps = [*after.steps, AbsoluteActionsProcessorStep(enabled=enabled, relative_step=relative)]
    for file in folder.glob("policy_p*"):
        file.unlink()
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    if enabled:
        with pytest.raises(
            ModelLoadError, match=r"relative.*Found: act.*use_relative_actions=false"
        ) as caught:
            opened(folder)
        assert all((caught.value.seen, caught.value.allowed, caught.value.remedy))
    else:
        assert opened(folder).learnt
    (folder / "online.json").unlink()
    assert opened(folder).act(noise_observations(CAMERAS, 3)[0]).shape == (4, 2)


def test_a_torn_note_of_the_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "online.json").write_text(json.dumps({"learn": 3}))
    with pytest.raises(ModelLoadError, match="cannot be read"):
        OnlineForm.read(tmp_path)


def test_padding_does_not_count_for_a_kind_whose_own_loss_counts_it() -> None:
    class Network:
        def forward(self, errors: torch.Tensor) -> torch.Tensor:
            return errors

    class Pi0:
        model = Network()

        def __call__(self, batch: dict[str, Any], reduction: str) -> tuple[torch.Tensor, dict[str, Any]]:
            assert reduction == "none"
            return self.model.forward(batch["errors"]).mean(dim=(1, 2)), {}

    parts: Any = SimpleNamespace(kind="pi0", model=Pi0())
    errors = torch.tensor([[1.0, 3.0, 9.0, 9.0], [1.0, 2.0, 3.0, 6.0]]).unsqueeze(2)
    pad = torch.tensor([[False, False, True, True], [False] * 4])
    assert sample_losses(parts, {"errors": errors, "action_is_pad": pad}).tolist() == [2.0, 3.0]
    assert "forward" not in parts.model.model.__dict__


def test_what_stood_still_in_its_training_data_is_not_imitated(
    saved: Saved, caplog: pytest.LogCaptureFixture
) -> None:
    def of(size: int, still: int = -1) -> dict[str, Any]:
        stretch = np.where(np.arange(size) == still, 0.0, 0.5).astype(np.float32)
        middle = np.full(size, 0.1, np.float32)
        return {"mean": middle, "std": stretch, "min": middle - stretch, "max": middle + stretch}

    pictures = {name: values.reshape(3, 1, 1) for name, values in of(3).items()}
    known = {"observation.images.front": pictures, "observation.state": of(3), "action": of(2, still=1)}
    policy = opened(saved(name="-still", statistics=known))
    assert "Parts [1] of an action all but stood still" in caplog.text
    random = np.random.default_rng(0)
    images = {"front": random.integers(0, 256, (2, PX, PX, 3), np.uint8)}
    state, horizon = np.zeros((2, 3), np.float32), np.full(2, 4)
    chunk = random.uniform(-1, 1, (2, 4, 2)).astype(np.float32)
    found = []
    for change in ([0.0, 0.0], [0.0, 0.7], [0.7, 0.0]):
        torch.manual_seed(0)
        found.append(policy.losses(images, state, chunk + np.array(change, np.float32), horizon).detach())
    assert torch.equal(found[0], found[1])
    assert float(found[0].max()) < 100.0
    assert not torch.allclose(found[0], found[2])


def test_a_kind_that_pads_its_actions_learns_from_those_of_the_bench() -> None:
    """EVO-1's own processors, around a network that says what it is given."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.factory import make_policy_config, make_pre_post_processors

    class Network(torch.nn.Linear):
        def forward(self, batch: dict[str, Any], reduction: str = "none") -> Any:
            self.given = batch["action"]
            return self.given.sum(dim=(1, 2)), {}

    config: Any = make_policy_config(
        "evo1",
        device="cpu",
        push_to_hub=False,
        chunk_size=4,
        n_action_steps=4,
        input_features={
            "observation.images.front": PolicyFeature(type=FeatureType.VISUAL, shape=(3, PX, PX)),
            "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(3,)),
        },
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(2,))},
    )
    stood = {"min": np.float32([-0.5, 0.1]), "max": np.float32([0.5, 0.1])}
    known = {"observation.state": {"min": -np.ones(3), "max": np.ones(3)}, "action": stood}
    before, after = make_pre_post_processors(config, dataset_stats=known)
    parts = LeRobotParts(
        kind="evo1",
        config=config,
        model=Network(1, 1),
        before=before,
        after=after,
        known=frozenset(known) | {"observation.images.front"},
        renamed={},
        trains=frozenset({"weight", "bias"}),
    )
    policy = LeRobotPolicy(parts, online=OnlineForm(image_px=PX))
    images = {"front": np.zeros((1, PX, PX, 3), np.uint8)}
    given = []
    for part_that_stood_still in (0.1, 0.7):
        chunk = np.float32([[[0.25, part_that_stood_still]] * 4])
        policy.losses(images, np.zeros((1, 3), np.float32), chunk, np.array([4]))
        given.append(parts.model.given)
    assert given[0].shape == (1, 4, config.max_action_dim)
    assert torch.allclose(given[0][..., 0], torch.tensor(0.5)), "half of what the network can command"
    assert torch.equal(given[0], given[1])


@pytest.mark.parametrize("use_vae", [False, True])
def test_acts_loss_by_sample_has_the_mean_of_lerobots_own(saved: Saved, use_vae: bool) -> None:
    policy = opened(saved("act", HEAD, name=str(use_vae), use_vae=use_vae))
    random = np.random.default_rng(0)
    batch = policy._batch(
        {"front": random.integers(0, 256, (4, PX, PX, 3), np.uint8)}, np.zeros((4, 3), np.float32)
    )
    batch["action"] = torch.from_numpy(random.uniform(-1, 1, (4, 4, 2)).astype(np.float32))
    batch["action_is_pad"] = torch.tensor([[False, False, False, True]] * 4)
    shown = policy.parts.before(batch)
    policy.parts.model.train()
    torch.manual_seed(0)
    theirs = policy.parts.model(dict(shown))[0]
    torch.manual_seed(0)
    assert torch.allclose(sample_losses(policy.parts, dict(shown)).mean(), theirs, rtol=1e-5)
