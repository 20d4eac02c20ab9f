"""The network: frames to vectors, a block-causal transformer over a short window, stage and within-stage heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from roborl.rewards.sarm.config import SarmConfig
from roborl.rewards.sarm.text import build_text_encoder
from roborl.rewards.training.encoders import FrameEncoder, build_frame_encoder
from roborl.rewards.training.labels import StagePlan


@dataclass(frozen=True, eq=False, kw_only=True)
class Heads:
    """What every ensemble member says about every slot.

    Attributes:
        stage_logits: Over the K stages and the finished state, float32 (m, b, s, K + 1).
        within: Progress within each stage, were that the stage, in [0, 1], float32 (m, b, s, K).
    """

    stage_logits: Tensor
    within: Tensor


class BlockCausalLayer(nn.Module):
    """One pre-norm transformer layer that takes an additive attention mask.

    Args:
        dim: Width.
        heads: Attention heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, tokens: Tensor, allowed: Tensor) -> Tensor:
        """Map tokens (b, n, dim) under a boolean mask (b, 1, n, n), True where a query may look at a key."""
        b, n, dim = tokens.shape
        qkv = self.query_key_value(self.norm_attention(tokens)).view(b, n, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        tokens = tokens + self.out(mixed.transpose(1, 2).reshape(b, n, dim))
        return cast(Tensor, tokens + self.mlp(self.norm_mlp(tokens)))


class SarmNetwork(nn.Module):
    """Window of frames and an instruction to stage and within-stage progress at every slot.

    Tokens are laid out in time-major order, [text | slot 0: cameras, state | slot 1: … ]. Streams of one slot see each
    other and everything earlier, never a later slot, and never an empty one. No code tells absolute time; each slot has
    a learned vector for its place in the window.

    Args:
        config: The architecture.
        plan: Stages and their shares.
        cameras: Names of the views, in the order in which frame vectors are given.
        state_dim: Size of the state; used only where ``config.use_state``.
    """

    starts: Tensor
    shares: Tensor
    state_mean: Tensor
    state_std: Tensor

    def __init__(
        self, config: SarmConfig, plan: StagePlan, cameras: Sequence[str], state_dim: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        self.streams = len(cameras) + int(config.use_state)
        encoders = [
            build_frame_encoder(config.encoder, px=config.image_px, dim=config.frame_dim)
            for _ in (cameras if config.encoder == "cnn" else cameras[:1])
        ]
        self.encoders = nn.ModuleList(encoders)
        dim, stages = config.dim, len(plan.names)
        self.embed_frame = nn.ModuleList(nn.Linear(encoders[0].dim, dim) for _ in cameras)
        self.embed_state = nn.Linear(state_dim, dim) if config.use_state else None
        self.text = build_text_encoder(config.text, dim)
        self.slot = nn.Parameter(torch.randn(config.window.slots, 1, dim) * 0.02)
        self.stream = nn.Parameter(torch.randn(1, self.streams, dim) * 0.02)
        self.layers = nn.ModuleList(
            BlockCausalLayer(dim, config.attention_heads) for _ in range(config.layers)
        )
        self.fuse = nn.Sequential(
            nn.LayerNorm(self.streams * dim), nn.Linear(self.streams * dim, dim), nn.GELU()
        )
        self.members = nn.ModuleList(Member(dim, stages) for _ in range(config.members))
        self.register_buffer("starts", torch.from_numpy(plan.starts))
        self.register_buffer("shares", torch.tensor([*plan.shares, 0.0]))
        self.register_buffer("state_mean", torch.zeros(state_dim))
        self.register_buffer("state_std", torch.ones(state_dim))

    def encoder(self, camera: int) -> FrameEncoder:
        """Return the frame encoder of a camera: its own where it is trained, a shared one where frozen."""
        return cast(FrameEncoder, self.encoders[camera if len(self.encoders) > 1 else 0])

    @property
    def frozen_identity(self) -> str:
        """What the weights that do not stand in its own state are known by; empty where there are none."""
        return "+".join(part for part in (self.encoder(0).identity, self.text.identity) if part)

    def set_state_statistics(self, states: NDArray[np.float32]) -> None:
        """Take mean and deviation of the training states (n, s) into the weights, so that they travel with them."""
        self.state_mean.copy_(torch.from_numpy(states.mean(axis=0)))
        self.state_std.copy_(torch.from_numpy(states.std(axis=0).clip(1e-3)))

    def encode(self, frames: Sequence[Tensor]) -> Tensor:
        """Encode one batch of pictures per camera, each (b, px, px, 3), into frame vectors float32 (b, c, d)."""
        return torch.stack([self.encoder(c)(batch) for c, batch in enumerate(frames)], dim=1)

    def forward(self, frames: Tensor, state: Tensor | None, text: Tensor, filled: Tensor) -> Heads:
        """Judge every slot of a batch of windows.

        Args:
            frames: Frame vectors, float32 (b, s, c, d); whatever stands in an empty slot has no effect.
            state: Proprioception in its own units, float32 (b, s, n), where the model uses it.
            text: Instruction vectors, float32 (b, dim).
            filled: False for empty slots, bool (b, s). The last one must be filled.
        """
        b, s = filled.shape
        parts = [embed(frames[:, :, c]) for c, embed in enumerate(self.embed_frame)]
        if self.embed_state is not None:
            assert state is not None, "this model was built to look at the state"
            parts.append(self.embed_state((state - self.state_mean) / self.state_std))
        grid = torch.stack(parts, dim=2) + self.slot + self.stream
        grid = torch.where(filled[:, :, None, None], grid, torch.zeros_like(grid))
        tokens = torch.cat([text[:, None], grid.flatten(1, 2)], dim=1)
        allowed = self._allowed(filled)
        for layer in self.layers:
            tokens = layer(tokens, allowed)
        seen = self.fuse(tokens[:, 1:].reshape(b, s, -1))
        answers = [member(seen) for member in self.members]
        return Heads(
            stage_logits=torch.stack([logits for logits, _ in answers]),
            within=torch.stack([within for _, within in answers]),
        )

    def _allowed(self, filled: Tensor) -> Tensor:
        """Return the block-causal mask, bool (b, 1, 1 + s·streams, the same)."""
        b, s = filled.shape
        slot = torch.arange(s).repeat_interleave(self.streams)
        earlier = slot[:, None] >= slot[None, :]
        keys = filled.repeat_interleave(self.streams, dim=1)
        n = 1 + s * self.streams
        allowed = torch.zeros(b, n, n, dtype=torch.bool)
        allowed[:, :, 0] = True  # everybody reads the instruction, which also keeps empty slots finite
        allowed[:, 1:, 1:] = earlier & keys[:, None, :]
        return allowed[:, None]

    def progress(self, heads: Heads) -> tuple[Tensor, Tensor]:
        """Return each member's progress Σ_k p_k (P_{k-1} + α_k τ_k) and its variance over the stages, (m, b, s) each."""
        p = heads.stage_logits.softmax(dim=-1)
        within = nn.functional.pad(heads.within, (0, 1))
        value = self.starts + self.shares * within
        mean = (p * value).sum(dim=-1)
        variance = (p * (value - mean[..., None]) ** 2).sum(dim=-1)
        return mean, variance


class Member(nn.Module):
    """One head of the ensemble: stage logits, and within-stage progress from the features *and* the stage.

    Args:
        dim: Size of the features.
        stages: K.
    """

    def __init__(self, dim: int, stages: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(dim, dim), nn.GELU())
        self.stage = nn.Linear(dim, stages + 1)
        self.stage_code = nn.Parameter(torch.randn(stages, dim) / math.sqrt(dim))
        self.within = nn.Sequential(nn.GELU(), nn.Linear(dim, 1))
        self.mix = nn.Linear(dim, dim)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return stage logits (b, s, K + 1) and τ under every stage (b, s, K)."""
        features = self.trunk(seen)
        conditioned = self.mix(features)[:, :, None] * (1.0 + self.stage_code) + self.stage_code
        return self.stage(features), torch.sigmoid(self.within(conditioned)[..., 0])
