"""The critic behind the reward server: pictures and a demonstration in over a real socket, scores out."""

import time

import numpy as np
import pytest
import torch

from roborl.loops import serve as serve_loop
from roborl.loops.serve import ServeConfig
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.model import score_episode
from roborl.rewards.vlac.checkpoint import open_vlac
from roborl.rewards.vlac.config import VlacConfig
from roborl.serving.score_client import ScoreClient
from roborl.serving.score_events import Scored, SessionRefused
from roborl.testing.check_reward_model import random_observations
from roborl.testing.tiny_vlac import IMAGE_PX, write_published_vlac


@pytest.fixture
def model(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return open_vlac(
        VlacConfig(
            checkpoint=str(write_published_vlac(tmp_path / "published")),
            judge=JudgeConfig(dtype="float32", device="cpu"),
            image_px=IMAGE_PX,
            reference_frames=3,
            contradiction=1.0,
        )
    )


def test_an_episode_comes_back_scored_as_offline(model):
    observations = random_observations(model, count=10)
    demo = {"demo/front": np.random.default_rng(1).integers(0, 256, (5, 48, 64, 3), np.uint8)}
    expected = score_episode(model, "stack the cups", observations, references=demo)
    with serve_loop.serving({"vlac": model}, ServeConfig(endpoint="tcp://127.0.0.1:*")) as server:
        client = ScoreClient(server.endpoint, name="test")
        try:
            session = client.open_session("stack the cups", ["front"], references=demo)
            scores, sent, deadline = [], 0, time.monotonic() + 30
            while len(scores) < len(observations):
                assert time.monotonic() < deadline, (sent, scores)
                while sent < len(observations) and client.push_frame(
                    session, sent, observations[sent].images
                ):
                    sent += 1
                for event in client.poll(0.02):
                    assert not isinstance(event, SessionRefused), event
                    if isinstance(event, Scored):
                        scores.append(event.score)
        finally:
            client.close()
    assert [(s.frame_id, s.valid, s.done) for s in scores] == [
        (s.frame_id, s.valid, s.done) for s in expected
    ]
    assert [s.progress for s in scores] == pytest.approx([s.progress for s in expected], abs=1e-4)
    assert {s.version for s in scores} == {model.info.version}


def test_a_session_without_the_demonstration_is_refused(model):
    with serve_loop.serving({"vlac": model}, ServeConfig(endpoint="tcp://127.0.0.1:*")) as server:
        client = ScoreClient(server.endpoint, name="test")
        try:
            client.open_session("stack the cups", ["front"])
            events, deadline = [], time.monotonic() + 10
            while not any(isinstance(event, SessionRefused) for event in events):
                assert time.monotonic() < deadline, events
                events += client.poll(0.02)
        finally:
            client.close()
    (refused,) = [event for event in events if isinstance(event, SessionRefused)]
    assert "demo/front" in refused.reason
