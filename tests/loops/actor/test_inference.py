"""The inference loop without processes: one policy, one slot on each side."""

from __future__ import annotations

import ctypes
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roborl.errors import ConfigError, ModelLoadError
from roborl.loops.actor import act_config, inference
from roborl.loops.actor.act_config import ActConfig, Card
from roborl.loops.actor.inference import InferenceLoop, check_speed, policy_maker
from roborl.loops.actor.shared import ChunkSlot, ObservationSlot, Request, inference_bell
from roborl.loops.actor.status import StatusSlot
from roborl.loops.actor.weights_slot import WeightsSlot
from roborl.loops.supervise import Child
from roborl.serving.weight_layout import WeightSet
from roborl.types import EpisodeKey, Frame, Observation

CAMERAS = {"front": (4, 4, 3)}


class Policy:
    """Answers with its bias, whatever it is."""

    def __init__(self) -> None:
        self.bias = np.zeros(2, np.float32)
        self.version = 0
        self.resets = 0
        self.takes_s = [0.0]

    def reset(self) -> None:
        self.resets += 1

    def act(self, observation: Observation) -> np.ndarray:
        time.sleep(self.takes_s.pop(0) if len(self.takes_s) > 1 else self.takes_s[0])
        return self.bias[None]

    def load_actor(self, weights: Any, version: int) -> None:
        if "bias" not in weights:
            raise ModelLoadError("foreign weights")
        self.bias, self.version = np.array(weights["bias"]), version


class Side:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests = ObservationSlot(folder, CAMERAS, 3)
        self.chunks = ChunkSlot(folder)
        self.weights = WeightsSlot(folder)
        self.status = StatusSlot(folder, "inference")
        self.received = 0
        self.made: list[Policy] = []
        self.start()

    def start(self) -> None:
        self.loop = InferenceLoop(
            self.make,
            action_dim=2,
            observations=ObservationSlot(self.folder, CAMERAS, 3),
            chunks=ChunkSlot(self.folder),
            weights=WeightsSlot(self.folder).read,
            received=lambda: self.received,
            status=self.status,
        )

    def make(self) -> Policy:
        self.made.append(Policy())
        return self.made[-1]

    def publish(self, version: int, **weights: np.ndarray) -> None:
        self.weights.write(WeightSet.of(version, weights))
        self.received += 1

    def ask(
        self, index: int, *, episode: int = 0, wanted: bool = True, after_person: bool = False
    ) -> np.ndarray | None:
        key = EpisodeKey(actor="arm", incarnation=1, episode=episode)
        frame = Frame(rgb=np.zeros((4, 4, 3), np.uint8), camera="front", stamp_ns=0, id=index)
        observation = Observation(frames={"front": frame}, state=np.zeros(3, np.float32), stamp_ns=0)
        self.requests.publish(
            Request(key=key, index=index, wanted=wanted, after_person=after_person, observation=observation)
        )
        self.loop.turn(0.0)
        chunk = self.chunks.unseen()
        assert chunk is None or chunk.covers(key, index)
        self.chunk = chunk
        return None if chunk is None else chunk.actions[0]


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side(tmp_path)


def test_a_wanted_observation_gets_a_chunk_and_another_does_not(side: Side) -> None:
    assert side.ask(0) is not None
    assert side.ask(1, wanted=False) is None
    assert side.status["chunks"] == 1


def test_a_new_episode_resets_the_policy(side: Side) -> None:
    for episode in (0, 0, 1, 1, 1, 2):
        side.ask(0, episode=episode)
    assert side.made[0].resets == 3


def test_a_policy_that_plans_ahead_forgets_it_once_a_person_has_moved_the_arm(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    side.ask(0)
    assert side.ask(1, after_person=True) is not None, "one that does not has nothing to forget"
    forgot: list[int] = []
    monkeypatch.setattr(
        Policy, "forget_plans", lambda self: forgot.append(side.status["chunks"]), raising=False
    )
    for index, after_person in enumerate((False, True, True, False), start=2):
        side.ask(index, after_person=after_person)
    assert forgot == [3, 4]
    assert side.made[0].resets == 1


def test_another_trainers_set_of_the_same_version_is_loaded_and_none_twice(side: Side) -> None:
    side.publish(5, bias=np.float32([0.5, 0.5]))
    side.ask(0)
    side.publish(5, bias=np.float32([0.25, 0.25]))
    side.ask(1)
    np.testing.assert_array_equal(side.ask(2), [0.25, 0.25])
    assert side.status["swaps"] == 2


def test_new_weights_wake_a_process_that_waits_for_an_observation(side: Side, tmp_path: Path) -> None:
    bell = inference_bell(tmp_path)
    side.publish(5, bias=np.float32([0.5, 0.5]))
    ring = threading.Timer(0.05, bell.ring)
    ring.start()
    began_s = time.monotonic()
    side.loop.turn(20.0)
    assert time.monotonic() - began_s < 10.0
    assert side.status["policy_version"] == 5
    ring.join()


def test_a_process_that_starts_again_begins_with_the_weights_that_lie_there(side: Side) -> None:
    side.publish(5, bias=np.float32([0.5, 0.5]))
    side.ask(0)
    np.testing.assert_array_equal(side.ask(1), [0.5, 0.5])
    side.start()
    side.loop.warm_up(CAMERAS, 3)
    assert side.status["weights_seen"] == 1
    np.testing.assert_array_equal(side.ask(2), [0.5, 0.5])
    assert side.chunk is not None
    assert side.chunk.policy_version == 5


def test_weights_are_swapped_between_chunks_and_named_in_them(side: Side) -> None:
    side.publish(5, bias=np.float32([0.5, 0.5]))
    # The observation that waits is answered first, with the weights in place.
    np.testing.assert_array_equal(side.ask(0), [0, 0])
    np.testing.assert_array_equal(side.ask(1), [0.5, 0.5])
    assert side.chunk is not None
    assert side.chunk.policy_version == 5
    assert side.status["policy_version"] == 5
    assert side.status["swaps"] == 1


@pytest.mark.parametrize("bias", [[np.nan, 0.0], [0.0, 1.5], [0.0]])
def test_weights_whose_first_action_is_wrong_give_way_to_the_last_good_ones(
    side: Side, bias: list[float]
) -> None:
    side.publish(1, bias=np.float32([0.25, 0.25]))
    side.ask(0)
    np.testing.assert_array_equal(side.ask(1), [0.25, 0.25])
    side.publish(2, bias=np.array(bias, np.float32))
    side.ask(2)
    np.testing.assert_array_equal(side.ask(3), [0.25, 0.25])
    assert side.chunk is not None
    assert side.chunk.policy_version == 1
    assert side.status["refused"] == 1
    side.publish(3, bias=np.float32([0.75, 0]))
    side.ask(4)
    np.testing.assert_array_equal(side.ask(5), [0.75, 0])


def test_what_refused_weights_have_planned_is_forgotten_with_them(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[np.ndarray] = []

    def smoothed(self: Policy, observation: Observation) -> np.ndarray:
        plans.append(self.bias[None])
        return np.mean(plans, axis=0, dtype=np.float32)

    monkeypatch.setattr(Policy, "act", smoothed)
    monkeypatch.setattr(Policy, "forget_plans", lambda self: plans.clear(), raising=False)
    side.publish(1, bias=np.float32([0.25, 0.25]))
    side.ask(0)
    side.ask(1)
    side.publish(2, bias=np.float32([np.nan, 0.0]))
    side.ask(2)
    np.testing.assert_array_equal(side.ask(3), [0.25, 0.25])
    assert side.status["bad_chunks"] == 0


def test_no_action_of_an_old_plan_passes_for_one_of_new_weights(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a plan of the old ones would stand the trial of the new."""
    plan: list[np.ndarray] = []

    def planned(self: Policy, observation: Observation) -> np.ndarray:
        if not plan:
            plan.extend([self.bias] * 3)
        return plan.pop(0)[None]

    monkeypatch.setattr(Policy, "act", planned)
    monkeypatch.setattr(Policy, "forget_plans", lambda self: plan.clear(), raising=False)
    given = []
    side.publish(1, bias=np.float32([0.25, 0.25]))
    side.loop.turn(0.0)
    for index, published in enumerate((None, 0.5, np.nan, None, None, None)):
        if published is not None:
            side.publish(index + 1, bias=np.float32([published, 0.25]))
            side.loop.turn(0.0)
        action = side.ask(index)
        assert action is not None
        assert side.chunk is not None
        given.append((float(action[0]), side.chunk.policy_version))
    assert given == [(0.25, 1), *[(0.5, 2)] * 5]
    assert (side.status["refused"], side.status["bad_chunks"]) == (1, 0)


def test_first_weights_that_are_wrong_give_way_to_the_policy_folder(side: Side) -> None:
    side.publish(1, bias=np.float32([np.inf, 0]))
    side.ask(0)
    np.testing.assert_array_equal(side.ask(1), [0, 0])
    assert len(side.made) == 2
    assert side.status["policy_version"] == 0


def test_a_process_that_starts_again_refuses_the_weights_that_lie_there_as_the_one_before_it_did(
    side: Side,
) -> None:
    side.publish(6, bias=np.float32([1.5, 0.0]))
    side.start()
    side.loop.warm_up(CAMERAS, 3)
    assert (side.status["refused"], side.status["weights_seen"], side.status["policy_version"]) == (1, 1, 0)
    np.testing.assert_array_equal(side.ask(0), [0, 0])


def test_weights_that_do_not_fit_are_refused_once(side: Side) -> None:
    side.publish(1, other=np.zeros(2, np.float32))
    for index in range(3):
        np.testing.assert_array_equal(side.ask(index), [0, 0])
    assert side.status["refused"] == 1


def test_a_policy_that_is_wrong_by_itself_stays_silent(side: Side) -> None:
    side.made[0].bias[:] = np.nan
    assert side.ask(0) is None
    assert side.status["bad_chunks"] == 1


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (np.zeros(3, np.float32), r"shape \(1, 3\)"),
        (np.zeros(2), "a chunk of float64"),
        (np.float32([0, -1.5]), r"an action that goes to 1\.5"),
        (np.float32([0, np.nan]), "an action that goes to nan"),
    ],
)
def test_actions_that_cannot_be_used_are_refused_before_the_first_episode(
    side: Side, answer: np.ndarray, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    side.loop.warm_up(CAMERAS, 3)
    side.made[0].bias = answer
    with pytest.raises(
        ModelLoadError, match=rf"do not fit this robot.*{fault}.*\(h, 2\), float32, from -1 to 1.*Give"
    ):
        side.loop.warm_up(CAMERAS, 3)
    assert side.ask(0) is None
    assert re.search(f"answer cannot be used: .*{fault}", caplog.text)


@pytest.mark.parametrize(
    ("takes_s", "slow"),
    [([0.3, 0.0], False), ([0.3, 0.3, 0.3, 0.0], False), ([0.3, 0.3, 0.3, 0.3, 0.0], True)],
)
def test_only_the_first_choice_of_actions_and_a_moment_of_load_may_take_their_time(
    side: Side, takes_s: list[float], slow: bool
) -> None:
    side.made[0].takes_s = takes_s
    took_s = side.loop.warm_up(CAMERAS, 3, within_s=0.2)
    assert (took_s > 0.2) is slow
    assert side.made[0].takes_s == [0.0]


def test_a_policy_that_is_slower_than_its_bench_waits_is_refused_before_an_arm_moves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    card = Card(
        actor="arm",
        bench="b",
        cameras=CAMERAS,
        state_dim=3,
        action_dim=2,
        real_time=True,
        action_deadline_s=0.5,
    )
    check_speed(0.5, card, 1)
    with pytest.raises(
        ConfigError,
        match=r"slower than.*Found: 0.95 s.*threads=2.*Allowed: 0.5 s.*--act.threads.*action_deadline_s",
    ):
        check_speed(0.95, card, 2)
    assert not caplog.text
    check_speed(0.95, replace(card, simulated=True), 1)
    assert "first step. The policy is slower" in caplog.text


def test_the_inference_process_ends_where_its_policy_is_too_slow_on_the_threads_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    monkeypatch.setattr(act_config, "_MEMORY_DISK", tmp_path)
    factory = "roborl.testing.policies:random_policy"
    config = ActConfig(run=tmp_path / "run", policy_factory=factory, threads=3)
    card = Card(
        actor="arm",
        bench="b",
        cameras=CAMERAS,
        state_dim=3,
        action_dim=4,
        real_time=False,
        action_deadline_s=0.0,
    )
    card.write(act_config.shared_folder(config.run, config.actor))
    with pytest.raises(ConfigError, match=r"slower than the bench waits.*threads=3"):
        inference.main(Child("inference", None, ctypes.c_int64(0)), config)
    assert threads == [3]
    with pytest.raises(ConfigError, match="threads is out of range"):
        replace(config, threads=0)


def test_no_start_of_the_process_draws_the_noise_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(act_config, "_MEMORY_DISK", tmp_path)
    seeds: list[int] = []

    class Ended(Exception):
        pass

    def policy(folder: Path, *, seed: int, **_: Any) -> Any:
        seeds.append(seed)
        raise Ended

    def start(run: str, episodes: int = 0) -> None:
        config = ActConfig(run=tmp_path / run, policy_factory="roborl.testing.policies:random_policy")
        folder = act_config.shared_folder(config.run, config.actor)
        Card(actor="arm", bench="b", cameras=CAMERAS, state_dim=3, action_dim=2, real_time=False).write(
            folder
        )
        StatusSlot(folder, "control")["begun"] = episodes
        with pytest.raises(Ended):
            inference.main(Child("inference", None, ctypes.c_int64(0)), config)

    monkeypatch.setattr("roborl.testing.policies.random_policy", policy)
    start("first")
    start("first")
    start("recalled", episodes=7)  # After the machine was restarted, the episodes are all that is known.
    assert len(set(seeds)) == 3
    start("of the same seed")
    assert seeds[3] == seeds[0]


def test_the_policy_that_takes_the_place_of_a_refused_one_draws_other_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(
        "roborl.testing.policies.random_policy", lambda folder, **given: seeds.append(given["seed"])
    )
    config = ActConfig(policy_factory="roborl.testing.policies:random_policy")
    make = policy_maker(config)
    make("wave")
    make("wave")
    policy_maker(config)("wave")
    policy_maker(replace(config, seed=1))("wave")
    assert len(set(seeds)) == 3
    assert seeds[2] == seeds[0]


def test_a_policy_is_told_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roborl.testing.policies.random_policy", lambda folder, **told: told)
    make: Any = policy_maker(ActConfig(policy_factory="roborl.testing.policies:random_policy"))
    assert make("reach the target")["task"] == "reach the target"


@pytest.mark.parametrize(("mode", "explores"), [("train", True), ("evaluate", False)])
def test_only_episodes_for_training_explore(
    mode: str, explores: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("roborl.testing.policies.random_policy", lambda folder, **given: asked.update(given))
    policy_maker(ActConfig(policy_factory="roborl.testing.policies:random_policy", mode=mode))("wave")
    assert (asked["explore"] is not None) is explores


def test_a_factory_that_cannot_be_found_is_misuse() -> None:
    with pytest.raises(ConfigError, match="factory"):
        policy_maker(ActConfig(policy_factory="roborl.policies:nothing"))
