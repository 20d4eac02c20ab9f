"""LeRobot policies by name: how many numbers they have and how long their prefix is. Facts with their sources; no weights."""

from __future__ import annotations

from dataclasses import dataclass

from roborl.rewards.judges.footprint import Decoder


@dataclass(frozen=True, kw_only=True)
class PublishedPolicy:
    """A kind of policy at its published size.

    Attributes:
        parameters: How many numbers it has.
        learns: How many of them learn as LeRobot trains it unless told otherwise.
        number_bytes: Bytes of each, as LeRobot makes it unless told otherwise.
        decoder: The shape of what reads observations.
        camera_tokens: Tokens that a camera's picture becomes.
        other_tokens: Tokens of state and instruction.
        caches: Whether it keeps keys and values of the observation while it draws a chunk.
        source: Where that is known from.
    """

    parameters: int
    learns: int
    number_bytes: int
    decoder: Decoder
    camera_tokens: int
    other_tokens: int
    caches: bool = True
    source: str

    def tokens(self, cameras: int) -> int:
        """Return the length of an observation with so many cameras."""
        return self.camera_tokens * cameras + self.other_tokens


_GEMMA_2B = Decoder(layers=18, hidden=2048, intermediate=16_384, heads=8, kv_heads=1, head_dim=256)
_COUNTED = "counted on LeRobot 0.6.1's classes"

POLICIES = {
    "act": PublishedPolicy(
        parameters=51_597_190,
        learns=51_597_190,
        number_bytes=4,
        decoder=Decoder(layers=4, hidden=512, intermediate=3200, heads=8, kv_heads=8, head_dim=64),
        camera_tokens=300,  # 640 x 480 over ResNet's stride of 32
        other_tokens=2,
        caches=False,
        source=f"{_COUNTED}, six joints",
    ),
    "smolvla": PublishedPolicy(
        parameters=450_046_176,
        learns=99_880_992,
        number_bytes=4,
        decoder=Decoder(layers=16, hidden=960, intermediate=2560, heads=15, kv_heads=5, head_dim=64),
        camera_tokens=64,
        other_tokens=49,
        # On the sizes of HuggingFaceTB/SmolVLM2-500M-Video-Instruct; its expert alone learns.
        source=_COUNTED,
    ),
    "pi0": PublishedPolicy(
        parameters=3_501_372_176,
        learns=3_501_372_176,
        number_bytes=4,
        decoder=_GEMMA_2B,
        camera_tokens=256,
        other_tokens=48,
        # Its output layer is its embedding, and is counted once.
        source=_COUNTED,
    ),
    "pi05": PublishedPolicy(
        parameters=3_616_757_520,
        learns=3_616_757_520,
        number_bytes=4,
        decoder=_GEMMA_2B,
        camera_tokens=256,
        other_tokens=200,
        # Its output layer is its embedding, and is counted once.
        source=_COUNTED,
    ),
}
"""Kinds of policy that can be planned with by name."""
