"""The network of the published SARM checkpoints, which differs from ours: two transformers over CLIP vectors.

One names the stage of every slot of a window, the other, told the stage, the progress within it. Tokens are laid out
stream by stream (cameras, instruction, state, stage) under a plain triangular mask, so a slot sees later slots of earlier
streams: the window as a whole must not reach beyond the present.

Source: Chen et al., "SARM: Stage-aware reward modeling for long horizon robot manipulation", arXiv 2509.25358; layout and
shapes of the tensors as in opensarm (f93fec9) and LeRobot 0.6.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from roborl.errors import ModelLoadError


@dataclass(frozen=True, kw_only=True)
class PublishedShape:
    """Sizes of a published network.

    Attributes:
        stages: Names of the stages, in order.
        shares: Share of the task that each stage is, summing to 1.
        finished: Whether there is a class for the finished task besides the stages.
        cameras: Number of views.
        frame_dim: Size of the vector of a picture.
        text_dim: Size of the vector of an instruction.
        state_dim: Size of the state as the network takes it.
        dim: Width.
        layers: Number of layers of each transformer.
        heads: Number of attention heads.
        shuffled: Whether the progress is read off tokens in their stream-major order, cut into slots as if they were in
            time-major order. That is how opensarm was trained, so its weights mean nothing otherwise.
    """

    stages: tuple[str, ...]
    shares: tuple[float, ...]
    finished: bool
    cameras: int
    frame_dim: int
    text_dim: int
    state_dim: int
    dim: int
    layers: int
    heads: int
    shuffled: bool

    def __post_init__(self) -> None:
        if min(self.dim, self.layers, self.heads, self.cameras) < 1 or self.dim % self.heads:
            raise ModelLoadError(
                "The sizes of a SARM network cannot be right",
                seen=f"width {self.dim}, {self.layers} layers, {self.heads} heads, {self.cameras} views",
                allowed="at least one of each, and a width that the heads share equally",
            )

    @property
    def classes(self) -> int:
        """Number of classes of the stage head."""
        return len(self.stages) + int(self.finished)


class WindowOpinion(NamedTuple):
    """What a network says about every slot of a batch of windows.

    Attributes:
        stages: Probability of each class, float32 (b, t, classes).
        raw: Index of the likeliest class plus the progress within it, float32 (b, t).
        progress: The same as a share of the task, in [0, 1], float32 (b, t).
    """

    stages: Tensor
    raw: Tensor
    progress: Tensor


class WindowTransformer(nn.Module):
    """One of the two transformers: streams of tokens over a window, to a vector per slot, to the outputs.

    Args:
        shape: Sizes.
        streams: Number of streams: cameras, instruction, state, and the stage where it is told.
        outputs: Size of the output per slot.
        shuffled: As in :class:`PublishedShape`, of this transformer.
    """

    def __init__(self, shape: PublishedShape, *, streams: int, outputs: int, shuffled: bool) -> None:
        super().__init__()
        dim = shape.dim
        self._shuffled = shuffled
        self.frame = nn.Linear(shape.frame_dim, dim)
        self.text = nn.Linear(shape.text_dim, dim)
        self.state = nn.Linear(shape.state_dim, dim)
        self.first = nn.Parameter(torch.zeros(1, dim))
        self.body = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, shape.heads, 4 * dim, batch_first=True)
            for _ in range(shape.layers)
        )
        self.fuse = nn.Sequential(nn.LayerNorm(streams * dim), nn.Linear(streams * dim, dim), nn.ReLU())
        self.head = nn.Linear(dim, outputs)

    def forward(
        self, frames: Tensor, text: Tensor, state: Tensor, filled: int, stage: Tensor | None = None
    ) -> Tensor:
        """Return the outputs of every slot, float32 (b, t, outputs).

        Args:
            frames: Vectors of pictures, float32 (b, c, t, d).
            text: Vectors of the instructions, float32 (b, e).
            state: Normalised states, float32 (b, t, s).
            filled: Number of slots that hold something; those behind are not looked at.
            stage: One-hot class of every slot, float32 (b, t, classes), where this transformer is told.
        """
        b, _, t, _ = frames.shape
        views = self.frame(frames)
        views = torch.cat([views[:, :, :1] + self.first, views[:, :, 1:]], dim=2)
        streams = [
            views,
            self.text(text)[:, None, None].expand(b, 1, t, -1),
            self.state(state)[:, None],
        ]
        if stage is not None:
            width = self.head.in_features
            told = stage[..., :width]
            streams.append(nn.functional.pad(told, (0, width - told.shape[-1]))[:, None])
        grid = torch.cat(streams, dim=1)
        n = grid.shape[1]
        tokens = grid.reshape(b, n * t, -1)
        later = torch.ones(n * t, n * t, dtype=torch.bool, device=tokens.device).triu(1)
        empty = (torch.arange(t, device=tokens.device) >= filled).repeat(n)
        for layer in self.body:
            tokens = layer(tokens, src_mask=later | empty)
        if not self._shuffled:
            tokens = tokens.view(b, n, t, -1).transpose(1, 2)
        return cast(Tensor, self.head(self.fuse(tokens.reshape(b, t, -1))))


class PublishedNetwork(nn.Module):
    """Both transformers of a published checkpoint.

    Args:
        shape: Sizes, stages and shares.
    """

    starts: Tensor

    def __init__(self, shape: PublishedShape) -> None:
        super().__init__()
        self.shape = shape
        streams = shape.cameras + 2
        self.stage = WindowTransformer(shape, streams=streams, outputs=shape.classes, shuffled=False)
        self.within = WindowTransformer(shape, streams=streams + 1, outputs=1, shuffled=shape.shuffled)
        ends = torch.tensor(shape.shares).cumsum(0)
        starts = torch.cat([torch.zeros(1), ends[:-1], torch.ones(1)])
        self.register_buffer("starts", starts, persistent=False)

    def forward(self, frames: Tensor, text: Tensor, state: Tensor, filled: int) -> WindowOpinion:
        """Judge every slot of a batch of windows; arguments as of :class:`WindowTransformer`."""
        probabilities = self.stage(frames, text, state, filled).softmax(dim=-1)
        likeliest = probabilities.argmax(dim=-1)
        told = nn.functional.one_hot(likeliest, self.shape.classes).float()
        within = torch.sigmoid(self.within(frames, text, state, filled, told)[..., 0])
        last = len(self.shape.stages)
        raw = (likeliest + within).clamp(max=last)
        stage = likeliest.clamp(max=last - 1)
        begin, end = self.starts[stage], self.starts[stage + 1]
        return WindowOpinion(probabilities, raw, begin + (raw - stage) * (end - begin))
