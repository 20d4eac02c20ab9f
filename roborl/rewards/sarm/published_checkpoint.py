"""Published SARM checkpoints, LeRobot's and opensarm's, converted on reading.

What a checkpoint does not hold has to be said or be here: the CLIP network that it was trained on, and for opensarm the
stages and their shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from roborl.errors import ConfigError, ModelLoadError
from roborl.pretrained import CONFIG, read_description
from roborl.rewards.judges.checkpoints import find_checkpoint
from roborl.rewards.judges.clip_judge import ClipNetwork
from roborl.rewards.lerobot_checkpoint import view_name
from roborl.rewards.model_folder import content_hash
from roborl.rewards.sarm.conversion import convert_weights
from roborl.rewards.sarm.lerobot_layout import (
    lerobot_scale,
    lerobot_shape,
    lerobot_window,
    other_head_classes,
    read_weights,
    split_weights,
)
from roborl.rewards.sarm.opensarm_layout import OpenSarmConfig, opensarm_scale, opensarm_shape, read_pickled
from roborl.rewards.sarm.published_model import PublishedModel, PublishedWindow, gap_of
from roborl.rewards.sarm.published_network import PublishedNetwork, PublishedShape
from roborl.rewards.sarm.smoothing import smoothing_span
from roborl.rewards.settings import settings_at

_STATE_KEY, _IMAGE_KEY = "observation.state", "observation.images.top"
_HEADS = ("sparse", "dense")
CLIP = "openai/clip-vit-base-patch32"
"""The network on whose vectors both code bases train, by its name on the hub."""


@dataclass(frozen=True, kw_only=True)
class PublishedSarmConfig:
    """Which checkpoint watches, and through what."""

    # Folder of the checkpoint, or its name in the hub's cache.
    checkpoint: str = ""
    # What opensarm's settings say; leave it out for a checkpoint of LeRobot, which says so itself.
    opensarm: OpenSarmConfig | None = None
    # The CLIP network that it was trained on: a folder, or a name in the hub's cache.
    clip: str = CLIP
    # Where both run: auto, cpu, cuda or cuda:1.
    device: str = "auto"
    # Views to look at, by name, in the order of training; for LeRobot's, empty for the name it was trained with.
    cameras: tuple[str, ...] = ()
    # Which of its two sets of stages: sparse or dense.
    head: str = "sparse"
    # Frames per second of what it was trained on, Hz. No checkpoint says so; both code bases' own data have 30.
    trained_hz: float = 30.0
    # Observations per second, Hz: the slots of a window are as far apart in time as in training.
    observation_hz: float = 10.0
    # Whether to show it the state; without, it is shown zeros.
    use_state: bool = True
    # LeRobot's: whether the present observation may stand for all later ones. They are trained to look ahead, and are
    # refused without.
    repeat_present: bool = False

    def __post_init__(self) -> None:
        if self.head not in _HEADS or not (self.trained_hz > 0 and self.observation_hz > 0):
            raise ConfigError(
                "The settings of a published SARM checkpoint cannot be used",
                seen=f"head {self.head!r}, trained_hz {self.trained_hz}, observation_hz {self.observation_hz}",
                allowed=f"one of {_HEADS}, trained_hz and observation_hz > 0",
            )


def load_published_sarm(place: str) -> PublishedModel:
    """Load a published SARM checkpoint.

    Args:
        place: Folder of a LeRobot checkpoint, its name in the hub's cache, or a YAML file of
            :class:`PublishedSarmConfig`.

    Raises:
        ModelLoadError: If the checkpoint, its statistics or its CLIP network are missing or cannot be used.
        ConfigError: If the settings name no checkpoint, cannot be used, or do not say what opensarm's files do not.
    """
    return open_published_sarm(settings_at(PublishedSarmConfig, place))


def open_published_sarm(config: PublishedSarmConfig) -> PublishedModel:
    """Convert the checkpoint that the settings name; errors as of :func:`load_published_sarm`."""
    folder = find_checkpoint(config.checkpoint)
    rates = {"trained_hz": config.trained_hz, "observation_hz": config.observation_hz}
    if config.opensarm is None:
        _refuse_opensarm(folder)
        described = read_description(folder)
        if described["type"] != "sarm":
            raise ModelLoadError("This is another kind of model", seen=described["type"], allowed="sarm")
        published = split_weights(read_weights(folder))
        shape = lerobot_shape(described, head=config.head)
        window = lerobot_window(described, **rates, repeat_present=config.repeat_present)
        scale = (
            lerobot_scale(folder, str(described.get("state_key", _STATE_KEY))) if config.use_state else None
        )
        cameras = config.cameras or (view_name(str(described.get("image_key", _IMAGE_KEY))),)
        also = other_head_classes(described, config.head)
    else:
        published = {
            "stage": read_pickled(folder / config.opensarm.stage_file),
            "within": read_pickled(folder / config.opensarm.subtask_file),
        }
        shape = opensarm_shape(published, config.opensarm)
        window = PublishedWindow(
            steps=config.opensarm.steps,
            gap=gap_of(config.opensarm.frame_gap, **rates),
            centred=False,
            from_start=config.opensarm.from_start,
            behind=config.opensarm.behind,
        )
        scale = opensarm_scale(config.opensarm.norm_stats, shape.state_dim) if config.use_state else None
        cameras, also = config.cameras, None
    if len(cameras) != shape.cameras:
        raise ConfigError("The network looks at another number of views", seen=cameras, allowed=shape.cameras)
    encoder = ClipNetwork.load(config.clip, device=config.device)
    check_clip(encoder, shape)
    weights = convert_weights(published, shape, head=config.head, other_classes=also)
    network = PublishedNetwork(shape)
    network.load_state_dict(weights)
    network.eval().requires_grad_(False).to(encoder.device)
    return PublishedModel(
        network,
        encoder,
        window=window,
        scale=scale,
        cameras=cameras,
        digest=content_hash(weights),
        observation_hz=config.observation_hz,
        smooth=smoothing_span(**rates) if config.opensarm is not None and config.opensarm.smooth else 0,
    )


def _refuse_opensarm(folder: Path) -> None:
    pickled = sorted(path.name for path in folder.glob("*.pt"))
    if pickled and not (folder / CONFIG).is_file():
        raise ConfigError(
            "This looks like a checkpoint of opensarm, whose files do not say all that it takes to run it",
            seen=f"{pickled} and no {CONFIG} in {folder}",
            allowed="a YAML file of settings with checkpoint, opensarm.stages, opensarm.shares, opensarm.norm_stats and cameras",
            remedy="Write one, and name it in the checkpoint's place: sarm:FILE.yaml",
        )


def check_clip(encoder: ClipNetwork, shape: PublishedShape) -> None:
    """Refuse a CLIP network whose vectors have another size than the checkpoint was trained on.

    Raises:
        ModelLoadError: If so.
    """
    if not encoder.dim == shape.frame_dim == shape.text_dim:
        raise ModelLoadError(
            "The CLIP network is not the one that the SARM checkpoint was trained on",
            seen=f"vectors of {encoder.dim}",
            allowed=f"pictures {shape.frame_dim}, words {shape.text_dim}",
            remedy="Name the right one in the settings: clip",
        )
