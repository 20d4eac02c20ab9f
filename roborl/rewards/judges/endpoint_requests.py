"""From a question to the body of a request: words, pictures, clips, and how the reply is to be sampled."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2

from roborl.errors import ShapeError
from roborl.rewards.judges.caches import RecentCache
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.judges.picture_sizes import PictureSizes
from roborl.rewards.judges.queries import Clip, VlmQuery, picture_key
from roborl.types import Image

log = logging.getLogger(__name__)

_MOST_ALTERNATIVES = 20  # what the protocol allows
_KEPT_PICTURES = 256 << 20  # bytes of pictures in the form that is sent

# An endpoint fills what a request leaves open from the checkpoint's generation_config.json. That of Qwen2.5-VL has a
# repetition penalty, which changes even the likeliest token, by the words of the question.
_NEUTRAL = {"top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_NEUTRAL_EXTENSIONS = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


@dataclass(frozen=True, slots=True)
class _Url:
    text: str

    @property
    def nbytes(self) -> int:
        return len(self.text)


class RequestWriter:
    """Writes questions as requests. Used by one thread.

    Args:
        config: What the endpoints understand.
        sizes: In what size pictures are sent.
    """

    def __init__(self, config: JudgeConfig, sizes: PictureSizes) -> None:
        self._config = config
        self._sizes = sizes
        self._urls: RecentCache[bytes, _Url] = RecentCache(_KEPT_PICTURES)
        self._warned = False

    def body(self, query: VlmQuery, model: str) -> dict[str, Any]:
        """Return the body of a request.

        Args:
            query: The question.
            model: Name of the model at the endpoint.

        Raises:
            ShapeError: If it has several clips of different instants, and clips are shown as videos.
        """
        messages: list[dict[str, Any]] = []
        if query.system:
            messages.append({"role": "system", "content": query.system})
        content = [piece for part in query.parts for piece in self._pieces(part)]
        messages.append({"role": "user", "content": content})
        body: dict[str, Any] = {
            "model": model,
            "messages": messages,
            "max_tokens": max(1, query.max_tokens) + self._spare_tokens(query),
            "temperature": query.temperature,
            "seed": query.seed,
            **_NEUTRAL,
        }
        if query.choices or query.alternatives:
            wanted = _MOST_ALTERNATIVES if query.choices else min(query.alternatives, _MOST_ALTERNATIVES)
            body |= {"logprobs": True, "top_logprobs": wanted}
        if self._config.extensions:
            body |= _NEUTRAL_EXTENSIONS
            self._extend(body, query)
        return body

    def _extend(self, body: dict[str, Any], query: VlmQuery) -> None:
        """Add what vLLM and SGLang know beyond OpenAI's protocol."""
        if query.reply_start and self._config.prefills:
            # Endpoints differ in whether they keep spaces at the end, so the network is left to write them.
            body["messages"].append({"role": "assistant", "content": query.reply_start.rstrip()})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if query.stop:
            # In OpenAI's protocol alone the stop is left out of the text and not named: such a reply ends by itself, or is
            # cut here. What keeps it in the text: the first is vLLM's name, the second SGLang's.
            body["stop"] = list(query.stop)
            body |= {"include_stop_str_in_output": True, "no_stop_trim": True}
        clips = [part for part in query.parts if isinstance(part, Clip)]
        processing: dict[str, bool] = {}
        if query.pictures and self._sizes.whole_cells:
            processing["do_resize"] = False
        if clips and self._config.shows_videos:
            processing["do_sample_frames"] = False
            body["media_io_kwargs"] = {"video": _times(clips)}
        if processing:
            body["mm_processor_kwargs"] = processing

    def _pieces(self, part: str | Image | Clip) -> Iterator[dict[str, Any]]:
        if isinstance(part, str):
            yield {"type": "text", "text": part}
        elif not isinstance(part, Clip):
            yield self._picture(part)
        elif self._config.shows_videos:
            frames = ",".join(_encoded(self._sizes.fitted(frame), ".jpg") for frame in part.frames)
            yield {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}
        else:
            self._warn()
            for stamp_s, frame in zip(part.stamps_s, part.frames, strict=True):
                yield {"type": "text", "text": f"<{stamp_s:.1f} seconds>"}
                yield self._picture(frame)

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
        if not self._config.prefills:
            return len(query.reply_start)  # a token has a character at least
        return int(query.reply_start != query.reply_start.rstrip())

    def _warn(self) -> None:
        if not self._warned:
            log.warning(
                "clips go to the endpoints as single pictures: a network that was trained on videos, such as RoboReward,"
                " then sees twice the visual tokens that it learnt from. vLLM can show it videos: judge.clips: video in the model's settings"
            )
        self._warned = True


def _times(clips: Sequence[Clip]) -> dict[str, Any]:
    """Return what tells vLLM when the frames of a clip were taken: as if they were some of a video with one frame per ms.

    Raises:
        ShapeError: If there are clips of different instants, since a request has one such list.
    """
    stamps, *others = {clip.stamps_s for clip in clips}
    if others:
        raise ShapeError(
            "An endpoint cannot be told the instants of several clips in one question",
            seen=[stamps, *others],
            allowed="one clip, or clips of the same instants",
            remedy="Show them as pictures: judge.clips: pictures in the model's settings",
        )
    indices = [round(1e3 * stamp_s) for stamp_s in stamps]
    # Qwen2.5-VL takes the number of frames over that of the whole video for its rate.
    span = round((indices[-1] - indices[0]) * len(indices) / max(1, len(indices) - 1))
    return {
        "fps": 1000.0,
        "frames_indices": indices,
        "num_frames": len(indices),
        "total_num_frames": max(span, indices[-1] + 1, len(indices)),
    }


def _encoded(picture: Image, form: str) -> str:
    done, data = cv2.imencode(form, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done, "a checked picture can be encoded"
    return base64.b64encode(data.tobytes()).decode()
