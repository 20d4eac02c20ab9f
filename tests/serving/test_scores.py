"""Scores: by session and frame id, in order or newest first, with credit and a deadline on every wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.clock import FakeClock
from roborl.codec import decode, encode
from roborl.errors import DeadlineExceeded, HandshakeMismatch, WireError
from roborl.serving.client_link import ClientLink
from roborl.serving.handshake import Handshake
from roborl.serving.score_client import ScoreClient
from roborl.serving.score_events import (
    FramePushed,
    Lane,
    Scored,
    ScoreOverdue,
    SessionAsked,
    SessionGone,
    SessionLost,
    SessionOpened,
    SessionRefused,
    score_from_wire,
    score_to_wire,
)
from roborl.serving.scores import ScoreServer
from roborl.types import Score

LOCAL = "tcp://127.0.0.1:*"


def picture(index: int) -> dict[str, np.ndarray]:
    return {name: np.full((8, 8, 3), index % 256, np.uint8) for name in ("front", "wrist")}


class Judge:
    """Scores a frame by its pixels, so that a score of another frame would show."""

    def __init__(self, server: ScoreServer, credits: int = 4) -> None:
        self.server, self.credits = server, credits
        self.asked: list[SessionAsked] = []
        self.seen: list[FramePushed] = []
        self.gone: list[str] = []
        self.held = False

    def turn(self, timeout_s: float = 0.002) -> None:
        for event in self.server.poll(timeout_s):
            match event:
                case SessionAsked():
                    self.asked.append(event)
                    if event.model == "unknown":
                        self.server.refuse(event.session, "there is no such model")
                    else:
                        self.server.accept(event.session, version="v1", credits=self.credits)
                case FramePushed():
                    self.seen.append(event)
                    if not self.held:
                        self.answer(event)
                case SessionGone():
                    self.gone.append(event.session)

    def answer(self, event: FramePushed) -> None:
        if not event.score:
            self.server.take(event.session, event.frame_id)
            return
        value = float(event.images["front"][0, 0, 0]) / 255
        self.server.send_score(
            event.session, Score(frame_id=event.frame_id, progress=value, raw=value, version="v1")
        )


class Client:
    """A score client that keeps what happened."""

    def __init__(self, client: ScoreClient) -> None:
        self.client = client
        self.events: list = []

    def turn(self, timeout_s: float = 0.002) -> None:
        self.events += self.client.poll(timeout_s)

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def judge(opened: Callable[[Any], Any]) -> Judge:
    return Judge(opened(ScoreServer(LOCAL)))


@pytest.fixture
def client(judge: Judge, opened: Callable[[Any], Any]) -> Client:
    return Client(opened(ScoreClient(judge.server.endpoint, name="labeller")))


def label(client: Client, session: str, first: int, last: int, *, score: bool = True) -> Callable[[], None]:
    position = first

    def turn() -> None:
        nonlocal position
        while position < last and client.client.push_frame(session, position, picture(position), score=score):
            position += 1
        client.turn()

    return turn


def test_a_session_is_asked_for_with_all_that_the_model_needs(
    judge: Judge, client: Client, until: Any
) -> None:
    goal = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    session = client.client.open_session(
        "pick the cube", ["front"], model="sarm", lane=Lane.LIVE, references={"goal": goal, "n": 3}
    )
    until(lambda: client.of(SessionOpened), client.turn, judge.turn)
    (asked,) = judge.asked
    assert (asked.task, asked.cameras, asked.model, asked.lane) == (
        "pick the cube",
        ("front",),
        "sarm",
        Lane.LIVE,
    )
    np.testing.assert_array_equal(asked.references["goal"], goal)
    assert asked.references["n"] == 3
    assert client.of(SessionOpened) == [SessionOpened(session=session, version="v1", credits=4)]


def test_a_label_session_scores_every_frame_once_and_in_order(
    judge: Judge, client: Client, until: Any
) -> None:
    session = client.client.open_session("t", ["front", "wrist"])
    until(lambda: len(client.of(Scored)) == 60, label(client, session, 0, 60), judge.turn)
    assert [event.frame_id for event in judge.seen] == list(range(60))
    assert [event.score.frame_id for event in client.of(Scored)] == list(range(60))
    assert [round(event.score.progress * 255) for event in client.of(Scored)] == list(range(60))
    assert all(event.round_trip_ms > 0 for event in client.of(Scored))


def test_credit_holds_a_fast_client_back_and_comes_with_the_scores(
    judge: Judge, client: Client, until: Any
) -> None:
    judge.held = True
    session = client.client.open_session("t", ["front", "wrist"])
    turn = label(client, session, 0, 10)
    until(lambda: len(judge.seen) == 4, turn, judge.turn)
    assert not client.client.push_frame(session, 99, picture(0))
    assert client.client.under_way(session) == [0, 1, 2, 3]
    judge.answer(judge.seen[0])
    until(lambda: len(judge.seen) == 5, turn, judge.turn)
    assert judge.server.statistics()["transport"]["frames_waiting"] == 4


def test_frames_that_want_no_score_reach_the_model_in_order_with_the_others(
    judge: Judge, client: Client, until: Any
) -> None:
    session = client.client.open_session("t", ["front", "wrist"])
    position = 0

    def push() -> None:
        nonlocal position
        while position < 30 and client.client.push_frame(
            session, position, picture(position), score=position % 3 == 0
        ):
            position += 1
        client.turn()

    until(lambda: len(judge.seen) == 30 and len(client.of(Scored)) == 10, push, judge.turn)
    assert [event.frame_id for event in judge.seen] == list(range(30))
    assert [event.score.frame_id for event in client.of(Scored)] == list(range(0, 30, 3))


def test_a_frame_that_wants_no_score_holds_its_credit_until_it_is_taken(
    judge: Judge, client: Client, until: Any
) -> None:
    judge.held = True
    session = client.client.open_session("t", ["front", "wrist"])
    turn = label(client, session, 0, 10, score=False)
    until(lambda: len(judge.seen) == 4, turn, judge.turn)
    assert not client.client.push_frame(session, 4, picture(4), score=False)
    for _ in range(2):
        judge.answer(judge.seen[0])
    until(lambda: len(judge.seen) == 5, turn, judge.turn)
    assert client.client.under_way(session) == [1, 2, 3, 4]
    judge.server.take("gone", 0)


def test_a_live_session_skips_to_the_newest_frame(judge: Judge, client: Client, until: Any) -> None:
    judge.credits = 1
    judge.held = True
    session = client.client.open_session("t", ["front", "wrist"], lane=Lane.LIVE)
    until(lambda: client.of(SessionOpened), client.turn, judge.turn)
    for frame_id in range(20):
        assert client.client.push_frame(session, frame_id, picture(frame_id))
    until(lambda: judge.seen, client.turn, judge.turn)
    judge.held = False
    judge.answer(judge.seen[0])
    until(lambda: len(client.of(Scored)) == 2, client.turn, judge.turn)
    assert [event.score.frame_id for event in client.of(Scored)] == [0, 19]
    assert client.client.skipped == 18


def test_a_live_session_skips_nothing_that_is_only_to_be_seen(
    judge: Judge, client: Client, until: Any
) -> None:
    judge.credits = 1
    session = client.client.open_session("t", ["front", "wrist"], lane=Lane.LIVE)
    assert client.client.push_frame(session, 0, picture(0), score=False)
    for frame_id in (60, 61, 62):
        assert client.client.push_frame(session, frame_id, picture(frame_id))
    until(lambda: client.of(Scored), client.turn, judge.turn)
    assert [(event.frame_id, event.score) for event in judge.seen] == [(0, False), (62, True)]
    assert client.client.skipped == 2


def test_state_travels_with_its_frame(judge: Judge, client: Client, until: Any) -> None:
    session = client.client.open_session("t", ["front", "wrist"])
    until(lambda: client.of(SessionOpened), client.turn, judge.turn)
    client.client.push_frame(session, 0, picture(0), state=np.arange(6, dtype=np.float32))
    until(lambda: judge.seen, client.turn, judge.turn)
    np.testing.assert_array_equal(judge.seen[0].state, np.arange(6))
    assert judge.seen[0].images["wrist"].shape == (8, 8, 3)


def test_a_refusal_gives_the_reason(judge: Judge, client: Client, until: Any) -> None:
    session = client.client.open_session("t", ["front"], model="unknown")
    until(lambda: client.of(SessionRefused), client.turn, judge.turn)
    assert client.events == [SessionRefused(session=session, reason="there is no such model")]
    assert not client.client.push_frame(session, 0, picture(0))


def test_a_session_too_many_is_refused_for_want_of_room(
    judge: Judge, client: Client, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roborl.serving.scores._MAX_SESSIONS", 1)
    client.client.open_session("t", ["front"])
    until(lambda: client.of(SessionOpened), client.turn, judge.turn)
    client.client.open_session("t", ["front"])
    until(lambda: client.of(SessionRefused), client.turn, judge.turn)
    assert client.of(SessionRefused)[0].full


def test_a_frame_that_does_not_fit_ends_its_session_with_the_reason(
    judge: Judge, client: Client, until: Any
) -> None:
    session = client.client.open_session("t", ["front"])
    until(lambda: client.of(SessionOpened), client.turn, judge.turn)
    assert client.client.push_frame(session, 0, picture(0))  # front and wrist
    until(lambda: client.of(SessionLost), client.turn, judge.turn)
    assert "wrist" in client.of(SessionLost)[0].reason
    until(lambda: judge.gone, judge.turn)


def test_after_a_restart_of_the_server_the_session_is_rebuilt_by_pushing_again(
    judge: Judge, client: Client, until: Any, opened: Callable[[Any], Any]
) -> None:
    session = client.client.open_session("t", ["front", "wrist"])
    until(lambda: len(client.of(Scored)) == 10, label(client, session, 0, 10), judge.turn)
    before = [event.score.progress for event in client.of(Scored)]
    judge.server.close()
    until(lambda: not client.client.alive, client.turn)
    again = Judge(opened(ScoreServer(judge.server.endpoint)))
    until(lambda: client.of(SessionLost), client.turn, again.turn)
    assert client.of(SessionLost)[0].session == session
    client.events.clear()
    session = client.client.open_session("t", ["front", "wrist"])
    until(lambda: len(client.of(Scored)) == 20, label(client, session, 0, 20), again.turn)
    assert [event.score.progress for event in client.of(Scored)][:10] == before


def test_a_session_asked_for_while_the_server_is_away_opens_when_it_comes(
    judge: Judge, client: Client, until: Any, opened: Callable[[Any], Any]
) -> None:
    judge.server.close()
    session = client.client.open_session("t", ["front", "wrist"])
    assert not client.client.push_frame(session, 0, picture(0))
    client.turn(0.1)
    again = Judge(opened(ScoreServer(judge.server.endpoint)))
    until(lambda: client.of(SessionOpened), client.turn, again.turn)


def test_the_server_may_drop_a_session(judge: Judge, client: Client, until: Any) -> None:
    client.client.open_session("t", ["front", "wrist"])
    until(lambda: client.of(SessionOpened), client.turn, judge.turn)
    judge.server.drop(judge.asked[0].session, "memory is short")
    until(lambda: client.of(SessionLost), client.turn, judge.turn)
    assert client.of(SessionLost)[0].reason == "memory is short"


def test_a_closed_session_is_gone_at_the_server(judge: Judge, client: Client, until: Any) -> None:
    session = client.client.open_session("t", ["front", "wrist"])
    until(lambda: client.of(SessionOpened), client.turn, judge.turn)
    client.client.close_session(session)
    until(lambda: judge.gone == [judge.asked[0].session], client.turn, judge.turn)
    assert not judge.server.send_score(judge.gone[0], Score(frame_id=0, progress=0, raw=0))


def test_sessions_of_several_clients_do_not_mix(
    judge: Judge, client: Client, until: Any, opened: Callable[[Any], Any]
) -> None:
    other = Client(opened(ScoreClient(judge.server.endpoint, name="other")))
    a, b = (each.client.open_session("t", ["front", "wrist"]) for each in (client, other))
    assert a == b
    until(
        lambda: len(client.of(Scored)) == 10 and len(other.of(Scored)) == 10,
        label(client, a, 0, 10),
        label(other, b, 100, 110),
        judge.turn,
    )
    assert [event.score.frame_id for event in other.of(Scored)] == list(range(100, 110))
    assert len({event.session for event in judge.seen}) == 2


def test_a_score_that_does_not_come_is_reported_once_and_may_still_come(
    judge: Judge, opened: Callable[[Any], Any], until: Any
) -> None:
    clock = FakeClock()
    client = Client(opened(ScoreClient(judge.server.endpoint, name="c", deadline_s=5.0, clock=clock)))
    judge.held = True

    def turn() -> None:
        clock.advance(0.01)
        client.turn(0.0)

    session = client.client.open_session("t", ["front", "wrist"])
    until(lambda: client.of(SessionOpened), turn, judge.turn)
    client.client.push_frame(session, 7, picture(7))
    until(lambda: judge.seen, turn, judge.turn)
    assert not client.of(ScoreOverdue)
    clock.advance(5.0)
    for _ in range(5):
        turn()
    assert client.of(ScoreOverdue) == [ScoreOverdue(session=session, frame_id=7)]
    judge.answer(judge.seen[0])
    until(lambda: client.of(Scored), turn, judge.turn)


def test_statistics_are_those_of_the_owner_and_of_the_transport(
    judge: Judge, client: Client, until: Any
) -> None:
    judge.server.set_statistics({"queries_per_s": 12.5, "queue": 3})
    client.client.open_session("t", ["front"])
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            judge.turn()

    server = threading.Thread(target=serve)
    server.start()
    try:
        until(lambda: client.client.connected, client.turn)
        statistics = client.client.statistics(5.0)
    finally:
        done.set()
        server.join()
    assert (statistics["queries_per_s"], statistics["queue"]) == (12.5, 3)
    assert statistics["transport"]["sessions"] == 1
    until(lambda: client.of(SessionOpened), client.turn)  # kept while the answer was waited for


def test_waits_for_a_server_that_is_away_end(judge: Judge, client: Client) -> None:
    judge.server.close()
    for wait in (client.client.statistics, client.client.wait_connected):
        begun_s = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="scores server"):
            wait(0.2)
        assert time.monotonic() - begun_s < 5.0


def test_a_wait_that_ended_leaves_the_client_as_good_as_before(
    judge: Judge, client: Client, until: Any
) -> None:
    with pytest.raises(DeadlineExceeded):
        client.client.statistics(0.05)
    session = client.client.open_session("t", ["front", "wrist"])
    until(lambda: len(client.of(Scored)) == 5, label(client, session, 0, 5), judge.turn)


def test_peers_that_do_not_fit_are_told_on_both_ends(opened: Callable[[Any], Any], until: Any) -> None:
    server = opened(ScoreServer(LOCAL, handshake=Handshake(version="v1")))
    client = opened(ScoreClient(server.endpoint, name="c", handshake=Handshake(version="v2")))
    with pytest.raises(HandshakeMismatch, match=r"version.*'v1'.*'v2'"):
        until(lambda: False, lambda: client.poll(0.01), lambda: server.poll(0.01))
    assert "'v2'" in str(server.refusals[-1])


def test_a_client_of_another_link_is_told_so(opened: Callable[[Any], Any], until: Any) -> None:
    server = opened(ScoreServer(LOCAL))
    client = opened(ClientLink(server.endpoint, link="steps", name="c", handshake=Handshake()))
    with pytest.raises(HandshakeMismatch, match=r"link.*'scores'.*'steps'"):
        until(lambda: False, lambda: client.receive(0.01), lambda: server.poll(0.01))


def test_a_client_that_ignores_its_credit_is_refused(opened: Callable[[Any], Any], until: Any) -> None:
    judge = Judge(opened(ScoreServer(LOCAL)), credits=2)
    judge.held = True
    link = opened(ClientLink(judge.server.endpoint, link="scores", name="c", handshake=Handshake()))
    kinds: list[str] = []

    def turn() -> None:
        kinds.extend(message.kind for message in link.receive(0.005))

    until(lambda: link.up, turn, judge.turn)
    link.send(
        "open", session="s", task="t", cameras=["front", "wrist"], model="", lane="label", references={}
    )
    until(lambda: "opened" in kinds, turn, judge.turn)
    for frame_id in range(3):
        frame = {"images": picture(0), "state": np.empty(0, np.float32), "score": True}
        link.send("frame", session="s", frame_id=frame_id, **frame)
    until(lambda: "unknown" in kinds and judge.gone, turn, judge.turn)
    assert len(judge.seen) == 2


def test_an_answer_to_a_frame_that_waits_for_none_is_our_own_fault(
    judge: Judge, client: Client, until: Any
) -> None:
    client.client.open_session("t", ["front", "wrist"])
    until(lambda: client.of(SessionOpened), client.turn, judge.turn)
    with pytest.raises(WireError, match="does not wait"):
        judge.server.send_score(judge.asked[0].session, Score(frame_id=3, progress=0, raw=0))


unit = st.floats(0, 1)
scores = st.builds(
    Score,
    frame_id=st.integers(0, 2**40),
    progress=unit,
    raw=st.floats(-1e6, 1e6),
    spread=unit,
    done=st.none() | st.booleans(),
    stage=st.integers(-1, 9),
    valid=st.booleans(),
    version=st.text(max_size=5),
    reply=st.text(max_size=5),
    timings_ms=st.dictionaries(st.text(max_size=5), unit, max_size=2),
)


@given(scores)
def test_a_score_survives_the_wire(score: Score) -> None:
    wire = decode(encode({"score": score_to_wire(score)}))["score"]
    back = score_from_wire(wire)
    assert all(getattr(back, field.name) == getattr(score, field.name) for field in fields(Score))


def show_one(judge: Judge, client: Client, until: Any) -> str:
    """Have the judge see one frame, and hold its score back; return the name that the server knows the session by."""
    judge.held = True
    session = client.client.open_session("t", ["front", "wrist"])
    until(lambda: client.of(SessionOpened), judge.turn, client.turn)
    client.client.push_frame(session, 0, picture(0))
    until(lambda: judge.seen, judge.turn, client.turn)
    return str(judge.seen[0].session)


@pytest.mark.parametrize("reply", ["done \ud83d", "x" * 3_000_000], ids=["half a character", "long"])
def test_an_odd_reply_costs_its_own_words_at_most(
    judge: Judge, client: Client, until: Any, reply: str
) -> None:
    judge.server.send_score(
        show_one(judge, client, until), Score(frame_id=0, progress=0.5, raw=0.5, reply=reply)
    )
    until(lambda: client.of(Scored), judge.turn, client.turn)
    said = client.of(Scored)[0].score.reply
    assert said[:5] == reply[:5]
    assert len(said) < 100_000


def test_a_message_that_cannot_be_written_costs_its_session_and_never_the_server(
    judge: Judge, client: Client, until: Any
) -> None:
    judge.server.send_score(
        show_one(judge, client, until), Score(frame_id=0, progress=0.5, raw=0.5, version="\ud83d")
    )
    until(lambda: client.of(SessionLost), judge.turn, client.turn)
    assert "cannot be sent" in client.of(SessionLost)[0].reason
    assert judge.gone == [judge.seen[0].session]
    assert judge.server.statistics()["transport"]["unsendable"] == 1
    judge.held = False
    again = client.client.open_session("t", ["front", "wrist"])
    until(lambda: len(client.of(SessionOpened)) == 2, judge.turn, client.turn)
    client.client.push_frame(again, 0, picture(9))
    until(lambda: client.of(Scored), judge.turn, client.turn)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("progress", 1.5),
        ("progress", float("nan")),
        ("progress", None),
        ("raw", float("inf")),
        ("spread", -0.1),
        ("spread", 1e39),
        ("frame_id", -1),
        ("frame_id", True),
        ("done", 1),
        ("stage", 1.0),
        ("valid", 1),
        ("reply", b""),
        ("timings_ms", []),
        ("timings_ms", {"a": "b"}),
        ("more", 1),
    ],
)
def test_a_malformed_score_is_a_wire_error(field: str, value: object) -> None:
    with pytest.raises(WireError):
        score_from_wire(score_to_wire(Score(frame_id=0, progress=0.5, raw=0.5)) | {field: value})


def test_a_reply_that_could_not_be_read_stays_invalid() -> None:
    missing = Score(frame_id=3, progress=float("nan"), raw=float("nan"), valid=False, reply="I cannot say")
    assert not score_from_wire(score_to_wire(missing)).valid
