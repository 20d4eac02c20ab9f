"""One episode as the rows of a LeRobotDataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.lerobot_columns import (
    ACTION,
    BENCHMARK_PROGRESS,
    COPIED_LAST,
    DISCARDED,
    DONE,
    END,
    FAILURE,
    IMAGES,
    INTERVENTION,
    KEY,
    KIND,
    LAST,
    META,
    PROPOSED,
    REWARD,
    REWARD_SOURCE,
    SOURCE,
    STAMPS,
    STATE,
    SUCCESS,
    TRUNCATED,
    VERDICT,
    VERDICT_INDEX,
    VERDICT_REWARD,
    VERDICT_SOURCE,
    VERSION,
)
from roborl.types import RewardSource, Source


def features_of(
    cameras: Mapping[str, tuple[int, int]],
    state_names: Sequence[str],
    action_names: Sequence[str],
    *,
    video: bool,
    progress: bool,
) -> dict[str, dict[str, Any]]:
    """Return a dataset's columns in LeRobot's words; arguments as for the writer."""

    def column(dtype: str, names: Sequence[str] | None = None) -> dict[str, Any]:
        return {
            "dtype": dtype,
            "shape": (len(names),) if names else (1,),
            "names": list(names) if names else None,
        }

    pictures = {
        IMAGES + name: {
            "dtype": "video" if video else "image",
            "shape": (*size, 3),
            "names": ["height", "width", "channels"],
        }
        for name, size in cameras.items()
    }
    single = {
        "float32": [REWARD],
        "bool": [DONE, TRUNCATED, SUCCESS, INTERVENTION, LAST, DISCARDED],
        "int64": [VERSION, VERDICT_INDEX],
        "string": [
            SOURCE,
            REWARD_SOURCE,
            VERDICT,
            VERDICT_SOURCE,
            VERDICT_REWARD,
            END,
            KEY,
            KIND,
            META,
            FAILURE,
        ],
    }
    return {
        **pictures,
        # LeRobot has no column of no width.
        **({STATE: column("float32", state_names)} if state_names else {}),
        ACTION: column("float32", action_names),
        PROPOSED: column("float32", action_names),
        STAMPS: column("int64", ["state", *cameras]),
        **{name: column(dtype) for dtype, names in single.items() for name in names},
        **({BENCHMARK_PROGRESS: column("float32")} if progress else {}),
    }


def rows_of(
    episode: DatasetEpisode, cameras: Sequence[str], *, progress: bool, deltas: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the T + 1 rows of an episode, with benchmark progress where ``progress`` says so; ``deltas`` as for the writer."""
    steps, known = episode.steps, episode.provenance
    verdict = {True: "success", False: "failure", None: "none"}[episode.success]
    # The columns have the dataset's order of cameras, the stamps the episode's.
    order = list(episode.images)
    stamped = [0, *(1 + order.index(name) for name in cameras)]
    meta = dict(known.meta) if known else {}
    if episode.repeated_last or episode.copied_last:
        meta[COPIED_LAST] = True
    # LeRobot's trainer takes the action of the last row for one like the others.
    still = episode.action[-1].copy()
    still[:deltas] = 0.0
    for t in range(steps + 1):
        last = t == steps
        # True from the last step on, so that a reader of (row t, row t + 1) pairs sees the end before the reset.
        ending = t >= steps - 1
        source = Source.PERSON if known is None else known.source[min(t, steps - 1)]
        given_by = RewardSource.OPERATOR if known is None else known.reward_source[min(t, steps - 1)]
        action = still if last else episode.action[t]
        row: dict[str, Any] = {IMAGES + name: episode.images[name][t] for name in cameras}
        row |= {
            "task": episode.task,
            ACTION: action,
            PROPOSED: action if known is None or last else known.proposed[t],
            STAMPS: known.stamp_ns[t, stamped] if known else np.zeros(1 + len(cameras), np.int64),
            REWARD: np.array([0.0 if last else episode.reward[t]], np.float32),
            DONE: np.array([ending and episode.end.terminated]),
            TRUNCATED: np.array([ending and not episode.end.terminated]),
            SUCCESS: np.array([ending and episode.success is True]),
            INTERVENTION: np.array([source is Source.PERSON and known is not None and not last]),
            LAST: np.array([last]),
            DISCARDED: np.array([episode.discarded]),
            VERSION: np.array([0 if known is None or last else known.policy_version[t]], np.int64),
            SOURCE: source.value,
            REWARD_SOURCE: given_by.value,
            VERDICT: verdict,
            VERDICT_INDEX: np.array([known.verdict_index if known else -1], np.int64),
            VERDICT_REWARD: repr(known.verdict_reward) if known and known.verdict_reward is not None else "",
            VERDICT_SOURCE: known.verdict_source.value if known else RewardSource.NONE.value,
            KIND: known.kind if known else "",
            META: json.dumps(meta),
            END: episode.end.value,
            KEY: episode.key,
            FAILURE: episode.failure,
        }
        if episode.state.shape[1]:
            row[STATE] = episode.state[t]
        if progress and episode.benchmark_progress is not None:
            row[BENCHMARK_PROGRESS] = episode.benchmark_progress[t : t + 1]
        yield row
