"""Endpoints that speak OpenAI's protocol as one judge: this is how judging outgrows one machine.

Several endpoints are asked in turn; one that fails rests for a while. A question that no endpoint answers in time has
no reply, and where none of them can be reached at all the judge says that it is down.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import xxhash

from roborl.errors import ConfigError
from roborl.rewards.judges.caches import RecentCache
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.judges.endpoint_replies import UNREADABLE, read_reply
from roborl.rewards.judges.picture_sizes import PictureSizes
from roborl.rewards.judges.queries import Cells, Clip, VlmQuery, VlmReply, picture_key
from roborl.rewards.model import JudgeDown
from roborl.types import Image

log = logging.getLogger(__name__)

_MOST_ALTERNATIVES = 20  # what the protocol allows
_KEPT_PICTURES = 256 << 20  # bytes of pictures in the form that is sent
_AGAIN = frozenset((408, 409, 425, 429, 500, 502, 503, 504))


@dataclass(slots=True, eq=False)
class _Endpoint:
    """One address, how many questions it may have at once, and until when it rests."""

    url: str
    seats: threading.Semaphore
    rests_until: float = 0.0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class _Url:
    text: str

    @property
    def nbytes(self) -> int:
        return len(self.text)


class _Unreachable(Exception):
    """No endpoint gave any answer to a question."""


class OpenAiJudge:
    """Answers by asking endpoints, many questions at once. :meth:`answer` is called by one thread.

    What the network there sees of a picture cannot be asked for. Pictures are therefore sent in the size that they shall
    be seen in, whole cells within the limits, which the endpoint's own preprocessing leaves alone unless its limits are
    narrower.

    Args:
        config: Endpoints, limits and deadlines.
        checkpoint: What is served there, as part of the judge's identity; the weights themselves cannot be seen. Where
            it is a folder, its ``config.json`` tells the size of a cell if the settings do not.
        min_pixels: Least pixels of a picture, and per frame of a clip, as it is sent; 0 for no such limit.
        max_pixels: Most pixels of the same.

    Attributes:
        model: Name of the model at the endpoints.
        faults: Failed attempts by reason.

    Raises:
        JudgeDown: If the name of the model is not given and no endpoint tells it.
        ConfigError: If the named variable holds no key.
    """

    def __init__(
        self, config: JudgeConfig, checkpoint: str = "", *, min_pixels: int = 0, max_pixels: int = 0
    ) -> None:
        self._config = config
        self._sizes = PictureSizes(
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            cell_px=config.cell_px or _cell_px_of(checkpoint),
            video=config.clips == "video",
        )
        headers = {}
        if config.key_variable:
            key = os.environ.get(config.key_variable)
            if not key:
                raise ConfigError(
                    "The environment variable with the endpoints' key is empty", seen=config.key_variable
                )
            headers["Authorization"] = f"Bearer {key}"
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per question otherwise
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=config.concurrency)
        self._client = httpx.Client(headers=headers, timeout=config.timeout_s, limits=limits)
        self._endpoints = [
            _Endpoint(url.rstrip("/"), threading.Semaphore(config.concurrency)) for url in config.endpoints
        ]
        self._turn = 0
        self._lock = threading.Lock()
        self._urls: RecentCache[bytes, _Url] = RecentCache(_KEPT_PICTURES)
        self.faults: Counter[str] = Counter()
        self.model = config.served_model or self._only_model()
        self._threads = ThreadPoolExecutor(
            config.concurrency * len(self._endpoints), thread_name_prefix="endpoint"
        )
        known = json.dumps([self.model, checkpoint, config.prefill, asdict(self._sizes)])
        self._identity = f"endpoint-{xxhash.xxh3_128(known.encode()).hexdigest()[:16]}"
        log.warning(
            "what %s sees of pictures cannot be asked for; they are sent %s. Start the endpoints with limits that leave"
            " those as they are: by itself Qwen3-VL enlarges a picture of less than 65,536 pixels",
            self.model,
            self._sizes,
        )

    @property
    def identity(self) -> str:
        """Hash of the model's name, of how it is asked and in what sizes it is sent pictures."""
        return self._identity

    def cells(self, query: VlmQuery) -> tuple[Cells, ...] | None:
        """Return what a network sees that takes pictures in the size they are sent in; None where its cells are unknown."""
        return self._sizes.cells(query)

    def answer(self, queries: Sequence[VlmQuery]) -> list[VlmReply | None]:
        """Return one reply per query; None where no endpoint gave one in time.

        Raises:
            JudgeDown: If no endpoint could be reached for any of them.
        """
        bodies = [self._body(query) for query in queries]
        deadline = time.monotonic() + self._config.deadline_s
        futures = [
            self._threads.submit(self._ask, query, body, deadline)
            for query, body in zip(queries, bodies, strict=True)
        ]
        replies: list[VlmReply | None] = []
        unreachable = 0
        for future in futures:
            try:
                replies.append(future.result())
            except _Unreachable:
                unreachable += 1
                replies.append(None)
        if queries and unreachable == len(queries):
            raise JudgeDown(
                "No endpoint of the judge answers",
                seen=[endpoint.url for endpoint in self._endpoints],
                remedy="Start one, such as: vllm serve MODEL; the judge asks again by itself",
            )
        return replies

    def close(self) -> None:
        """Drop the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _ask(self, query: VlmQuery, body: dict[str, Any], deadline: float) -> VlmReply | None:
        """Ask endpoint after endpoint until one answers, the attempts are used up or the time is."""
        config = self._config
        reached = False
        for attempt in range(config.attempts):
            endpoint = self._next_endpoint()
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not endpoint.seats.acquire(timeout=left_s):
                break
            pause_s = config.backoff_s * 2**attempt
            try:
                began = time.monotonic()
                left_s = max(deadline - began, 1e-3)
                response = self._client.post(
                    f"{endpoint.url}/chat/completions", json=body, timeout=min(config.timeout_s, left_s)
                )
                reached = True
                if response.status_code == httpx.codes.OK:
                    reply = read_reply(
                        query,
                        response.content,
                        prefilled=self._config.prefill,
                        sent=self._sizes.sent(query),
                        took_ms=(time.monotonic() - began) * 1e3,
                    )
                    endpoint.failed = 0
                    return reply
                self._fail(f"status {response.status_code}", endpoint, response.text[:200])
                if response.status_code not in _AGAIN:
                    return None
                pause_s = max(pause_s, _retry_after_s(response))
            except httpx.TimeoutException as error:
                self._fail("timeout", endpoint, error)
            except httpx.HTTPError as error:
                self._fail("unreachable", endpoint, error)
            except UNREADABLE as error:
                self._fail("unreadable", endpoint, error)
            finally:
                endpoint.seats.release()
            self._rest(endpoint, pause_s)
            if attempt + 1 < config.attempts and self._all_rest():
                time.sleep(max(0.0, min(pause_s, deadline - time.monotonic())))
        if not reached:
            raise _Unreachable
        return None

    def _next_endpoint(self) -> _Endpoint:
        """Return the next in turn that does not rest, or the one whose rest ends first."""
        with self._lock:
            now = time.monotonic()
            self._turn += 1
            order = self._endpoints[self._turn % len(self._endpoints) :] + self._endpoints
            awake = [endpoint for endpoint in order if endpoint.rests_until <= now]
            return awake[0] if awake else min(self._endpoints, key=lambda e: e.rests_until)

    def _all_rest(self) -> bool:
        now = time.monotonic()
        return all(endpoint.rests_until > now for endpoint in self._endpoints)

    def _rest(self, endpoint: _Endpoint, pause_s: float) -> None:
        endpoint.rests_until = max(endpoint.rests_until, time.monotonic() + pause_s)

    def _fail(self, fault: str, endpoint: _Endpoint, detail: object) -> None:
        with self._lock:
            self.faults[fault] += 1
            endpoint.failed += 1
            count = self.faults[fault]
        if count.bit_count() == 1:  # the 1st, 2nd, 4th: an endpoint that is away must not fill the log
            log.warning("%s of %s, %d so far: %s", fault, endpoint.url, count, detail)

    def _body(self, query: VlmQuery) -> dict[str, Any]:
        messages: list[dict[str, Any]] = []
        if query.system:
            messages.append({"role": "system", "content": query.system})
        content = [piece for part in query.parts for piece in self._pieces(part)]
        messages.append({"role": "user", "content": content})
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": max(1, query.max_tokens) + self._spare_tokens(query),
            "temperature": query.temperature,
            "seed": query.seed,
        }
        if query.reply_start and self._config.prefill:
            # Endpoints differ in whether they keep spaces at the end, so the network is left to write them.
            messages.append({"role": "assistant", "content": query.reply_start.rstrip()})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if query.stop:
            # What keeps the stop in the text: the first is vLLM's name, the second SGLang's.
            body |= {"stop": list(query.stop), "include_stop_str_in_output": True, "no_stop_trim": True}
        if query.choices or query.alternatives:
            wanted = _MOST_ALTERNATIVES if query.choices else min(query.alternatives, _MOST_ALTERNATIVES)
            body |= {"logprobs": True, "top_logprobs": wanted}
        return body

    def _pieces(self, part: str | Image | Clip) -> list[dict[str, Any]]:
        if isinstance(part, str):
            return [{"type": "text", "text": part}]
        if not isinstance(part, Clip):
            return [self._picture(part)]
        if self._sizes.video:
            frames = ",".join(_encoded(self._sizes.fitted(frame), ".jpg") for frame in part.frames)
            return [{"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}]
        pieces: list[dict[str, Any]] = []
        for stamp_s, frame in zip(part.stamps_s, part.frames, strict=True):
            pieces += [{"type": "text", "text": f"<{stamp_s:.1f} seconds>"}, self._picture(frame)]
        return pieces

    def _picture(self, picture: Image) -> dict[str, Any]:
        key = picture_key(picture)
        url = self._urls.get(key)
        if url is None:
            # Without loss: what the network sees must not depend on how it was sent.
            url = _Url(f"data:image/png;base64,{_encoded(self._sizes.fitted(picture), '.png')}")
            self._urls.put(key, url)
        return {"type": "image_url", "image_url": {"url": url.text}}

    def _spare_tokens(self, query: VlmQuery) -> int:
        """Return how many tokens a reply may need for its start, or for the spaces that its start was relieved of."""
        if not self._config.prefill:
            return len(query.reply_start)  # a token has a character at least
        return int(query.reply_start != query.reply_start.rstrip())

    def _only_model(self) -> str:
        for endpoint in self._endpoints:
            try:
                listed = self._client.get(f"{endpoint.url}/models").raise_for_status().json()["data"]
                names = sorted({str(model["id"]) for model in listed})
            except (httpx.HTTPError, *UNREADABLE) as error:
                self._fail("unreachable", endpoint, error)
                continue
            if len(names) != 1:
                raise ConfigError(
                    "It is not clear which model of an endpoint is meant",
                    seen=names,
                    remedy="Name one: --judge.served_model",
                )
            return names[0]
        raise JudgeDown(
            "No endpoint of the judge tells what it serves",
            seen=[endpoint.url for endpoint in self._endpoints],
            remedy="Start one, or name the model: --judge.served_model",
        )


def _cell_px_of(checkpoint: str) -> int:
    """Return the side of the cells that a checkpoint's network sees pictures in, px; 0 where that is not known."""
    if not checkpoint:
        return 0
    try:
        vision = json.loads((Path(checkpoint) / "config.json").read_text())["vision_config"]
        return int(vision["patch_size"]) * int(vision["spatial_merge_size"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0


def _encoded(picture: Image, form: str) -> str:
    done, data = cv2.imencode(form, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done, "a checked picture can be encoded"
    return base64.b64encode(data.tobytes()).decode()


def _retry_after_s(response: httpx.Response) -> float:
    try:
        return max(0.0, min(float(response.headers.get("retry-after", "0")), 60.0))
    except ValueError:
        return 0.0
