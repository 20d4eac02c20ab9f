"""Faults of a judge on the whole way, camera to score: real judges behind a real server, asked over a socket.

Each costs scores that are missing, or a clear error, and never the server: what comes after is scored again.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from roborl.cli.main import main
from roborl.loops.serve import RewardServer, ServeConfig, serving, summary
from roborl.rewards.dopamine import DopamineConfig, DopamineModel
from roborl.rewards.dopamine_question import CONTRACT as HOPS
from roborl.rewards.fusion import FusionConfig, Perspective
from roborl.rewards.hop_replies import write_hop
from roborl.rewards.judges.config import JudgeConfig, JudgeKind
from roborl.rewards.judges.openai_judge import OpenAiJudge
from roborl.rewards.judges.transformers_judge import TransformersJudge
from roborl.rewards.pool_config import PoolConfig
from roborl.rewards.prompts import own_prompt
from roborl.rewards.roboreward import CONTRACT, RoboRewardModel
from roborl.rewards.roboreward_config import RoboRewardConfig, ScoreReadout
from roborl.serving.score_client import ScoreClient
from roborl.serving.score_events import Scored, SessionLost, SessionOpened, SessionRefused
from roborl.testing.endpoint import Answer, StubEndpoint, answer, by_brightness, pictures_of
from roborl.testing.tiny_vlms import build_tiny_vlm
from roborl.types import Image, Score

TASK = "put the cube into the bowl"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return build_tiny_vlm(tmp_path_factory.mktemp("tiny") / "qwen", "qwen3_vl")


def local(checkpoint: Path) -> RoboRewardModel:
    """A model whose judge is a network in this process."""
    judge = TransformersJudge.load(JudgeConfig(device="cpu"), str(checkpoint))
    config = RoboRewardConfig(camera="front", min_cells=1, min_mass=0.0, frames=4)
    return RoboRewardModel(judge, own_prompt(CONTRACT), config)


@contextmanager
def remote(say: Callable[[dict[str, Any]], Answer], **options: Any) -> Iterator[tuple[Any, StubEndpoint]]:
    """A judge behind an endpoint, and the endpoint."""
    endpoint = StubEndpoint(say)
    times = {"backoff_s": 0.01, "deadline_s": 5.0, "timeout_s": 2.0, "attempts": 2} | options
    judge = OpenAiJudge(JudgeConfig(kind=JudgeKind.OPENAI, endpoints=(endpoint.url,), **times))
    try:
        yield judge, endpoint
    finally:
        judge.close()
        endpoint.close()


def scoring(judge: Any, **options: Any) -> RoboRewardModel:
    return RoboRewardModel(judge, own_prompt(CONTRACT), RoboRewardConfig(camera="front", **options))


def shades(*levels: int, cameras: tuple[str, ...] = ("front",)) -> list[dict[str, Image]]:
    return [{name: np.full((32, 32, 3), level, np.uint8) for name in cameras} for level in levels]


class Watcher:
    """One session, driven frame by frame.

    Args:
        server: The server.
        cameras: Views that are promised.
        model: Name of the model.
        references: What the model is told besides.
    """

    def __init__(
        self,
        server: RewardServer,
        cameras: tuple[str, ...] = ("front",),
        model: str = "",
        references: dict[str, Any] | None = None,
    ) -> None:
        self.client = ScoreClient(server.endpoint, name="test")
        self.cameras, self.model, self.references = cameras, model, references
        self.sent = 0
        self.session = self.client.open_session(TASK, cameras, model=model, references=references)
        (self.opened,) = self.wait(1)

    def wait(self, count: int, seconds: float = 20.0) -> list[Any]:
        events: list[Any] = []
        deadline = time.monotonic() + seconds
        while len(events) < count:
            assert time.monotonic() < deadline, events
            events += self.client.poll(0.05)
        return events

    def show(self, frames: list[dict[str, Image]]) -> list[Score]:
        """Push frames, and return their scores."""
        self.push(frames)
        return self.scores(len(frames))

    def push(self, frames: list[dict[str, Image]]) -> None:
        for images in frames:
            assert self.client.push_frame(self.session, self.sent, images)
            self.sent += 1

    def scores(self, count: int) -> list[Score]:
        events = self.wait(count)
        assert all(isinstance(event, Scored) for event in events), events
        return [event.score for event in events]


@contextmanager
def watching(models: dict[str, Any], **options: Any) -> Iterator[tuple[RewardServer, Watcher]]:
    pool = options.pop("pool", PoolConfig())
    with serving(models, ServeConfig(endpoint="tcp://127.0.0.1:*", pool=pool)) as server:
        watcher = Watcher(server, **options)
        try:
            yield server, watcher
        finally:
            watcher.client.close()


def valid(scores: list[Score]) -> list[bool]:
    return [score.valid for score in scores]


def test_a_card_that_is_full_costs_time_and_one_that_stays_full_costs_scores(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = local(checkpoint)
    read, room = model.judge.reader.read, [8]

    def tight(turns: Any) -> Any:
        if len(turns) > room[0]:
            raise torch.OutOfMemoryError("no room")
        return read(turns)

    monkeypatch.setattr(model.judge.reader, "read", tight)
    with watching({"m": model}) as (server, watcher):
        expected = watcher.show(shades(0, 60, 120, 180))
        room[0] = 1
        again = Watcher(server)
        tightly = again.show(shades(0, 60, 120, 180))
        room[0] = 0
        full = watcher.show(shades(200, 210))
        room[0] = 8
        after = watcher.show(shades(220, 230))
        again.client.close()
        faults = server.check_health()["models"]["m"]["faults"]
    assert [s.progress for s in tightly] == pytest.approx([s.progress for s in expected], abs=1e-4)
    assert valid(expected) + valid(full) + valid(after) == [True] * 4 + [False] * 2 + [True] * 2
    assert faults["out of memory"] >= 2


def test_an_endpoint_that_goes_away_costs_time_and_no_label() -> None:
    with (
        remote(by_brightness) as (judge, endpoint),
        watching({"m": scoring(judge)}, pool=PoolConfig(retry_s=0.1)) as (server, watcher),
    ):
        before = watcher.show(shades(0, 255))
        endpoint.close()
        watcher.push(shades(0, 255))
        assert watcher.client.poll(1.0) == []
        assert server.check_health()["models"]["m"]["away_s"] > 0
        assert "its judge is away" in summary(server.statistics())
        back = StubEndpoint(by_brightness, endpoint.server.server_port)
        try:
            away = watcher.scores(2)
            after = watcher.show(shades(0, 255))
        finally:
            back.close()
        health = server.check_health()["models"]["m"]
    assert valid(before + away + after) == [True] * 6
    assert [score.frame_id for score in before + away + after] == list(range(6))
    assert [score.progress for score in away + after] == pytest.approx(
        [score.progress for score in before] * 2
    )
    assert health["faults"]["JudgeDown"] >= 1
    assert health["away_s"] == 0.0


def test_an_endpoint_that_dawdles_costs_its_deadline_and_the_score() -> None:
    awake = threading.Event()

    def dawdling(body: dict[str, Any]) -> Answer:
        awake.wait(10.0)
        return by_brightness(body)

    with (
        remote(dawdling, deadline_s=0.4, timeout_s=0.2) as (judge, _),
        watching({"m": scoring(judge)}, pool=PoolConfig(silent_s=0.5, retry_s=0.1)) as (_, watcher),
    ):
        began = time.monotonic()
        late = watcher.show(shades(0))
        took_s = time.monotonic() - began
        awake.set()
        after = watcher.show(shades(255))
    assert valid(late) + valid(after) == [False, True]
    assert 0.5 < took_s < 3.0


GARBAGE = ("", "It went well.", "ANSWER: 9", "ANSWER: 2 ANSWER: 4", "\x00\ufffd" * 50, "<html>502</html>")


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_a_missing_score_and_never_a_number(garbage: str) -> None:
    said = ["ANSWER: 2", garbage, "ANSWER: 4"]
    with (
        remote(lambda body: answer(said.pop(0))) as (judge, _),
        watching({"m": scoring(judge, reading=ScoreReadout.TEXT, max_tokens=8)}) as (server, watcher),
    ):
        scores = [watcher.show(shades(9))[0] for _ in range(3)]
        missing = server.pool.statistics()["models"]["m"]["missing"]
    assert valid(scores) == [True, False, True]
    assert [scores[0].raw, scores[2].raw] == [2.0, 4.0]
    assert sum(missing.values()) == 1


def hops(judge: Any, *, cameras: tuple[str, ...] = ("front",)) -> DopamineModel:
    names = dict(zip(("front", "left_wrist", "right_wrist"), cameras, strict=False))
    fusion = FusionConfig(perspectives=(Perspective.FORWARD,))
    config = DopamineConfig(fusion=fusion, use_probabilities=False, **names)
    return DopamineModel(judge=judge, config=config, prompt=own_prompt(HOPS))


GOAL = {"goal/front": np.full((32, 32, 3), 255, np.uint8)}


@pytest.mark.parametrize("most", [7, 8])
def test_a_wrong_number_of_pictures_is_refused_by_the_endpoint_and_leaves_no_score(most: int) -> None:
    """An endpoint takes so many pictures a question as it was started with; a hop needs eight."""

    def choosy(body: dict[str, Any]) -> Answer:
        if len(pictures_of(body)) > most:
            return 400, {"error": f"At most {most} image(s) may be provided in one prompt."}
        return answer(write_hop(0.5))

    with (
        remote(choosy) as (judge, endpoint),
        watching({"m": hops(judge)}, references=GOAL) as (_, watcher),
    ):
        scores = watcher.show(shades(0, 100, 200))
    assert valid(scores) == [True, most >= 8, most >= 8]  # the first is 0 by definition
    assert len(endpoint.asked) == 2, "what is refused is not asked again"


def test_a_template_that_drops_pictures_leaves_no_score_until_it_is_mended(checkpoint: Path) -> None:
    model = local(checkpoint)
    processor = model.judge.network.processor
    template = processor.chat_template
    with watching({"m": model}) as (_, watcher):
        before = watcher.show(shades(0))
        processor.chat_template = template.replace("<|video_pad|>", "").replace("<|image_pad|>", "")
        dropped = watcher.show(shades(80, 120))
        processor.chat_template = template
        after = watcher.show(shades(160))
    assert valid(before) + valid(dropped) + valid(after) == [True, False, False, True]


def test_numbers_that_are_not_finite_cost_their_scores_and_not_those_of_other_models(
    checkpoint: Path,
) -> None:
    sick, sound = local(checkpoint), local(checkpoint)
    head = sick.judge.network.model.lm_head.weight
    healthy = head.detach().clone()
    with watching({"sick": sick, "sound": sound}, model="sick") as (server, watcher):
        other = Watcher(server, model="sound")
        with torch.no_grad():
            head[0] = float("nan")
        ill = watcher.show(shades(0, 60))
        beside = other.show(shades(0, 60, 120))
        with torch.no_grad():
            head.copy_(healthy)
        well = watcher.show(shades(120))
        other.client.close()
    assert valid(ill) + valid(well) + valid(beside) == [False, False, True, True, True, True]
    assert well[0].progress == pytest.approx(beside[2].progress, abs=1e-4)


def test_a_checkpoint_with_missing_keys_is_named_before_anything_is_served(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "lacking"
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.language_model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    models = json.dumps({"m": f"dopamine:{folder}"})
    assert main(["serve", "--models", models, "--endpoint", "tcp://127.0.0.1:*"]) == 1
    out, err = capsys.readouterr()
    assert "missing_keys" in out + err
    assert "up_proj" in out + err


def test_a_camera_that_drops_out_ends_its_session_and_another_model_is_another_version() -> None:
    """The session is told what is lacking, the model that needs the view refuses, and the smaller model goes on."""
    with remote(lambda body: answer(write_hop(0.5))) as (judge, _):
        two, one = hops(judge, cameras=("front", "wrist")), hops(judge)
        both = {"cameras": ("front", "wrist"), "references": GOAL}
        with watching({"two": two, "one": one}, model="two", **both) as (server, watcher):
            bystander = Watcher(server, model="two", **both)
            before = watcher.show(shades(0, 50, cameras=("front", "wrist")))
            watcher.client.push_frame(watcher.session, 2, shades(100)[0])
            (lost,) = watcher.wait(1)
            assert isinstance(lost, SessionLost)
            assert "does not fit its session" in lost.reason
            assert "wrist" in lost.reason
            watcher.client.open_session(TASK, ("front",), model="two", references=GOAL)
            (refused,) = watcher.wait(1)
            assert isinstance(refused, SessionRefused)
            assert "needs views that will not come: ['wrist']" in refused.reason
            smaller = Watcher(server, model="one", references=GOAL)
            after = smaller.show(shades(0, 50, 100))
            beside = bystander.show(shades(0, 50, cameras=("front", "wrist")))
            smaller.client.close()
            bystander.client.close()
    assert isinstance(smaller.opened, SessionOpened)
    assert smaller.opened.version != watcher.opened.version
    assert {s.version for s in before + beside} == {watcher.opened.version}
    assert {s.version for s in after} == {smaller.opened.version}
    assert valid(before + after + beside) == [True] * 7
