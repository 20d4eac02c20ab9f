"""Fine-tuning a LeRobot policy by advantage, with small random networks of LeRobot's own classes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from roborl.data.arena import ArenaReader
from roborl.data.store import Store, StoreSpec
from roborl.errors import ConfigError
from roborl.learning.batch import Batch
from roborl.learning.weighted import Weighted, WeightedConfig
from roborl.policies import load_policy
from roborl.policies.lerobot_learning import OnlineForm, learnt_groups
from roborl.policies.lerobot_policy import LeRobotPolicy
from roborl.testing.tiny_policies import build_tiny_policy

SIZE, PX, STATE, ACTION = 8, 16, 2, 2
CAMERAS = {"front": (24, 32)}
# Without ACT's large image network, which would take most of the time.
LEARN = {"act": ["model.decoder", "model.action_head"], "smolvla": ["all"]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder of a run's policy of a kind, built once; not to be written to."""
    root = tmp_path_factory.mktemp("policies")

    def build(kind: str) -> Path:
        folder = root / kind
        if not folder.exists():
            build_tiny_policy(
                folder, kind, cameras=CAMERAS, state_dim=STATE, action_dim=ACTION, backbone=root / "backbone"
            )
            OnlineForm(image_px=PX, learn=tuple(LEARN[kind])).write(folder)
        return folder

    return build


def learner(saved: Callable[[str], Path], store: Path, kind: str = "act", **settings: Any) -> Weighted:
    torch.set_num_threads(1)
    if not store.exists():
        form = {"image_px": PX, "state_dim": STATE, "action_dim": ACTION, "max_steps": 8}
        Store(store, StoreSpec(cameras={"front": (24, 32)}, capacity_bytes=100_000, **form)).close()  # type: ignore[arg-type]
    policy = load_policy(saved(kind), task="reach the target")
    assert isinstance(policy, LeRobotPolicy)
    config = WeightedConfig(
        **{"encoder": "cnn", "width": 16, "learning_rate": 1e-2, "value_updates": 0} | settings
    )
    return Weighted(config, policy, ArenaReader(store), seed=0)


def batch(random: np.random.Generator, *, steps: int = 4, demo: bool = False, **change: Any) -> Batch:
    """Chunks of one step counted in them each, ended by the task and worth nothing."""
    zeros, rows = np.zeros(SIZE, np.float32), np.zeros(SIZE, np.int64)
    pictures = random.integers(0, 256, (SIZE, PX, PX, 3), np.uint8)
    chunk = random.uniform(-1, 1, (SIZE, steps, ACTION)).astype(np.float32)
    fields: dict[str, Any] = {
        "images": {"front": pictures},
        "next_images": {},
        "state": random.uniform(-1, 1, (SIZE, STATE)).astype(np.float32),
        "next_state": np.zeros((SIZE, STATE), np.float32),
        "action": chunk[:, 0],
        "chunk": chunk,
        "reward": zeros,
        "potential": zeros,
        "next_potential": zeros,
        "terminated": np.ones(SIZE, bool),
        "horizon": np.full(SIZE, steps),
        "person": np.zeros(SIZE, bool),
        "demo": np.full(SIZE, demo),
        "rows": rows,
        "next_rows": rows,
        "version": "",
    }
    return Batch(**fields | change)


def losses(learner: Weighted, drawn: Batch) -> NDArray[np.float32]:
    """How far the policy is from each chunk; what it draws is the same at each call."""
    assert drawn.chunk is not None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        found = learner.policy.losses(drawn.images, drawn.state, drawn.chunk, drawn.horizon)
    return np.asarray(found)


@pytest.mark.parametrize("kind", ["act", "smolvla"])
def test_what_went_better_becomes_likelier_and_what_went_worse_is_left_alone(
    saved: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    made = learner(saved, tmp_path / "store", kind)
    drawn = batch(np.random.default_rng(0))
    good = np.arange(SIZE) < SIZE // 2
    drawn = replace(drawn, reward=np.where(good, 1.0, -1.0).astype(np.float32))
    assert drawn.chunk is not None
    imitated = replace(
        drawn,
        images={"front": drawn.images["front"][good]},
        state=drawn.state[good],
        chunk=drawn.chunk[good],
        horizon=drawn.horizon[good],
    )
    before = losses(made, imitated)
    for _ in range(4):
        torch.manual_seed(7)  # as in losses
        figures = made.update(drawn)
    assert figures["practice_imitated"] == pytest.approx(0.5)
    assert losses(made, imitated).mean() < 0.95 * before.mean()

    weights = made.actor_weights()
    worse = replace(drawn, reward=np.full(SIZE, -9.0, np.float32))
    assert made.update(worse)["policy_loss"] == 0.0
    assert all(np.array_equal(array, weights[name]) for name, array in made.actor_weights().items())


def test_a_chunk_that_counts_nothing_has_no_gradient(saved: Callable[[str], Path], tmp_path: Path) -> None:
    drawn = batch(np.random.default_rng(0))
    good = np.arange(SIZE) < 3
    drawn = replace(drawn, reward=np.where(good, 1.0, -1.0).astype(np.float32))
    other = replace(drawn, chunk=np.where(good[:, None, None], drawn.chunk, 0.5).astype(np.float32))
    ends = []
    for each in (drawn, other):
        made = learner(saved, tmp_path / "store")
        torch.manual_seed(1)
        made.update(each)
        ends.append(made.actor_weights())
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_what_is_shown_counts_once_whatever_came_of_it(saved: Callable[[str], Path], tmp_path: Path) -> None:
    made = learner(saved, tmp_path / "store")
    drawn = batch(np.random.default_rng(0), reward=np.full(SIZE, -5.0, np.float32))
    value, target = torch.zeros(SIZE), torch.from_numpy(drawn.reward)
    for shown in (replace(drawn, demo=np.ones(SIZE, bool)), replace(drawn, person=np.ones(SIZE, bool))):
        assert made._weigh(shown, value, target)[0].tolist() == [1.0] * SIZE
    assert made._weigh(drawn, value, target)[0].tolist() == [0.0] * SIZE


def test_practice_as_a_whole_counts_no_more_than_its_share(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    made = learner(saved, tmp_path / "store", temperature=1.0)
    drawn = batch(np.random.default_rng(0), demo=False)
    value = torch.zeros(SIZE)
    assert made._weigh(drawn, value, torch.full((SIZE,), 5.0))[0].tolist() == [1.0] * SIZE

    some = replace(drawn, demo=np.arange(SIZE) < SIZE // 2)
    target = torch.tensor([0.0] * 5 + [0.01, 0.05, 0.1])
    weight = made._weigh(some, value, target)[0]
    assert weight[: SIZE // 2].tolist() == [1.0] * (SIZE // 2)
    assert weight[4:].mean().item() == pytest.approx(1.0)
    assert weight[4] == 0.0 < weight[5] < weight[6] < weight[7]

    little = torch.tensor([0.0] * 7 + [0.05])
    assert made._weigh(some, value, little)[0][7].item() == pytest.approx(np.exp(0.5), rel=1e-5)


def test_practice_counts_nothing_before_the_values_have_been_taught(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    made = learner(saved, tmp_path / "store", value_updates=2)
    practice = batch(np.random.default_rng(0), reward=np.full(SIZE, 5.0, np.float32))
    untaught = made.actor_weights()
    assert made.update(practice)["practice_imitated"] == 0.0
    assert all(np.array_equal(array, untaught[name]) for name, array in made.actor_weights().items())
    assert made.update(replace(practice, demo=np.ones(SIZE, bool)))["policy_loss"] > 0.0

    other = learner(saved, tmp_path / "store", value_updates=2)
    other.load_state_dict(copy.deepcopy(made.state_dict()))  # A run that goes on does not wait again.
    for each in (made, other):
        assert each.update(practice)["practice_imitated"] == 1.0


@pytest.mark.parametrize("kind", ["act", "smolvla"])
def test_the_steps_behind_a_chunk_do_not_count(
    saved: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    made = learner(saved, tmp_path / "store", kind)
    drawn = batch(np.random.default_rng(0), horizon=np.full(SIZE, 2))
    assert drawn.chunk is not None
    padded = replace(drawn, chunk=np.where(np.arange(4)[:, None] < 2, drawn.chunk, 9.0).astype(np.float32))
    np.testing.assert_array_equal(losses(made, drawn), losses(made, padded))
    real = replace(drawn, horizon=np.full(SIZE, 4))
    assert not np.allclose(losses(made, real), losses(made, drawn))


def test_the_potential_reaches_values_and_never_the_policy(
    saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = learner(saved, tmp_path / "store")
    shown: list[dict[str, Any]] = []
    before = made.policy.parts.before

    class Watched:
        steps = before.steps

        def __call__(self, told: dict[str, Any]) -> Any:
            shown.append(told)
            return before(told)

    made.policy._parts = replace(made.policy.parts, before=Watched())
    drawn = batch(np.random.default_rng(0), demo=True)
    made.update(drawn)
    made.update(replace(drawn, potential=np.full(SIZE, 0.5, np.float32)))
    assert set(shown[0]) == {
        "observation.state",
        "observation.images.front",
        "task",
        "action",
        "action_is_pad",
    }
    assert all(torch.equal(shown[0][name], shown[1][name]) for name in shown[0] if name != "task")
    told = [made._told(drawn.rows, drawn.state, np.full(SIZE, phi, np.float32)) for phi in (0.0, 0.5)]
    assert (told[0] != told[1]).sum() == SIZE


def test_a_time_out_bootstraps_with_the_discount_of_its_own_horizon(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    made = learner(saved, tmp_path / "store", lookahead=1.0, discount=0.5)
    with torch.no_grad():
        made.targets.last.weight.zero_()
        made.targets.last.bias.fill_(8.0)
    drawn = batch(np.random.default_rng(0), horizon=np.full(SIZE, 3), terminated=np.zeros(SIZE, bool))
    assert made.update(drawn)["target"] == pytest.approx(1.0)
    assert made.update(replace(drawn, terminated=np.ones(SIZE, bool)))["target"] == 0.0


@pytest.mark.parametrize("kind", ["act", "smolvla"])
def test_it_goes_on_exactly_where_it_was(saved: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    first = learner(saved, tmp_path / "store", kind)
    first.update(batch(random, demo=True))
    second = learner(saved, tmp_path / "store", kind)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # as from a file
    drawn = [batch(random, demo=True) for _ in range(2)]
    generator = torch.get_rng_state()
    one = [first.update(each) for each in drawn]
    torch.set_rng_state(generator)
    assert [second.update(each) for each in drawn] == one
    theirs = second.actor_weights()
    assert all(np.array_equal(array, theirs[name]) for name, array in first.actor_weights().items())
    assert all(
        torch.equal(*pair) for pair in zip(first.values.parameters(), second.values.parameters(), strict=True)
    )


def test_what_a_card_draws_goes_on_too_where_the_checkpoint_has_it(
    saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (learner(saved, tmp_path / "store") for _ in range(2))
    assert first.state_dict()["cuda_generator"] == []
    put_back: list[list[int]] = []
    drawn = torch.arange(16, dtype=torch.uint8)
    monkeypatch.setattr("torch.cuda.get_rng_state", lambda device: drawn)
    monkeypatch.setattr("torch.cuda.set_rng_state", lambda state, device: put_back.append(state.tolist()))
    without = copy.deepcopy(first.state_dict())
    del without["cuda_generator"]
    first._on_card = second._on_card = True
    state = copy.deepcopy(first.state_dict())
    second.load_state_dict(without)  # Of an older release, or of a computer without a card.
    assert put_back == []
    second.load_state_dict(state)
    assert put_back == [drawn.tolist()]


def act_with_a_slower_image_network(tmp_path: Path) -> Callable[[str], Path]:
    folder = tmp_path / "act"
    rates = {"optimizer_lr": 1e-4, "optimizer_lr_backbone": 1e-6}
    build_tiny_policy(folder, "act", cameras=CAMERAS, state_dim=STATE, action_dim=ACTION, **rates)
    OnlineForm(image_px=PX).write(folder)
    return lambda kind: folder


@pytest.mark.parametrize(("asked", "rates"), [(0.0, [1e-4, 1e-6]), (1e-3, [1e-3, 1e-5])])
def test_what_lerobot_trains_at_another_rate_learns_at_that_one(
    tmp_path: Path, asked: float, rates: list[float]
) -> None:
    made = learner(act_with_a_slower_image_network(tmp_path), tmp_path / "store", learning_rate=asked)
    groups = made._policy_optimiser.param_groups
    assert [group["lr"] for group in groups] == pytest.approx(rates)
    names = {id(parameter): name for name, parameter in made.policy.learnt.items()}
    found = [[names[id(parameter)] for parameter in group["params"]] for group in groups]
    assert sorted(found[0] + found[1]) == sorted(made.policy.learnt)
    assert {name.startswith("model.backbone") for name in found[1]} == {True}
    assert {name.startswith("model.backbone") for name in found[0]} == {False}


def test_a_run_whose_checkpoint_knew_one_group_goes_on_with_its_moments(tmp_path: Path) -> None:
    saved = act_with_a_slower_image_network(tmp_path)
    made, random = learner(saved, tmp_path / "store"), np.random.default_rng(0)
    made.update(batch(random, demo=True))
    state = copy.deepcopy(made.state_dict())
    optimiser = made._policy_optimiser
    own = [optimiser.state[parameter] for parameter in made.policy.learnt.values()]
    one_group = {**state["policy_optimiser"]["param_groups"][0], "params": list(range(len(own)))}
    state["policy_optimiser"] = {"state": dict(enumerate(own)), "param_groups": [one_group]}

    other = learner(saved, tmp_path / "store")
    other.load_state_dict(copy.deepcopy(state))
    for mine, theirs in zip(made.policy.learnt.values(), other.policy.learnt.values(), strict=True):
        assert torch.equal(optimiser.state[mine]["exp_avg"], other._policy_optimiser.state[theirs]["exp_avg"])
    assert [group["lr"] for group in other._policy_optimiser.param_groups] == pytest.approx([1e-2, 1e-4])


def test_what_lerobot_puts_into_no_group_learns_too(saved: Callable[[str], Path], tmp_path: Path) -> None:
    policy = learner(saved, tmp_path / "store").policy
    first, *rest = policy.learnt.values()

    class Model:
        def get_optim_params(self) -> list[dict[str, Any]]:
            return [{"params": list(reversed(rest)), "lr": 1.0}, {"params": [torch.zeros(1)]}]

    groups = learnt_groups(Model(), policy.learnt)
    assert [len(group["params"]) for group in groups] == [len(rest), 1]
    assert all(one is other for one, other in zip(groups[0]["params"], rest, strict=True))
    assert groups[1]["params"][0] is first


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"expectile": 1.0},
        {"value_updates": -1},
        {"polyak": 0.0},
        {"width": 0},
        {"learning_rate": -1e-4},
        {"value_learning_rate": 0.0},
        {"learn": []},
        {"learn": ["lora", "all"]},
        {"lookahead": 1.2},
        {"lookahead_updates": -1},
        {"lookahead_successes": -1},
        {"batch_size": 0},
        {"members": 0},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        WeightedConfig(**settings)
    assert caught.value.seen is not None
    assert caught.value.allowed
