"""What ``roborl watch`` can look at: a video, a folder of synchronous videos, an episode of a dataset, a bench's cameras."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from roborl.data.lerobot_info import describe_filmed
from roborl.data.lerobot_io import read_episodes
from roborl.errors import ConfigError, DatasetError, RobotError, spelt_out
from roborl.images import resized
from roborl.loops.footage import KEYFRAMES, read_instructions
from roborl.paths import bench_file
from roborl.types import Image, Vector

_VIDEOS = (".mp4", ".mkv", ".avi", ".mov", ".webm")
_NO_STATE = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class View:
    """One instant of a source.

    Attributes:
        images: Pictures by camera, uint8 (h, w, 3).
        state: Proprioception, float32 (d,), empty where the source has none.
        time_s: Seconds since the beginning.
    """

    images: Mapping[str, Image]
    state: Vector
    time_s: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WatchSource:
    """Something to watch.

    Attributes:
        cameras: Names of its views.
        task: The instruction, empty where it is not known.
        live: True where what is not looked at is gone.
        rate_hz: Instants per second, Hz.
        read: Starts from the beginning and gives one instant after the other.
    """

    cameras: tuple[str, ...]
    task: str
    live: bool
    rate_hz: float
    read: Callable[[], Iterator[View]]


def open_source(place: str, *, rate_hz: float, episode: int = 0) -> WatchSource:
    """Find out what ``place`` is.

    Args:
        place: A video file, a folder of videos named after their cameras, a LeRobotDataset, or a bench.
        rate_hz: Instants per second; 0 for every recorded one, and on a bench for its ``policy_hz``.
        episode: Which episode of a dataset.

    Raises:
        ConfigError: If it is none of these.
        DatasetError: If it cannot be read.
    """
    path = Path(place)
    if path.is_file() and path.suffix.lower() in _VIDEOS:
        return _videos({"front": path}, rate_hz)
    if path.is_dir() and (
        found := {p.stem: p for p in sorted(path.iterdir()) if p.suffix.lower() in _VIDEOS}
    ):
        # An episode that train-reward reads as well: its task is said beside it.
        filmed = (path / KEYFRAMES).is_file()
        return _videos(found, rate_hz, read_instructions(path.parent)[0] if filmed else "")
    if (path / "meta" / "info.json").is_file():
        return _dataset(place, episode, rate_hz)
    try:
        bench_file(place)
    except ConfigError as error:
        raise ConfigError(
            "There is nothing to watch at this place",
            seen=place,
            allowed=f"a video ({', '.join(_VIDEOS)}), a folder of videos, a LeRobotDataset, or a bench: {error.allowed}",
            remedy="Give the path of one of these; a dataset of the hub has to be downloaded first",
        ) from error
    return _bench(place, rate_hz)


def renamed(source: WatchSource, names: Mapping[str, str]) -> WatchSource:
    """Give views other names, those that a model knows; the rest is left out.

    Args:
        source: The source.
        names: A model's name to the source's; empty to leave all as they are.

    Raises:
        ConfigError: If the source has no such view.
    """
    if not names:
        return source
    if wrong := sorted(set(names.values()) - set(source.cameras)):
        raise ConfigError(
            "The source has no such view",
            seen=wrong,
            allowed=list(source.cameras),
            remedy="Name its views behind the model's: --cameras '{MODEL: SOURCE}'",
        )

    def read() -> Iterator[View]:
        for view in source.read():
            images = {ours: view.images[theirs] for ours, theirs in names.items()}
            yield View(images=images, state=view.state, time_s=view.time_s)

    return replace(source, cameras=tuple(names), read=read)


def _videos(files: Mapping[str, Path], rate_hz: float, task: str = "") -> WatchSource:
    import cv2

    def opened(stack: ExitStack) -> dict[str, Any]:
        captures = {}
        for name, file in files.items():
            capture = cv2.VideoCapture(str(file))
            stack.callback(capture.release)
            if not capture.isOpened():
                raise DatasetError(
                    "A video cannot be opened",
                    seen=file,
                    allowed="a whole video with at least one picture",
                    remedy="Take it out of the folder, or record it again",
                )
            captures[name] = capture
        return captures

    with ExitStack() as once:
        fps = min(capture.get(cv2.CAP_PROP_FPS) or 30.0 for capture in opened(once).values())
    every = _every(fps, rate_hz)

    def read() -> Iterator[View]:
        with ExitStack() as stack:
            captures = opened(stack)
            wanted, index = 0.0, 0
            while all(capture.grab() for capture in captures.values()):
                if index >= wanted:
                    wanted += every
                    images = {name: _rgb(capture) for name, capture in captures.items()}
                    yield View(images=images, state=_NO_STATE, time_s=index / fps)
                index += 1

    return WatchSource(cameras=tuple(files), task=task, live=False, rate_hz=fps / every, read=read)


def _every(recorded_hz: float, rate_hz: float) -> float:
    """Return how many recorded instants make one that is watched."""
    return recorded_hz / rate_hz if 0 < rate_hz < recorded_hz else 1.0


def _rgb(capture: Any) -> Image:
    import cv2

    return np.asarray(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB), np.uint8)


def _dataset(place: str, episode: int, rate_hz: float) -> WatchSource:
    info = describe_filmed(place)
    found = next(read_episodes(place, episodes=[episode]), None)
    if found is None:
        raise DatasetError(
            "The dataset has no such episode",
            seen=episode,
            allowed=f"0 to {info.episodes - 1}",
            remedy="Choose another: --episode N",
        )
    length = len(found.state)
    every = _every(info.fps, rate_hz)
    chosen = np.unique(np.arange(0, length, every).astype(int))

    def read() -> Iterator[View]:
        for index in chosen.tolist():
            images = {name: pictures[index] for name, pictures in found.images.items()}
            yield View(images=images, state=found.state[index], time_s=index / info.fps)

    return WatchSource(
        cameras=tuple(found.images), task=found.task, live=False, rate_hz=info.fps / every, read=read
    )


def _bench(name: str, rate_hz: float) -> WatchSource:
    from lerobot.cameras.utils import make_cameras_from_configs

    from roborl.envs.bench import load_bench
    from roborl.envs.cameras import close_after_reading
    from roborl.envs.servos import DEVICE_FAULTS

    bench = load_bench(name)
    rate_hz = rate_hz or bench.policy_hz
    of_robot: dict[str, Any] = getattr(bench.robot, "cameras", {})
    # As large as a run records them: of other pictures a judge may think otherwise.
    sizes = {name: (use.height_px, use.width_px) for name, use in bench.cameras.items()}
    configs = {name: of_robot[name] for name in sizes if name in of_robot}
    if not configs or bench.simulated:
        raise ConfigError(
            "This bench has no cameras that can be opened without its robot",
            seen=f"{name}: {'a simulated arm' if bench.simulated else 'no cameras of its robot'}",
            allowed="a bench whose robot names cameras of this machine",
            remedy="Watch a recording of it instead",
        )

    @contextmanager
    def asked(view: str) -> Iterator[None]:
        try:
            yield
        except DEVICE_FAULTS as error:
            raise RobotError(
                f"The camera {view!r} of the bench gives no picture",
                seen=spelt_out(error),
                allowed="a picture whenever it is asked for one",
                remedy="Check its cable and its entry in the bench file, and that no other program has it open",
            ) from error

    def let_go(camera: Any) -> None:
        with suppress(*DEVICE_FAULTS):  # one that is unplugged may not even close
            camera.disconnect()

    def read() -> Iterator[View]:
        with ExitStack() as stack:
            cameras = make_cameras_from_configs(configs)
            close_after_reading(cameras)
            for view, camera in cameras.items():
                with asked(view):
                    camera.connect()
                stack.callback(let_go, camera)
            began = time.monotonic()
            due = began
            while True:
                time.sleep(max(0.0, due - time.monotonic()))
                due = max(due + 1.0 / rate_hz, time.monotonic())
                images = {}
                for view, camera in cameras.items():
                    with asked(view):
                        images[view] = resized(np.asarray(camera.async_read(), np.uint8), sizes[view])
                yield View(images=images, state=_NO_STATE, time_s=time.monotonic() - began)

    return WatchSource(cameras=tuple(configs), task=bench.task, live=True, rate_hz=rate_hz, read=read)
