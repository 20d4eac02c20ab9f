"""An endpoint that speaks OpenAI's protocol on this machine, and says, refuses or dawdles as a test tells it."""

from __future__ import annotations

import base64
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

from roborl.rewards.judges.picture_sizes import fitting_size
from roborl.types import Image

_WORDS_AND_MARKS = 12  # tokens of every question beside those of its pictures

type Answer = tuple[int, object]
"""Status and body of an answer; bytes are sent as they are, all else as JSON."""


def pictures_of(body: Mapping[str, Any]) -> list[Image]:
    """Return the pictures of a request in order, the frames of videos among them, uint8 (h, w, 3) each."""
    found: list[Image] = []
    for part in next(m for m in body["messages"] if m["role"] == "user")["content"]:
        if part["type"] in ("image_url", "video_url"):
            _, *encoded = part[part["type"]]["url"].split(",")
            found += map(_decoded, encoded)
    return found


def place(token: str, chances: Mapping[str, float]) -> dict[str, object]:
    """Return one token of an answer with the probabilities of what might have stood there."""
    others = [{"token": other, "logprob": math.log(p)} for other, p in chances.items()]
    return {"token": token, "logprob": math.log(chances.get(token, 1.0)), "top_logprobs": others}


def answer(
    text: str,
    *,
    chances: Mapping[str, float] | None = None,
    finish: str = "stop",
    before: Sequence[Mapping[str, object]] = (),
) -> Answer:
    """Return a good answer.

    Args:
        text: What the network writes.
        chances: Probabilities at its first token; None for an endpoint that does not tell them.
        finish: Why it ended.
        before: Tokens that come first, see :func:`place`.
    """
    content = [*before, place(text.strip()[:1] or "?", chances or {})]
    return 200, {
        "choices": [
            {
                "message": {"role": "assistant", "content": text},
                "finish_reason": finish,
                "logprobs": {"content": content} if chances else None,
            }
        ],
        "usage": {"prompt_tokens": 77, "prompt_tokens_details": {"cached_tokens": 40}},
    }


def by_brightness(body: Mapping[str, Any]) -> Answer:
    """Answer as a network would that scores the last picture from 1 to 5 by its brightness."""
    level = 1 + round(4 * float(pictures_of(body)[-1].mean()) / 255)
    chances = {str(k): 0.9 if k == level else 0.02 for k in range(1, 6)} | {"so": 0.02}
    return answer(f" {level}", chances=chances)


def trimming(
    say: Callable[[dict[str, Any]], Answer], *, kept_by: str = "", reason: str = "matched_stop"
) -> Callable[[dict[str, Any]], Answer]:
    """Return an endpoint's answers cut at the first stop, as SGLang gives them, and vLLM unless told otherwise.

    Args:
        say: Gives the whole answers.
        kept_by: Field of a request that keeps the stop in the text; empty where none does.
        reason: Field of an answer that names the stop; empty for an endpoint that does not tell.
    """

    def cut(body: dict[str, Any]) -> Answer:
        status, said = say(body)
        assert isinstance(said, dict), "only good answers can be cut"
        for choice in said["choices"]:
            message = choice["message"]
            found = [(message["content"].find(stop), stop) for stop in body.get("stop", ())]
            at, stop = min(((at, stop) for at, stop in found if at >= 0), default=(-1, ""))
            if stop:
                end = at + len(stop) if body.get(kept_by) else at
                message["content"] = message["content"][:end]
                choice |= {"finish_reason": "stop"} | ({reason: stop} if reason else {})
        return status, said

    return cut


def counting(
    say: Callable[[dict[str, Any]], Answer], *, cell_px: int, min_pixels: int = 0, obeys: bool = True
) -> Callable[[dict[str, Any]], Answer]:
    """Return an endpoint's answers with the length of each question, as one with a Qwen network tells it.

    Args:
        say: Gives the answers.
        cell_px: Side of the square that one visual token covers, px.
        min_pixels: Least pixels of a picture by the endpoint's own settings.
        obeys: Whether it leaves pictures in their size where a request says so, as vLLM does and SGLang does not.
    """

    def count(body: dict[str, Any]) -> Answer:
        status, said = say(body)
        assert isinstance(said, dict), "only good answers have a length"
        keeps = obeys and body.get("mm_processor_kwargs", {}).get("do_resize") is False
        tokens = _WORDS_AND_MARKS
        for picture in pictures_of(body):
            height, width, _ = picture.shape
            if not keeps:
                height, width = fitting_size(height, width, min_pixels=min_pixels, cell_px=cell_px)
            tokens += height // cell_px * (width // cell_px) + 2
        return status, said | {"usage": {"prompt_tokens": tokens}}

    return count


class StubEndpoint:
    """Listens until it is closed.

    Args:
        say: Takes the body of a request and returns the answer to it; may block.
        port: Where; 0 for a free one.

    Attributes:
        asked: Bodies of the requests so far.
        headers: Their headers.
        most: Most requests that were under way at once.
        models: Names of the models it says it serves.
    """

    def __init__(self, say: Callable[[dict[str, Any]], Answer], port: int = 0) -> None:
        self.say = say
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most = self._under_way = 0
        self.models = ["toy"]
        lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def send(self, status: int, answered: object) -> None:
                data = answered if isinstance(answered, bytes) else json.dumps(answered).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                self.send(200, {"data": [{"id": name} for name in stub.models]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    stub.asked.append(body)
                    stub.headers.append(dict(self.headers))
                    stub._under_way += 1
                    stub.most = max(stub.most, stub._under_way)
                try:
                    answered = stub.say(body)
                finally:
                    # Before the answer is out: with it the client may ask the next question.
                    with lock:
                        stub._under_way -= 1
                self.send(*answered)

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that has gone is no news."""

        self.server = Server(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """What a judge is told."""
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self) -> None:
        """Be away from now on."""
        self.server.shutdown()
        self.server.server_close()


def _decoded(encoded: str) -> Image:
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None, "a judge sends pictures that can be decoded"
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
