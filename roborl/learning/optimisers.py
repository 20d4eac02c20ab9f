"""Optimisers of a run that goes on."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer


def go_on(optimiser: Optimizer, state: dict[str, Any]) -> None:
    """Put back an optimiser's moments; its settings, such as the learning rate, stay what they are configured to be now.

    Args:
        optimiser: As it was made from the present settings.
        state: Its state dict, of whatever settings.

    Raises:
        ValueError: If it is of other parameters.
    """
    configured = [{k: v for k, v in group.items() if k != "params"} for group in optimiser.param_groups]
    optimiser.load_state_dict(state)
    for group, own in zip(optimiser.param_groups, configured, strict=True):
        group.update(own)
