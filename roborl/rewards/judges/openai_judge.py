"""Endpoints that speak OpenAI's protocol as one judge: this is how judging outgrows one machine.

Several endpoints are asked in turn; one that fails rests for a while. A question that no endpoint answers in time has
no reply, and where none of them can be reached at all the judge says that it is down. One that goes away, or breaks, in
the middle of a batch is no different: what it did not take is asked again, and not passed off as unanswered. A
question's time begins as it is sent, so what stands before it in a queue costs it nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import httpx
import xxhash

from roborl.errors import ConfigError
from roborl.rewards.judges.checkpoints import cell_px_of, checkpoint_key, copy_here
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.judges.endpoint_grid import misseen_tokens
from roborl.rewards.judges.endpoint_replies import LARGEST, UNREADABLE, read_reply
from roborl.rewards.judges.endpoint_requests import RequestWriter
from roborl.rewards.judges.picture_sizes import PictureSizes
from roborl.rewards.judges.queries import Cells, Refused, VlmQuery, VlmReply
from roborl.rewards.model import JudgeDown, JudgeSilent

log = logging.getLogger(__name__)

_REFUSED = frozenset((400, 413, 422))
_NOBODY = frozenset((502, 503))  # what a proxy says while there is nobody behind it


@dataclass(slots=True, eq=False)
class _Endpoint:
    """One address, how many questions it may have at once, and until when it rests."""

    url: str
    seats: threading.Semaphore
    rests_until: float = 0.0
    said: str = ""


class _NotTaken(JudgeSilent):
    """No endpoint had a seat for a question in time: nothing is known of it."""


class OpenAiJudge:
    """Answers by asking endpoints, many questions at once. :meth:`answer` is called by one thread.

    Pictures are sent in the size that they shall be seen in, whole cells within the limits, and endpoints are asked to
    leave it alone. Not all of them do: whether they count as many visual tokens is looked at once, at the start.

    Args:
        config: Endpoints, limits and deadlines.
        checkpoint: What is served there, a folder or a name on the hub, as part of the judge's identity; the weights at
            the endpoints cannot be seen. Where its files are here, they tell the size of a cell if the settings do not.
        min_pixels: Least pixels of a picture, and per frame of a clip, as it is sent; 0 for no such limit.
        max_pixels: Most pixels of the same.

    Attributes:
        model: Name of the model at the endpoints.
        at_once: Questions that are under way at most; further ones queue.
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
            cell_px=config.cell_px or cell_px_of(copy_here(checkpoint)),
            video=config.shows_videos,
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
        self._writer = RequestWriter(config, self._sizes)
        self.faults: Counter[str] = Counter()
        self.model = config.served_model or self._only_model()
        self.at_once = config.concurrency * len(self._endpoints)
        self._threads = ThreadPoolExecutor(self.at_once, thread_name_prefix="endpoint")
        asked = [config.prefills, config.extensions, asdict(self._sizes)]
        known = json.dumps([self.model, checkpoint_key(checkpoint), *asked])
        self._identity = f"endpoint-{xxhash.xxh3_128(known.encode()).hexdigest()[:16]}"
        self._cells_known = self._sizes.whole_cells and self._sees_what_is_sent()
        if not self._sizes.whole_cells:
            log.warning(
                "what %s sees of pictures is not known; they are sent %s. By itself Qwen3-VL enlarges a picture of less"
                " than 65,536 pixels",
                self.model,
                self._sizes,
            )

    @property
    def identity(self) -> str:
        """Hash of the model's name, of how it is asked and in what sizes it is sent pictures."""
        return self._identity

    def cells(self, query: VlmQuery) -> tuple[Cells, ...] | None:
        """Return what a network sees that takes pictures in the size they are sent in; None where it is known not to."""
        return self._sizes.cells(query) if self._cells_known else None

    def answer(self, queries: Sequence[VlmQuery]) -> list[VlmReply | None]:
        """Return one reply per query; None where no endpoint gave one in time, though they answered others then.

        Raises:
            JudgeDown: If no endpoint could be reached for any of them, or for the last of them: all may be asked again.
            JudgeSilent: If endpoints were reached, and gave no reply to any of them, or to none of the last of them.
            ShapeError: If a question has several clips of different instants, and clips are shown as videos.
        """
        deadline = time.monotonic() + self._config.deadline_s * math.ceil(len(queries) / self.at_once)
        replies: list[VlmReply | None] = [None] * len(queries)
        left = list(range(len(queries)))
        witness: int | None = None
        while left:
            away: dict[int, JudgeDown] = {}
            futures = [(place, self.submit(queries[place])) for place in left]
            for place, future in futures:
                try:
                    replies[place] = future.result()
                except Refused:
                    pass  # Asked again, it would be refused again.
                except JudgeDown as error:
                    away[place] = error
                    continue
                witness = place
            lost = [p for p, error in away.items() if isinstance(error, _NotTaken) or not _silent(error)]
            if witness is None or (lost and (lost == left or time.monotonic() >= deadline)):
                raise away[lost[0]] if lost else next(iter(away.values()))
            if len(lost) < len(away):
                self._check_there(queries[witness])
            left = lost
        return replies

    def submit(self, query: VlmQuery) -> Future[VlmReply | None]:
        """Ask one question without waiting; called by one thread, as :meth:`answer` is.

        Returns:
            The reply to come: None where no endpoint gave one in time, JudgeDown where none could be reached, JudgeSilent where
            none that was reached said anything, Refused where one says that the question itself cannot be answered.

        Raises:
            ShapeError: As :meth:`answer`.
        """
        return self._threads.submit(
            self._ask, query, self._writer.body(query, self.model), self._config.attempts
        )

    def close(self) -> None:
        """Drop the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _check_there(self, witness: VlmQuery) -> None:
        """See whether what went unanswered is the questions' fault: ask one that was answered again.

        Raises:
            JudgeDown: If that has no answer either; JudgeSilent where an endpoint is reached.
        """
        with contextlib.suppress(Refused):
            self._ask(witness, self._writer.body(witness, self.model), len(self._endpoints))

    def _ask(self, query: VlmQuery, body: dict[str, Any], attempts: int) -> VlmReply | None:
        """Ask endpoint after endpoint until one answers, the attempts are used up or the time is."""
        config = self._config
        deadline = time.monotonic() + config.deadline_s
        reached, connected, taken, garbled = False, True, False, False
        for attempt in range(attempts):
            endpoint = self._next_endpoint()
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            if not endpoint.seats.acquire(timeout=left_s):
                connected = True  # others sit there
                break
            taken = True
            pause_s = config.backoff_s * 2**attempt
            try:
                began = time.monotonic()
                response = self._post(endpoint, body, min(config.timeout_s, max(deadline - began, 1e-3)))
                nobody = response.status_code in _NOBODY
                reached, connected = reached or not nobody, not nobody
                if response.status_code == httpx.codes.OK:
                    return read_reply(
                        query,
                        response.content,
                        prefilled=config.prefills,
                        sent=self._sizes.sent(query),
                        took_ms=(time.monotonic() - began) * 1e3,
                    )
                self._fail(f"status {response.status_code}", endpoint, self._refusal(response))
                if response.status_code in _REFUSED:
                    raise Refused(
                        "An endpoint refuses a question", seen=f"{endpoint.url}: {self._refusal(response)}"
                    )
                pause_s = max(pause_s, _retry_after_s(response))
            except httpx.TimeoutException as error:
                connected = not isinstance(error, httpx.ConnectTimeout)
                self._fail("timeout", endpoint, error)
            except httpx.HTTPError as error:
                connected = not isinstance(error, httpx.ConnectError)
                self._fail("unreachable", endpoint, error)
            except UNREADABLE as error:
                garbled = True
                self._fail("unreadable", endpoint, error)
            finally:
                endpoint.seats.release()
            self._rest(endpoint, pause_s)
            if attempt + 1 < attempts and self._all_rest():
                time.sleep(max(0.0, min(pause_s, deadline - time.monotonic())))
        if garbled:
            return None
        urls = [endpoint.url for endpoint in self._endpoints]
        if not connected:
            raise JudgeDown(
                "No endpoint of the judge answers",
                seen=urls,
                remedy="Start one, such as: vllm serve MODEL; the judge asks again by itself",
            )
        if reached:
            raise JudgeSilent(
                "No endpoint of the judge gives an answer",
                seen={endpoint.url: endpoint.said for endpoint in self._endpoints},
                remedy="See its log; for 401 or 403 set judge.key_variable, for 404 judge.served_model",
            )
        raise (JudgeSilent if taken else _NotTaken)(
            "No endpoint of the judge answers in time",
            seen=urls,
            allowed=f"{config.deadline_s:g} s",
            remedy="See what it is busy with, or set judge.deadline_s and judge.timeout_s in the model's settings to what it"
            " needs, and --judge_deadline_s of roborl serve to at least twice judge.deadline_s",
        )

    def _post(self, endpoint: _Endpoint, body: dict[str, Any], timeout_s: float) -> httpx.Response:
        """Put a question to an endpoint and return its whole answer.

        Raises:
            httpx.HTTPError: If it cannot be reached, or is not done in time: one that sends a byte now and then is not.
            ValueError: If it sends too much.
        """
        until = time.monotonic() + timeout_s
        url = f"{endpoint.url}/chat/completions"
        with self._client.stream("POST", url, json=body, timeout=timeout_s) as coming:
            content = bytearray()
            for part in coming.iter_bytes():
                content += part
                if len(content) > LARGEST:
                    raise ValueError(f"a reply of more than {LARGEST} bytes")
                if time.monotonic() > until:
                    raise httpx.ReadTimeout(f"not done after {timeout_s:.1f} s")
        headers = {name: value for name, value in coming.headers.items() if name == "retry-after"}
        return httpx.Response(coming.status_code, headers=headers, content=bytes(content))

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
            endpoint.said = f"{fault}: {detail}"[:200]
            count = self.faults[fault]
        if count.bit_count() == 1:  # the 1st, 2nd, 4th: an endpoint that is away must not fill the log
            log.warning("%s of %s, %d so far: %s", fault, endpoint.url, count, detail)

    def _refusal(self, response: httpx.Response) -> str:
        """Return what an endpoint says of its failure, with what helps against a field or form that it does not know."""
        said = response.text[:200]
        if response.status_code in _REFUSED and self._config.extensions:
            said += "; against a field of the request, set judge.extensions: false in the model's settings, against a video, judge.clips: pictures"
        return said

    def _sees_what_is_sent(self) -> bool:
        """Return whether no endpoint is found to see pictures in another size; say so of those that are or cannot be asked."""
        agreed = True
        for endpoint in self._endpoints:
            try:
                wrong = misseen_tokens(self._sizes, partial(self._length, endpoint.url))
            except (httpx.HTTPError, *UNREADABLE) as error:
                log.warning(
                    "whether %s sees pictures as they are sent, %s, is not known: %s",
                    endpoint.url,
                    self._sizes,
                    error,
                )
                continue
            if wrong:
                agreed = False
                log.warning(
                    "%s sees pictures in another size than they are sent in, %s: it counts %+d visual tokens between a"
                    " large and a small one. Its scores will differ. Give the processor that it serves these limits, as"
                    " size in its preprocessor_config.json, or check judge.cell_px",
                    endpoint.url,
                    self._sizes,
                    wrong,
                )
        return agreed

    def _length(self, url: str, query: VlmQuery) -> int:
        """Return how many tokens an endpoint counts in a question."""
        body = self._writer.body(query, self.model)
        response = self._client.post(f"{url}/chat/completions", json=body)
        if response.status_code != httpx.codes.OK:
            raise ValueError(f"status {response.status_code}: {self._refusal(response)}")
        length = int(response.json()["usage"]["prompt_tokens"])
        if not length:
            raise ValueError("it does not tell the length of a question")
        return length

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
                    remedy="Name one as judge.served_model in the model's settings",
                )
            return names[0]
        raise JudgeDown(
            "No endpoint of the judge tells what it serves",
            seen=[endpoint.url for endpoint in self._endpoints],
            remedy="Start one, or name the model as judge.served_model in the model's settings",
        )


def _silent(error: JudgeDown) -> bool:
    return isinstance(error, JudgeSilent)


def _retry_after_s(response: httpx.Response) -> float:
    try:
        return max(0.0, min(float(response.headers.get("retry-after", "0")), 60.0))
    except ValueError:
        return 0.0
