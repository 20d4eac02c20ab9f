"""Optimisers of a run that goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
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


def regrouped(state: dict[str, Any], optimiser: Optimizer, parameters: Iterable[Tensor]) -> dict[str, Any]:
    """Return a state that was saved when all parameters were one group as one of the groups that an optimiser has now.

    Any other state comes back as it is.

    Args:
        state: An optimiser's state dict.
        optimiser: As it is made now.
        parameters: All of them, in the order that they had in that one group.
    """
    if len(state["param_groups"]) != 1 or len(optimiser.param_groups) == 1:
        return state
    was = {id(parameter): index for index, parameter in enumerate(parameters)}
    now = (parameter for group in optimiser.param_groups for parameter in group["params"])
    moments = {
        index: state["state"][was[id(parameter)]]
        for index, parameter in enumerate(now)
        if was.get(id(parameter)) in state["state"]
    }
    return {"state": moments, "param_groups": optimiser.state_dict()["param_groups"]}
