"""The names of the frame columns of a LeRobotDataset: LeRobot's own, and those of ours that it has no place for."""

from __future__ import annotations

IMAGES = "observation.images."
STATE, ACTION = "observation.state", "action"
REWARD, DONE, TRUNCATED, SUCCESS = "next.reward", "next.done", "next.truncated", "next.success"
INTERVENTION, FOREIGN_INTERVENTION = "intervention", "complementary_info.is_intervention"
LAST = "is_last_observation"
PROPOSED, SOURCE, VERSION, REWARD_SOURCE = "proposed_action", "source", "policy_version", "reward_source"
STAMPS, END, VERDICT, KEY = "stamp_ns", "end_cause", "verdict", "episode_key"
VERDICT_INDEX, VERDICT_SOURCE, VERDICT_REWARD = "verdict_index", "verdict_source", "verdict_reward"
KIND, META = "episode_kind", "episode_meta"
COPIED_LAST = "copied_last"
"""What stands beside an actor's words in ``META`` where the last row of an episode is a copy of the one before it."""
DISCARDED, FAILURE = "discarded", "failure_kind"
BENCHMARK_PROGRESS = "benchmark.progress"
LANGUAGE, EVENTS = "language_persistent", "language_events"
FILLED_IN = frozenset({"timestamp", "frame_index", "episode_index", "index", "task_index"})
"""Those that LeRobot writes itself."""
