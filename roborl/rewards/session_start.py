"""The start of a watched episode, and in words why a model cannot begin with it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from roborl.errors import ConfigError, RoborlError
from roborl.rewards.batching import device_lost, out_of_memory
from roborl.rewards.model import References, RewardModel
from roborl.rewards.sessions import EpisodeSession, ServerFull
from roborl.types import Lane


def check_views(name: str, model: RewardModel[Any, Any], cameras: Collection[str]) -> None:
    """Check that a model will see what it needs, and knows what to look at.

    Args:
        name: The model's on this server.
        model: The model.
        cameras: Names of the views that will come.

    Raises:
        ConfigError: If a view that it needs will not come, or none at all, or more than it can choose from.
    """
    needed = model.info.cameras
    absent = sorted(set(needed) - set(cameras))
    if absent:
        raise ConfigError(
            f"The reward model {name!r} needs views that will not come: {absent}",
            seen=sorted(cameras),
            allowed=list(needed),
            remedy="Name the cameras of the bench as in the model's training data, or serve another model",
        )
    if not cameras:
        raise ConfigError(
            "A session needs at least one view",
            seen="none",
            allowed=list(needed) or "any",
            remedy="Name the cameras whose pictures will come",
        )
    most = model.info.most_views
    if most is not None and len(cameras) > most:
        raise ConfigError(
            f"The reward model {name!r} is not told which view to look at, and there are several",
            seen=sorted(cameras),
            allowed=f"{most} while none is named",
            remedy="Name the one it shall look at, as camera in the model's file of settings; where a model can look at"
            " several, it is cameras",
        )


def start_session(
    session_id: str,
    name: str,
    model: RewardModel[Any, Any],
    *,
    task: str,
    references: References,
    lane: Lane,
) -> EpisodeSession:
    """Begin an episode with a model. A model is a plug-in, and is told things by a client: what it chokes on is refused.

    Args:
        session_id: The client's name for the session.
        name: The model's on this server.
        model: The model.
        task: The instruction in words.
        references: What the model is told besides.
        lane: What the scores are for.

    Raises:
        ServerFull: If it finds no memory to start with.
        ConfigError: If it lacks a reference, or chokes on what it is told.
        AcceleratorError: Torch's own, if it finds its device lost to this process.
    """
    try:
        return EpisodeSession(
            id=session_id, model_name=name, model=model, task=task, references=references, lane=lane
        )
    except RoborlError:
        raise
    except Exception as error:
        if device_lost(error):
            raise
        if out_of_memory(error):  # as on a card that the learner has filled for a moment
            raise ServerFull(
                f"The reward model {name!r} has no memory to start an episode with",
                seen=f"{type(error).__name__}: {error}",
                allowed="enough for its task and references",
                remedy="Wait until some is free, or serve with a smaller --pool.max_batch or on another device",
            ) from error
        raise ConfigError(
            f"The reward model {name!r} cannot start this episode",
            seen=f"{type(error).__name__}: {error}",
            allowed="a task and references that it was made for",
            remedy="Correct these, or mend the model where they are right",
        ) from error
