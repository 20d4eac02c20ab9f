import subprocess
import sys

import numpy as np
import pytest
import torch

from roborl.errors import ConfigError, ShapeError
from roborl.rewards.forms import RewardForm, the_form
from roborl.rewards.shaping import held, potential, shaped_reward

RNG = np.random.default_rng(0)


def batch(n=64):
    return (
        RNG.normal(size=n).astype(np.float32),
        RNG.random(n).astype(np.float32),
        RNG.random(n).astype(np.float32),
        RNG.random(n) < 0.3,
    )


@pytest.mark.parametrize("horizon", [1, 3, RNG.integers(1, 9, 64)])
def test_numpy_and_torch_agree_and_keep_the_dtype(horizon):
    arrays = batch()
    ours = shaped_reward(*arrays, discount=0.97, horizon=horizon)
    theirs = shaped_reward(
        *map(torch.from_numpy, arrays),
        discount=0.97,
        horizon=horizon if isinstance(horizon, int) else torch.from_numpy(horizon),
    )
    assert ours.dtype == np.float32
    assert theirs.dtype == torch.float32
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("horizon", [2, np.array([1, 3])])
def test_finer_potentials_do_not_change_the_dtype(kind, horizon):
    reward, phi = np.zeros(2, np.float32), np.full(2, 0.5)
    parts = [kind(part) for part in (reward, phi, phi, np.array([True, False]))]
    steps = horizon if isinstance(horizon, int) else kind(horizon)
    result = shaped_reward(*parts, discount=0.9, horizon=steps)
    assert result.dtype == parts[0].dtype
    assert result.tolist() == pytest.approx([-0.5, (0.5 * 0.9 ** np.broadcast_to(horizon, 2)[1]) - 0.5])


def test_the_formula_element_by_element():
    reward, phi, after, ended = batch()
    horizon = RNG.integers(1, 9, 64)
    expected = [
        r + (0.0 if e else 0.9**h * n) - p
        for r, p, n, e, h in zip(reward, phi, after, ended, horizon, strict=True)
    ]
    np.testing.assert_allclose(
        shaped_reward(reward, phi, after, ended, discount=0.9, horizon=horizon), expected, atol=1e-6
    )


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_the_potential_after_a_termination_is_never_read(kind):
    one = np.ones(2)
    result = shaped_reward(
        kind(0 * one), kind(one), kind(np.array([np.nan, 2.0])), kind(np.array([True, False])), discount=0.5
    )
    assert result.tolist() == [-1.0, 0.0]


def test_gradients_of_a_tensor_pass_through():
    phi = torch.tensor([0.5, 0.5], requires_grad=True)
    after = torch.tensor([0.7, 0.7], requires_grad=True)
    shaped_reward(torch.zeros(2), phi, after, torch.tensor([True, False]), discount=0.9).sum().backward()
    assert phi.grad.tolist() == [-1.0, -1.0]
    assert after.grad.tolist() == pytest.approx([0.0, 0.9])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({1: np.zeros(3, np.float32)}, "do not match"),
        ({2: torch.zeros(64)}, "do not match"),
        ({0: 0.0}, "do not match"),
        ({3: np.zeros(64, np.float32)}, "not boolean"),
        ({0: np.zeros(64, int)}, "not floating point"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, words):
    arrays = [change.get(i, array) for i, array in enumerate(batch())]
    with pytest.raises(ShapeError, match=words):
        shaped_reward(*arrays, discount=0.9)


@pytest.mark.parametrize("horizon", [0, np.zeros(64, int), np.ones(3, int), np.ones((64, 1), int)])
def test_horizons_that_do_not_fit_are_refused(horizon):
    with pytest.raises(ShapeError):
        shaped_reward(*batch(), discount=0.9, horizon=horizon)


@pytest.mark.parametrize("discount", [0.0, -0.5, 1.01, float("nan")])
def test_a_discount_outside_its_range_is_refused(discount):
    with pytest.raises(ConfigError, match="discount"):
        shaped_reward(*batch(), discount=discount)


def test_doubt_halves_the_potential_at_its_own_value_and_lowers_it_throughout():
    progress = np.full(5, 0.8, np.float32)
    spread = np.array([0.0, 0.1, 0.2, 0.4, 10.0], np.float32)
    phi = potential(progress, spread, scale=2.0, doubt=0.2)
    assert phi.dtype == np.float32
    assert phi[0] == pytest.approx(1.6)
    assert phi[2] == pytest.approx(0.8)
    assert (np.diff(phi) < 0).all()
    np.testing.assert_allclose(
        phi, potential(torch.from_numpy(progress), torch.from_numpy(spread), scale=2.0, doubt=0.2).numpy()
    )
    with pytest.raises(ConfigError):
        potential(progress, spread, scale=0.0)


def test_scores_that_cannot_be_laid_over_an_episode_are_refused():
    for ids in ([2, 1], [0, 9], [-1, 2], [1, 1], [1]):
        with pytest.raises(ShapeError, match="laid over"):
            held(np.array([0.1, 0.2]), np.array(ids), 5)


def test_no_other_form_stands_beside_potential_shaping():
    for other in RewardForm:
        if other not in (RewardForm.POTENTIAL, RewardForm.SPARSE):
            with pytest.raises(ConfigError, match="beside each other"):
                the_form(["potential", other], critic_sees_potential=True)
    with pytest.raises(ConfigError, match="no such form"):
        the_form(["bonus"], critic_sees_potential=True)


def test_a_run_says_whether_it_is_policy_invariant():
    assert the_form([], critic_sees_potential=False) == ("sparse", "policy-invariant")
    assert the_form(["potential"], critic_sees_potential=True) == ("potential", "policy-invariant")
    assert the_form(["potential"], critic_sees_potential=False)[1] == "not policy-invariant"
    short = {"critic_sees_potential": True, "lookahead": 0.9}
    assert the_form(["potential"], **short)[1] == "not policy-invariant"
    assert the_form(["potential"], critic_sees_potential=True, lookahead=1.2)[1] == "not policy-invariant"
    grows = short | {"lookahead_grows": True}
    live = "not policy-invariant until critics look all the way ahead"
    assert the_form(["potential"], **grows)[1] == live
    assert the_form(["potential"], **grows, grown=False)[1] == "not yet policy-invariant"
    assert the_form(["potential"], **grows, grown=True)[1].startswith("policy-invariant once")
    assert (
        the_form(["potential"], critic_sees_potential=False, potential_of_frame=True)[1] == "policy-invariant"
    )
    for form in ("progress", "difference", "positive"):
        assert the_form([form], critic_sees_potential=True) == (form, "not policy-invariant")


def test_shaping_forms_metrics_and_calibration_load_no_heavy_library():
    code = (
        "import sys, roborl.rewards.shaping, roborl.rewards.forms, roborl.rewards.metrics, roborl.rewards.calibration\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'mujoco', 'lerobot', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
