"""What the reward server adds to a judge's own time, and what becomes of both lanes when frames come too fast.

Server and client are processes of their own on this machine, with a small random network behind the server.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from roborl.errors import DeadlineExceeded, RoborlError
from roborl.loops.benchmarks.peers import BareClient, BareServer
from roborl.loops.benchmarks.sides import Pair, Side
from roborl.loops.serve import RewardServer, ServeConfig
from roborl.rewards.judges.fake import FakeJudge
from roborl.rewards.judges.queries import VlmJudge, VlmQuery, VlmReply
from roborl.rewards.model import References, score_episode
from roborl.rewards.pool_config import PoolConfig
from roborl.rewards.roboreward import RoboRewardFold, RoboRewardModel, open_roboreward
from roborl.rewards.roboreward_config import RoboRewardConfig
from roborl.serving.score_client import ScoreClient
from roborl.serving.score_events import Scored, SessionOpened
from roborl.testing.tiny_vlms import build_tiny_vlm
from roborl.types import Frame, Image, Lane, Observation, Score

OVERLOAD = 3.0
"""How many times as fast as they can be judged frames come."""
_PX = 224
_TASK = "put the red cube into the bowl"
_CAMERA = "front"
_NETWORK, _AT_ONCE = "network", "at once"
_DISTINCT = 64  # pictures, used in turn, each time with other pixels in one row
_CREDITS = 8
_MAX_BATCH = 4
_WAIT_S = 100.0
_ROUNDING = 1e-4


def measure_server(folder: str, *, frames: int, load_s: float) -> dict[str, Any]:
    """Measure the server's own time per frame, then both lanes at three times the sustainable load.

    Args:
        folder: Where the network's checkpoint is written.
        frames: Frames by which the server's own time is measured, and half as many for the sustainable load.
        load_s: How long the overload lasts, s.
    """
    checkpoint = build_tiny_vlm(Path(folder) / "served", "qwen3_vl", width=128, layers=4, pixels=128 * 128)
    with ExitStack() as open_:
        bare = Side(_serve_bare, ())
        open_.callback(bare.close)
        pair = Pair(_serve, (str(checkpoint),), _ask, (str(checkpoint), bare.go("where are you?")))
        open_.callback(pair.close)
        return {
            "server": pair.go(("overhead", frames)),
            "overload": pair.go(("overload", (max(20, frames // 2), load_s))),
        }


def _model(checkpoint: str) -> RoboRewardModel:
    import torch

    torch.set_num_threads(1)
    return open_roboreward(
        RoboRewardConfig(checkpoint=checkpoint, camera=_CAMERA, frames=2, min_cells=1, min_mass=0)
    )


class _Footage:
    """The pictures of one episode, none of which the judge has seen before, in this episode or another."""

    _number = itertools.count()
    _seeds: ClassVar[list[Image]] = []

    def __init__(self) -> None:
        if not self._seeds:
            self._seeds.extend(np.random.default_rng(0).integers(0, 256, (_DISTINCT, _PX, _PX, 3), np.uint8))
        self._row = next(self._number)

    def images(self, index: int) -> dict[str, Image]:
        picture = self._seeds[index % _DISTINCT].copy()
        picture[self._row, : index // _DISTINCT + 1] ^= 255
        return {_CAMERA: picture}

    def observation(self, index: int) -> Observation:
        frame = Frame(rgb=self.images(index)[_CAMERA], camera=_CAMERA, stamp_ns=0, id=index)
        return Observation(frames={_CAMERA: frame}, state=np.zeros(0, np.float32), stamp_ns=0)


class _TimedFold(RoboRewardFold):
    """Says with each score how long the model took for it: from the question to the score."""

    def queries(self, observation: Observation) -> list[VlmQuery]:
        self._began = time.perf_counter()
        return super().queries(observation)

    def fold(self, observation_id: int, replies: Sequence[VlmReply | None]) -> Score:
        score = super().fold(observation_id, replies)
        return replace(score, timings_ms={"model": 1e3 * (time.perf_counter() - self._began)})


class _TimedModel(RoboRewardModel):
    def start(self, task: str, references: References) -> RoboRewardFold:
        return _TimedFold(self, task)


def _serve(ready: Callable[[Any], None], checkpoint: str) -> None:
    config = ServeConfig(
        endpoint="tcp://127.0.0.1:*", pool=PoolConfig(max_batch=_MAX_BATCH), credits=_CREDITS
    )
    model = _model(checkpoint)
    judges: dict[str, VlmJudge] = {_NETWORK: model.judge, _AT_ONCE: FakeJudge("3")}
    models = {name: _TimedModel(judge, model.prompt, model.config) for name, judge in judges.items()}
    server = RewardServer(models, config)
    ready(server.endpoint)
    while True:
        server.turn()


def _serve_bare(line: Connection) -> None:
    server = BareServer()
    line.recv()
    line.send(server.port)
    while True:
        server.serve_one()


def _ask(line: Connection, endpoint: str, checkpoint: str, bare_port: int) -> None:
    client = ScoreClient(endpoint, name="bench", deadline_s=_WAIT_S)
    while True:
        what, argument = line.recv()
        if what == "overhead":
            line.send(_overhead(client, argument, bare_port))
        else:
            warm_up, load_s = argument
            line.send(_overload(client, warm_up, load_s, _model(checkpoint)))


def _overhead(client: ScoreClient, frames: int, bare_port: int) -> dict[str, float]:
    """Compare the server's own time with that of a bare one, behind a network and behind a judge that answers at once.

    A machine that others share forgets a program within the milliseconds that a network takes; the second shows what the
    server's own work costs where it has not.
    """
    trips_ms, own_ms, bare_ms = _round_trips(client, _NETWORK, frames, bare_port)
    _, at_once_ms, bare_at_once_ms = _round_trips(client, _AT_ONCE, frames, bare_port)
    return {
        "frame, bytes": 3 * _PX * _PX,
        "push to score, ms": statistics.median(trips_ms),
        "beyond the model, ms": statistics.median(own_ms),
        "beyond the model, 95th percentile, ms": float(np.quantile(own_ms, 0.95)),
        "a bare ZeroMQ round trip of as many bytes, ms": statistics.median(bare_ms),
        "beyond the model / bare round trip": statistics.median(own_ms) / statistics.median(bare_ms),
        "beyond a model that answers at once, ms": statistics.median(at_once_ms),
        "a bare round trip answered at once, ms": statistics.median(bare_at_once_ms),
    }


def _round_trips(client: ScoreClient, model: str, frames: int, bare_port: int) -> list[list[float]]:
    """Show one new frame at a time, and send as many bytes to a process that works on them for as long as the model.

    Returns:
        From push to score, that beyond the model, and that of the bare process beyond its work: ms, a value per frame.
    """
    session, footage, bare = _open(client, Lane.LIVE, model), _Footage(), BareClient(bare_port)
    rows = []
    for index in range(frames + 20):
        images = footage.images(index)
        client.push_frame(session, index, images)
        event = _next_score(client)
        model_ms = event.score.timings_ms["model"]
        bare_ms = bare.round_trip_ms(images[_CAMERA].tobytes(), model_ms / 1e3)
        rows.append((event.round_trip_ms, event.round_trip_ms - model_ms, bare_ms))
    client.close_session(session)
    return [list(column) for column in zip(*rows[20:], strict=True)]  # the first ones warm up


def _overload(client: ScoreClient, warm_up: int, load_s: float, model: RoboRewardModel) -> dict[str, Any]:
    """Find the rate at which the label lane keeps up alone, then show frames to both lanes three times as fast."""
    session = _open(client, Lane.LABEL)
    began = time.monotonic()
    _finish(client, session, _Footage(), warm_up, [], 0)
    sustainable_hz = warm_up / (time.monotonic() - began)
    count = round(OVERLOAD * sustainable_hz * load_s)
    live, label, footage = _open(client, Lane.LIVE), _open(client, Lane.LABEL), _Footage()
    labels: list[Score] = []
    ages_s, lags, sent = [], [], 0
    began = time.monotonic()

    def taken_s(index: int) -> float:
        return began + index / (OVERLOAD * sustainable_hz)

    for newest in range(count):
        while True:
            for event in client.poll(max(0.0, min(taken_s(newest) - time.monotonic(), 0.05))):
                if isinstance(event, Scored) and event.session == label:
                    labels.append(event.score)
                elif isinstance(event, Scored):
                    ages_s.append(time.monotonic() - taken_s(event.score.frame_id))
                    lags.append(newest - event.score.frame_id)
            if time.monotonic() >= taken_s(newest):
                break
        client.push_frame(live, newest, footage.images(newest))
        while sent <= newest and client.push_frame(label, sent, footage.images(sent)):
            sent += 1
    loaded_s = time.monotonic() - began
    behind = count - len(labels)
    client.close_session(live)
    labels = _finish(client, label, footage, count, labels, sent)
    complete_s = time.monotonic() - began - loaded_s
    third = len(ages_s) // 3
    return {
        "sustainable, frames/s": sustainable_hz,
        "load, frames/s": count / loaded_s,
        "load / sustainable": count / loaded_s / sustainable_hz,
        "frames": count,
        "live: scores": len(ages_s),
        "live: age, median, s": statistics.median(ages_s),
        "live: age, 95th percentile, s": float(np.quantile(ages_s, 0.95)),
        "live: age at most, s": max(ages_s),
        "live: age at most, frames": max(lags),
        "live: median age, last third / third before": statistics.median(ages_s[-third:])
        / statistics.median(ages_s[third:-third]),
        "label: frames behind as the load ends": behind,
        "label: s behind as the load ends": behind / count * loaded_s,
        "label: missing in the end": count - sum(score.valid for score in labels),
        "label: out of order or unlike an undisturbed scoring": _wrong(labels, footage, count, model),
        "label: s until complete": complete_s,
    }


def _wrong(labels: list[Score], footage: _Footage, count: int, model: RoboRewardModel) -> int:
    expected = score_episode(model, _TASK, [footage.observation(i) for i in range(count)])
    return abs(len(labels) - count) + sum(
        one.frame_id != other.frame_id or abs(one.progress - other.progress) > _ROUNDING
        for one, other in zip(labels, expected, strict=False)
    )


def _finish(
    client: ScoreClient, session: str, footage: _Footage, count: int, scores: list[Score], sent: int
) -> list[Score]:
    """Push what is left of an episode as fast as the label lane takes it, and return all scores."""
    deadline = time.monotonic() + _WAIT_S
    while len(scores) < count and time.monotonic() < deadline:
        while sent < count and client.push_frame(session, sent, footage.images(sent)):
            sent += 1
        events = client.poll(0.05)
        scores += [e.score for e in events if isinstance(e, Scored) and e.session == session]
    client.close_session(session)
    return scores


def _open(client: ScoreClient, lane: Lane, model: str = _NETWORK) -> str:
    session = client.open_session(_TASK, [_CAMERA], lane=lane, model=model)
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        for event in client.poll(0.05):
            if isinstance(event, SessionOpened):
                return session
            raise RoborlError("The benchmark's session is not opened", seen=event)
    raise DeadlineExceeded("The benchmark's server opens no session", allowed=f"{_WAIT_S:g} s")


def _next_score(client: ScoreClient) -> Scored:
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        for event in client.poll(0.5):
            if isinstance(event, Scored):
                return event
    raise DeadlineExceeded("The benchmark's server gives no score", allowed=f"{_WAIT_S:g} s")
