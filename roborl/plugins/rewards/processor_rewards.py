"""What LeRobot puts before and after our reward models: views are renamed, and nothing else is done to them."""

from __future__ import annotations

from typing import Any

from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
    policy_action_to_transition,
    transition_to_policy_action,
)
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME, POLICY_PREPROCESSOR_DEFAULT_NAME

from roborl.plugins.rewards.configuration_rewards import RemoteConfig, RoborlConfig


def make_roborl_pre_post_processors(
    config: RoborlConfig | RemoteConfig, dataset_stats: Any = None
) -> tuple[Any, Any]:
    """Return LeRobot's pipelines; the statistics of a data set play no part, as our models carry their own."""
    before = PolicyProcessorPipeline(
        steps=[
            AddBatchDimensionProcessorStep(),
            RenameObservationsProcessorStep(rename_map=dict(config.rename_map)),
        ],
        name=POLICY_PREPROCESSOR_DEFAULT_NAME,
    )
    after = PolicyProcessorPipeline(
        steps=[],
        name=POLICY_POSTPROCESSOR_DEFAULT_NAME,
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return before, after


make_remote_pre_post_processors = make_roborl_pre_post_processors
