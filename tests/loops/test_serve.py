"""The reward server over real sockets: sessions, lanes, faults, rebuild after SIGKILL."""

import json
import math
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from roborl.cli import serve as serve_cli
from roborl.errors import ConfigError, DeadlineExceeded, ModelLoadError, RoborlError
from roborl.loops import serve as serve_loop
from roborl.loops.serve import ServeConfig, serve, summary
from roborl.loops.supervise import Child
from roborl.rewards.fake import BrightnessFold, BrightnessJudge, BrightnessModel
from roborl.rewards.model import score_episode
from roborl.rewards.pool_config import PoolConfig
from roborl.rewards.registry import load_reward_model
from roborl.serving.score_client import ScoreClient
from roborl.serving.score_events import Scored, ScoreOverdue, SessionLost, SessionOpened, SessionRefused
from roborl.testing.proxy import TcpProxy
from roborl.types import Frame, Lane, Observation

VIEWS = ["front"]


def pictures(seed, count, px=16):
    rng = np.random.default_rng(seed)
    return [{"front": np.full((px, px, 3), level, np.uint8)} for level in rng.integers(0, 256, count)]


def expected(images, **options):
    observations = [
        Observation(
            frames={name: Frame(rgb=rgb, camera=name, stamp_ns=0, id=i) for name, rgb in views.items()},
            state=np.zeros(0, np.float32),
            stamp_ns=0,
        )
        for i, views in enumerate(images)
    ]
    return [
        (s.frame_id, s.progress, s.raw)
        for s in score_episode(BrightnessModel(), "t", observations, **options)
    ]


def facts(scores):
    return [(s.frame_id, s.progress, s.raw) for s in scores]


def serving(models=None, **options):
    """A server with a thread that turns it, until the test is over."""
    config = ServeConfig(endpoint="tcp://127.0.0.1:*", **options)
    return serve_loop.serving(models or {"m": BrightnessModel()}, config)


@contextmanager
def client_of(endpoint, **options):
    client = ScoreClient(endpoint, name="test", **options)
    try:
        yield client
    finally:
        client.close()


def until(client, wanted, seconds=10.0):
    """Poll until ``wanted`` of the events so far is true; return the events."""
    events, deadline = [], time.monotonic() + seconds
    while not wanted(events):
        assert time.monotonic() < deadline, events
        events += client.poll(0.05)
    return events


def label(client, images, scored=lambda i: True, model="", seconds=10.0, on_score=lambda score: None):
    """Label an episode as the labeller does: every frame in order, from the start again when the session is lost."""
    deadline, scores, sent, session = time.monotonic() + seconds, [], 0, None
    wanted = sum(map(scored, range(len(images))))
    lost = 0
    while len(scores) < wanted:
        assert time.monotonic() < deadline, (sent, scores)
        if session is None:
            session, sent, scores = client.open_session("t", VIEWS, model=model), 0, []
        while sent < len(images) and client.push_frame(session, sent, images[sent], score=scored(sent)):
            sent += 1
        for event in client.poll(0.02):
            match event:
                case Scored():
                    scores.append(event.score)
                    on_score(event.score)
                case SessionLost():
                    session, lost = None, lost + 1
                case SessionRefused():
                    raise AssertionError(event.reason)
    client.close_session(session)
    return scores, lost


def test_an_episode_comes_back_scored_as_offline():
    images = pictures(0, 50)
    with serving(credits=8) as server, client_of(server.endpoint) as client:
        scores, _ = label(client, images)
        assert facts(scores) == expected(images)
        assert all(s.version == "brightness-all" and s.timings_ms["server"] > 0 for s in scores)
        strided, _ = label(client, images, scored=lambda i: i % 4 == 0 or i == 49)
        assert facts(strided) == expected(images, stride=4)


def test_episodes_of_several_clients_and_models_do_not_mix():
    models = {"one": BrightnessModel(), "two": BrightnessModel(("front",))}
    with serving(models) as server:
        results = {}

        def run(seed, model):
            with client_of(server.endpoint) as client:
                results[seed] = label(client, pictures(seed, 40), model=model)[0]

        threads = [threading.Thread(target=run, args=(i, ("one", "two")[i % 2])) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        for seed in range(6):
            assert facts(results[seed]) == expected(pictures(seed, 40))
            assert {s.version for s in results[seed]} == {models[("one", "two")[seed % 2]].info.version}


@pytest.mark.parametrize(
    ("model", "views", "words"),
    [
        ("other", VIEWS, "no such reward model"),
        ("m", ["wrist"], "needs views"),
        ("any", [], "at least one view"),
    ],
)
def test_a_session_that_cannot_be_is_refused_with_a_reason(model, views, words):
    with (
        serving({"m": BrightnessModel(("front",)), "any": BrightnessModel()}) as server,
        client_of(server.endpoint) as client,
    ):
        client.open_session("t", views, model=model)
        events = until(client, bool)
        assert isinstance(events[0], SessionRefused)
        assert words in events[0].reason


def test_references_that_a_model_chokes_on_are_refused():
    class Picky(BrightnessModel):
        def start(self, task, references):
            references["goal"]

    with serving({"m": Picky()}) as server, client_of(server.endpoint) as client:
        client.open_session("t", VIEWS)
        assert "cannot start this episode" in until(client, bool)[0].reason


class Slow(BrightnessJudge):
    def answer(self, queries):
        time.sleep(0.03)
        return super().answer(queries)


def test_at_three_times_the_load_live_stays_fresh_and_labels_are_complete():
    images = pictures(0, 90)
    options = {"pool": PoolConfig(max_batch=1)}
    with (
        serving({"m": BrightnessModel(judge=Slow())}, **options) as server,
        client_of(server.endpoint, deadline_s=60) as client,
    ):
        live = client.open_session("t", VIEWS, lane=Lane.LIVE)
        session = client.open_session("t", VIEWS)
        until(client, lambda events: len(events) == 2)
        lags, labels, sent = [], [], 0
        for newest in range(90):
            client.push_frame(live, newest, images[newest])
            while sent <= newest and client.push_frame(session, sent, images[sent]):
                sent += 1
            for event in client.poll(0.01):
                if isinstance(event, Scored):
                    if event.session == live:
                        lags.append(newest - event.score.frame_id)
                    else:
                        labels.append(event.score)
        behind = 90 - len(labels)
        while len(labels) < 90:
            while sent < 90 and client.push_frame(session, sent, images[sent]):
                sent += 1
            labels += [e.score for e in client.poll(0.05) if isinstance(e, Scored) and e.session == session]
        assert facts(labels) == expected(images)
        assert behind > 30
        assert len(lags) >= 8
        assert max(lags) <= 30


def test_a_judge_that_fails_costs_scores_and_not_the_server():
    class Broken(BrightnessJudge):
        def answer(self, queries):
            if any(q.now[0][0, 0, 0] == 13 for q in queries):
                raise RuntimeError("device lost")
            return super().answer(queries)

    images = pictures(0, 12)
    images[4]["front"][:] = 13
    with (
        serving({"m": BrightnessModel(judge=Broken())}) as server,
        client_of(server.endpoint) as client,
    ):
        scores, _ = label(client, images)
        assert [s.valid for s in scores] == [i != 4 for i in range(12)]
        assert "1 missing" in summary(server.check_health())
        told = {}
        deadline = time.monotonic() + 5
        while told.get("missing") != {"no reply": 1}:
            assert time.monotonic() < deadline, told
            told = client.statistics(5.0)["models"]["m"]
        assert told["faults"]["RuntimeError"] >= 1
        assert (told["version"], told["cameras"], told["image_px"]) == ("brightness-all", [], None)


def test_a_client_is_told_at_once_what_each_model_looks_at():
    models = {"one": BrightnessModel(("front", "wrist"), image_px=32), "two": BrightnessModel()}
    with serving(models) as server, client_of(server.endpoint) as client:
        told = client.statistics(5.0)["models"]
        assert {name: (m["cameras"], m["image_px"]) for name, m in told.items()} == {
            "one": (["front", "wrist"], 32),
            "two": ([], None),
        }


def test_a_gap_loses_the_session_and_the_client_rebuilds_it():
    images = pictures(0, 6)
    with serving() as server, client_of(server.endpoint) as client:
        session = client.open_session("t", VIEWS)
        until(client, lambda events: any(isinstance(e, SessionOpened) for e in events))
        client.push_frame(session, 0, images[0])
        client.push_frame(session, 3, images[3])
        events = until(client, lambda events: any(isinstance(e, SessionLost) for e in events))
        assert "1 is lacking" in next(e.reason for e in events if isinstance(e, SessionLost))
        assert facts(label(client, images)[0]) == expected(images)


def test_a_client_that_leaves_leaves_no_session():
    with serving() as server:
        with client_of(server.endpoint) as client:
            session = client.open_session("t", VIEWS)
            until(client, bool)
            client.push_frame(session, 0, pictures(0, 1)[0])
            client.close_session(session)
            client.poll(0.2)
        deadline = time.monotonic() + 5
        while server.pool.statistics()["sessions"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_hanging_judge_is_overdue_at_the_client_and_ends_the_server():
    release = threading.Event()

    class Hanging(BrightnessJudge):
        def answer(self, queries):
            release.wait(20)
            return super().answer(queries)

    with (
        serving({"m": BrightnessModel(judge=Hanging())}, judge_deadline_s=0.2) as server,
        client_of(server.endpoint, deadline_s=0.2) as client,
    ):
        session = client.open_session("t", VIEWS)
        until(client, bool)
        client.push_frame(session, 0, pictures(0, 1)[0])
        until(client, lambda events: any(isinstance(e, ScoreOverdue) for e in events))
        time.sleep(0.2)
        with pytest.raises(
            DeadlineExceeded, match=r"did not answer in time.*needs longer.*--judge_deadline_s"
        ):
            server.check_health()
        release.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_judge_that_loses_its_device_ends_the_server_before_a_label_goes_missing():
    class Lost(BrightnessJudge):
        def answer(self, queries):
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    with (
        serving({"m": BrightnessModel(judge=Lost())}) as server,
        client_of(server.endpoint) as client,
    ):
        session = client.open_session("t", VIEWS)
        until(client, bool)
        client.push_frame(session, 0, pictures(0, 1)[0])
        for thread in threading.enumerate():
            if thread.name == "judge m":
                thread.join(5)
        with pytest.raises(RoborlError, match="thread of the reward server has ended"):
            server.check_health()
        assert client.poll(0.2) == []


def test_a_judge_that_takes_many_calls_for_a_batch_is_not_hung():
    """Eight queries an observation, one a call: each call is short, the batch is not."""

    class Several(BrightnessModel):
        def start(self, task, references):
            return SeveralFold((), self.info.version)

    class SeveralFold(BrightnessFold):
        def queries(self, observation):
            return super().queries(observation) * 8

        def fold(self, observation_id, replies):
            return super().fold(observation_id, replies[:1])

    options = {"judge_deadline_s": 0.2, "pool": PoolConfig(max_batch=1)}
    with (
        serving({"m": Several(judge=Slow())}, **options) as server,
        client_of(server.endpoint) as client,
    ):
        session = client.open_session("t", VIEWS)
        until(client, bool)
        limit_s = server.statistics()["reply_limit_s"]
        for index, images in enumerate(pictures(0, 2)):
            client.push_frame(session, index, images)
        scored = []
        while len(scored) < 2:
            scored += client.poll(0.01)
            server.check_health()
        assert max(event.round_trip_ms for event in scored) > 200
        assert server.statistics()["reply_limit_s"] == 8 * limit_s


def test_a_client_is_told_that_its_session_was_forgotten():
    with serving(pool=PoolConfig(idle_s=0.05)) as server, client_of(server.endpoint) as client:
        quiet = client.open_session("t", VIEWS)
        until(client, bool)
        time.sleep(0.1)
        client.open_session("t", VIEWS)
        (lost,) = [
            event
            for event in until(client, lambda events: any(isinstance(e, SessionLost) for e in events))
            if isinstance(event, SessionLost)
        ]
        assert lost.session == quiet
        assert "nobody touched it" in lost.reason


def test_large_references_open_a_session_over_a_slow_line():
    """A part of a message that takes longer than the connection's own silence may last."""
    demonstration = {"demo/front": np.zeros((10, 480, 640, 3), np.uint8)}
    nbytes = demonstration["demo/front"].nbytes
    with (
        serving() as server,
        TcpProxy(int(server.endpoint.rsplit(":", 1)[1]), rate_bytes_s=nbytes / 7.5) as line,
        client_of(line.endpoint) as client,
    ):
        client.open_session("t", VIEWS, references=demonstration)
        (opened,) = until(client, bool, seconds=20.0)
        assert isinstance(opened, SessionOpened)


def start(endpoint):
    run = "from roborl.cli.main import main; raise SystemExit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", run, "serve", "brightness", "--endpoint", endpoint],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_in_the_middle_it_is_rebuilt_by_its_client_with_the_same_labels_and_ends_on_sigterm(tmp_path):
    endpoint = f"ipc://{tmp_path}/scores.sock"
    images = pictures(7, 400)
    processes = [start(endpoint)]
    try:
        with client_of(endpoint) as client:
            client.wait_connected(30.0)

            def kill_and_restart(score):
                if score.frame_id == 150 and len(processes) == 1:
                    processes[0].send_signal(signal.SIGKILL)
                    processes.append(start(endpoint))

            scores, lost = label(client, images, seconds=60, on_score=kill_and_restart)
            assert lost == 1
            assert facts(scores) == expected(images)
        processes[1].send_signal(signal.SIGTERM)
        out, err = processes[1].communicate(timeout=20)
        assert processes[1].returncode == 0, err
        assert json.loads(out)["models"]["brightness"]["scored"]["label"] >= 400
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_misuse_is_told_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match="no model to serve"):
        serve(Child("serve", None, None), ServeConfig())
    with pytest.raises(ModelLoadError, match="no reward model"):
        load_reward_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"format": "os:system"}')
    with pytest.raises(ModelLoadError, match="does not read"):
        load_reward_model(str(tmp_path))
    for settings in ({"credits": 0}, {"judge_deadline_s": math.inf}, {"judge_deadline_s": math.nan}):
        with pytest.raises(ConfigError, match="settings cannot be used"):
            ServeConfig(**settings)


def test_folders_can_be_named_without_an_option():
    assert serve_cli.prepare_args(["runs/a", "b", "--threads", "2"]) == [
        "--models",
        '{"a": "runs/a", "b": "b"}',
        "--threads",
        "2",
    ]
    assert serve_cli.prepare_args(["--threads", "2"]) == ["--threads", "2"]
    with pytest.raises(ConfigError, match=r"apart by name.*A/reward.*--models"):
        serve_cli.prepare_args(["A/reward", "B/reward"])
