"""Settings of our reward models, as LeRobot's command lines and files name them."""

from __future__ import annotations

from dataclasses import dataclass, field

from lerobot.configs.rewards import RewardModelConfig

from roborl.errors import ConfigError
from roborl.loops.references import ReferencesConfig
from roborl.serving.security import SecurityConfig


@RewardModelConfig.register_subclass("roborl")
@dataclass(kw_only=True)
class RoborlConfig(RewardModelConfig):  # type: ignore[misc]  # LeRobot has no types
    """A reward model of ours in LeRobot's process.

    Attributes:
        place: What ``roborl serve`` would be told: a folder that train-reward wrote, or NAME:CHECKPOINT.
        default_task: The instruction where a batch brings none.
        rename_map: LeRobot's names of observations to the model's: ``{"observation.images.top": "observation.images.front"}``.
        references: The demonstration that it is shown, for one that compares with it.
        max_batch: Most queries in one call of the judge.
    """

    place: str = ""
    default_task: str = ""
    rename_map: dict[str, str] = field(default_factory=dict)
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    max_batch: int = 64
    device: str | None = "cpu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.place:
            raise ConfigError(
                "The reward model has no place",
                allowed="what roborl serve would be told",
                remedy="Set --reward_model.place to a folder that train-reward wrote, or to NAME:CHECKPOINT",
            )


@RewardModelConfig.register_subclass("remote")
@dataclass(kw_only=True)
class RemoteConfig(RewardModelConfig):  # type: ignore[misc]  # LeRobot has no types
    """A reward model that a running ``roborl serve`` has.

    Attributes:
        endpoint: Address of the server.
        model: Name of the model there; empty for its only one.
        security: Keys, where the server is another machine.
        deadline_s: How long nothing may come from the server before it is given up.
        default_task: The instruction where a batch brings none.
        rename_map: As of :class:`RoborlConfig`.
        references: As of :class:`RoborlConfig`.
    """

    endpoint: str = "tcp://127.0.0.1:5560"
    model: str = ""
    security: SecurityConfig = field(default_factory=SecurityConfig)
    deadline_s: float = 60.0
    default_task: str = ""
    rename_map: dict[str, str] = field(default_factory=dict)
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    device: str | None = "cpu"
