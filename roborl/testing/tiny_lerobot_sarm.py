"""A small random SARM checkpoint of LeRobot: the real class, saved as LeRobot saves it, with its training statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

STATE_MEAN = (0.5, -1.0, 2.0)
STATE_STD = (1.5, 0.5, 2.0)


def build_tiny_lerobot_sarm(
    folder: Path | str, *, seed: int = 0, statistics: bool = True, **fields: Any
) -> Path:
    """Write a small random checkpoint that looks at the view ``front`` and a state of three joints.

    Args:
        folder: Where it goes; made if it is not there.
        seed: Of the weights.
        statistics: Whether the pre-processor is saved beside the weights.
        fields: Fields of LeRobot's ``SARMConfig`` that are to be otherwise.

    Returns:
        The folder.
    """
    import torch
    from lerobot.processor import NormalizerProcessorStep, PolicyProcessorPipeline
    from lerobot.rewards.sarm.configuration_sarm import SARMConfig
    from lerobot.rewards.sarm.modeling_sarm import SARMRewardModel

    sizes = {"image_dim": 16, "text_dim": 16, "hidden_dim": 32, "num_heads": 4, "num_layers": 2}
    stages = {
        "annotation_mode": "dual",
        "num_sparse_stages": 3,
        "sparse_subtask_names": ["reach", "grasp", "place"],
        "sparse_temporal_proportions": [0.5, 0.2, 0.3],
        "num_dense_stages": 4,
        "dense_subtask_names": ["reach", "close", "lift", "place"],
        "dense_temporal_proportions": [0.4, 0.1, 0.2, 0.3],
    }
    window = {"n_obs_steps": 4, "max_rewind_steps": 2, "frame_gap": 3, "max_state_dim": 8}
    named = {"image_key": "observation.images.front", "device": "cpu"}
    config = SARMConfig(**(sizes | stages | window | named | fields))
    before = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        model = SARMRewardModel(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                # Larger than usual, so that the stages change within an episode.
                if parameter.ndim > 1:
                    parameter.normal_(0.0, (4.0 if "heads" in name else 1.5) / parameter[0].numel() ** 0.5)
        model.save_pretrained(folder)
    finally:
        torch.random.set_rng_state(before)
    if statistics:
        state = {"mean": torch.tensor(STATE_MEAN), "std": torch.tensor(STATE_STD)}
        step = NormalizerProcessorStep(
            features=config.input_features,
            norm_map=config.normalization_mapping,
            stats={config.state_key: state},
        )
        PolicyProcessorPipeline(steps=[step], name="policy_preprocessor").save_pretrained(folder)
    return Path(folder)
