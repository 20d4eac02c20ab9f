"""Pictures on their way to LeRobot's own ZeroMQ cameras, as from a computer that has the cameras plugged in."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Self

import numpy as np
import zmq
from lerobot.cameras.zmq.image_server import encode_image

from roborl.types import Image

_HERE = "127.0.0.1"
_UNSENT = 2
# Levels of grey that a picture strays by: no camera takes the same picture twice, and one that does is frozen.
_NOISE = 3


class PicturePost:
    """Publishes the newest picture of each camera; a reader that is slow or gone holds nobody up.

    Args:
        seed: Of the pictures' noise.

    Attributes:
        port: Where cameras find it on this computer.
    """

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.SNDHWM, _UNSENT)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._asked_for = False
        self.port = self._socket.bind_to_random_port(f"tcp://{_HERE}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._context.term()

    def camera(self, name: str, height_px: int, width_px: int, fps: int) -> dict[str, object]:
        """Return LeRobot's configuration of the camera that shows the pictures of this name."""
        return {
            "type": "zmq",
            "server_address": _HERE,
            "port": self.port,
            "camera_name": name,
            "height": height_px,
            "width": width_px,
            "fps": fps,
        }

    @property
    def asked_for(self) -> bool:
        """Whether any camera is connected, and pictures need be drawn."""
        with contextlib.suppress(zmq.Again):
            while True:
                # 1 and a topic from the first that comes, 0 from the last that goes.
                self._asked_for = self._socket.recv(zmq.NOBLOCK)[:1] == b"\1"
        return self._asked_for

    def send(self, pictures: Mapping[str, Image]) -> None:
        """Publish one picture of each camera, uint8 (h, w, 3). Never waits."""
        now_s = time.time()
        message = {
            "timestamps": dict.fromkeys(pictures, now_s),
            # All in one message: LeRobot's camera takes any picture where its own is missing.
            "images": {name: encode_image(self._noisy(picture)) for name, picture in pictures.items()},
        }
        with contextlib.suppress(zmq.Again):
            self._socket.send_string(json.dumps(message), zmq.NOBLOCK)

    def _noisy(self, picture: Image) -> Image:
        noise = self._rng.integers(-_NOISE, _NOISE + 1, picture.shape, dtype=np.int16)
        return np.clip(picture + noise, 0, 255).astype(np.uint8)
