"""Episodes and datasets to test with: random ones of ours, and such as ``lerobot-record`` leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from roborl.data.dataset_episode import DatasetEpisode, Provenance, Subtask
from roborl.data.encoding import scheduled_as_before
from roborl.data.lerobot_writer import write_dataset
from roborl.types import EndCause, RewardSource, Source

CAMERAS = {"front": (16, 20), "wrist": (12, 12)}
STATE = [f"joint_{i}.pos" for i in range(6)]
ACTION = ["x", "y", "z", "gripper"]


def random_episode(seed: int, steps: int = 6, **changes: Any) -> DatasetEpisode:
    """Make a successful episode of noise, the same for the same seed.

    Args:
        seed: What to draw from.
        steps: T, at least 4 unless ``subtasks`` is given.
        changes: Fields of :class:`DatasetEpisode` that shall be otherwise.
    """
    rng = np.random.default_rng(seed)
    fields: dict[str, Any] = {
        "task": f"put the cube in bowl {seed % 2}",
        "images": {
            name: rng.integers(0, 256, (steps + 1, *size, 3), dtype=np.uint8)
            for name, size in CAMERAS.items()
        },
        "state": rng.normal(size=(steps + 1, 6)).astype(np.float32),
        "action": rng.uniform(-1, 1, (steps, 4)).astype(np.float32),
        "reward": np.r_[np.zeros(steps - 1), 1.0].astype(np.float32),
        "success": True,
        "end": EndCause.SUCCESS,
        "subtasks": (
            Subtask(name="reach", start=0, end=2 + seed % 2),
            Subtask(name="lift", start=2 + seed % 2, end=steps),
        )
        if steps >= 4
        else (),
        "key": f"arm-0001-{seed:06d}",
        "provenance": Provenance(
            proposed=rng.uniform(-1, 1, (steps, 4)).astype(np.float32),
            source=tuple(Source(s) for s in rng.choice(list(Source), steps)),
            policy_version=rng.integers(0, 9, steps),
            reward_source=tuple(RewardSource(s) for s in rng.choice(list(RewardSource), steps)),
            stamp_ns=rng.integers(0, 1 << 60, (steps + 1, 3)),
            verdict_index=steps,
            verdict_source=RewardSource.OPERATOR,
            kind="online",
            meta={"mode": "train", "seed": seed},
        ),
    }
    return DatasetEpisode(**{**fields, **changes})


def crossing_episode(
    seed: int, *, turns: int, steps: int = 24, stops_at: int | None = None
) -> DatasetEpisode:
    """Make an episode in which a red bar crosses the picture from the left, and then a blue one from the top.

    Args:
        seed: Of the noise, and the episode's number.
        turns: Observation at which the second bar comes; the two sub-tasks are marked there.
        steps: T.
        stops_at: Observation from which nothing moves any more: a failure, without marks. None for a success.
    """
    pictures = np.random.default_rng(seed).integers(0, 40, (steps + 1, 32, 32, 3), np.uint8)
    last = steps if stops_at is None else stops_at
    for picture, t in zip(pictures, np.arange(steps + 1).clip(max=last), strict=True):
        if t < turns:
            across = 26 * t // turns
            picture[:, across : across + 6] = (220, 60, 40)
        else:
            down = 26 * (t - turns) // (steps + 1 - turns)
            picture[down : down + 6] = (60, 200, 240)
    marks = (Subtask(name="across", start=0, end=turns), Subtask(name="down", start=turns, end=steps))
    failed = stops_at is not None
    return random_episode(
        seed,
        steps=steps,
        images={"front": pictures},
        task="cross twice",
        provenance=None,
        success=not failed,
        end=EndCause.FAILURE if failed else EndCause.SUCCESS,
        failure="stall" if failed else "",
        subtasks=() if failed else marks,
        benchmark_progress=np.linspace(0, last / steps, steps + 1, dtype=np.float32),
    )


def write_episodes(path: Path, *episodes: DatasetEpisode, benchmark_progress: bool = False) -> None:
    """Write random episodes into a dataset, or behind those that are there."""
    write_dataset(
        path,
        episodes,
        fps=10,
        state_names=STATE,
        action_names=ACTION,
        benchmark_progress=benchmark_progress,
    )


def lerobot_recording(
    path: Path,
    rows: Sequence[int],
    *,
    video: bool = False,
    fps: int = 30,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write a dataset in the form that ``lerobot-record`` leaves behind.

    Frame t of an episode has brightness 25 (t + 1) in one colour channel of camera ``laptop`` (the inverse in
    ``phone``), joints at 10 t - 5 and targets at 10 t.

    Args:
        path: A new folder.
        rows: The number of rows of each episode, at most 10.
        video: MP4 rather than pictures.
        fps: Rows per second.
        columns: Further columns: each episode's value in its last row, 0 elsewhere.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = [f"{joint}.pos" for joint in ("pan", "lift", "elbow", "flex", "roll", "gripper")]
    joints = {"dtype": "float32", "shape": (6,), "names": names}
    camera = {
        "dtype": "video" if video else "image",
        "shape": (48, 64, 3),
        "names": ["height", "width", "channels"],
    }
    extra = {name: np.asarray(values) for name, values in (columns or {}).items()}
    dataset = LeRobotDataset.create(
        "someone/so101",
        fps=fps,
        root=path,
        robot_type="so101_follower",
        use_videos=video,
        video_backend="pyav",
        features={
            "action": joints,
            "observation.state": joints,
            "observation.images.laptop": camera,
            "observation.images.phone": camera,
            **{n: {"dtype": v.dtype.name, "shape": (1,), "names": None} for n, v in extra.items()},
        },
    )
    for e, count in enumerate(rows):
        for t in range(count):
            picture = np.zeros((48, 64, 3), np.uint8)
            picture[:, :, e % 3] = 25 * (t + 1)
            dataset.add_frame(
                {
                    "action": np.full(6, 10 * t, np.float32),
                    "observation.state": np.full(6, 10 * t - 5, np.float32),
                    "observation.images.laptop": picture,
                    "observation.images.phone": 255 - picture,
                    "task": "Grab the cube",
                    **{n: np.array([v[e] if t == count - 1 else 0], v.dtype) for n, v in extra.items()},
                }
            )
        with scheduled_as_before():
            dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
