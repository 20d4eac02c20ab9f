"""The small judge of hops behind the questions of :mod:`roborl.rewards.dopamine`: it sees the pictures, and no words."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from numpy.typing import NDArray

from roborl.errors import ConfigError, ShapeError
from roborl.images import square
from roborl.rewards.hop_replies import write_hop
from roborl.rewards.judges.caches import RecentCache
from roborl.rewards.judges.queries import Cells, Token, VlmJudge, VlmQuery, VlmReply, picture_key
from roborl.rewards.model import Judge
from roborl.rewards.model_folder import content_hash
from roborl.rewards.pairs.network import FRONT, PairNetwork
from roborl.types import Image

_PICTURES = 8
# Keypoints of pictures seen before.
_KEPT_BYTES = 16 << 20
# Where a question shows what: start, goal, and the front pictures of two moments, whose wrists follow them.
_START, _GOAL, _BEFORE, _AFTER = 0, 1, 2, 5

type Floats = NDArray[np.float64]
type _Look = tuple[int, bytes]
"""A view and the digest of its picture."""


class PairJudge(Judge[VlmQuery, VlmReply | None]):
    """Answers with the network's likeliest hop, and with all others and their probabilities where they are asked for.

    A wrist that shows the front picture is one that is not seen: it stands there where a bench has no such camera, or
    where the goal stands before. Used by one thread.

    Args:
        network: Trained.
    """

    def __init__(self, network: PairNetwork) -> None:
        self.network = network.eval()
        self._kept: RecentCache[_Look, NDArray[np.float32]] = RecentCache(_KEPT_BYTES)
        self._identity = network_identity(network)
        self._texts = [write_hop(hop) for hop in network.hops.tolist()]

    @property
    def identity(self) -> str:
        """Hash of weights and sizes."""
        return self._identity

    def cells(self, query: VlmQuery) -> tuple[Cells, ...] | None:
        """Return nothing: it has no visual tokens."""
        return None

    @torch.inference_mode()
    def answer(self, queries: Sequence[VlmQuery]) -> list[VlmReply | None]:
        """Return one reply per query; None where the network's answer is not finite.

        Raises:
            ShapeError: If a question does not show eight pictures.
        """
        began = time.perf_counter()
        asked = [self._looks(query) for query in queries]
        known = self._known([(look, rgb) for looks, _ in asked for look, rgb in looks])
        logits = self._compare(
            [[look for look, _ in looks] for looks, _ in asked], [s for _, s in asked], known
        )
        likely: Floats = torch.softmax(logits, dim=1).numpy().astype(np.float64)
        timings = {"judge": (time.perf_counter() - began) * 1e3}
        return [self._reply(query, likely[place], timings) for place, query in enumerate(queries)]

    def _looks(self, query: VlmQuery) -> tuple[list[tuple[_Look, Image]], list[bool]]:
        """Return start, goal and the views of both moments, and whether each wrist is seen."""
        pictures = query.pictures
        if len(pictures) != _PICTURES:
            raise ShapeError(
                "A judge of pairs cannot answer this question",
                seen=f"{len(pictures)} pictures",
                allowed=f"{_PICTURES}: start, goal, and three views of two moments",
                remedy="Ask it as a dopamine model",
            )
        digests = {place: picture_key(rgb) for place, rgb in {id(rgb): rgb for rgb in pictures}.items()}
        keys = [digests[id(rgb)] for rgb in pictures]
        places = [(FRONT, _START), (FRONT, _GOAL)]
        seen = []
        for first in (_BEFORE, _AFTER):
            places += [(view, first + view) for view in range(1 + self.network.wrists)]
            seen += [keys[first + 1 + wrist] != keys[first] for wrist in range(self.network.wrists)]
        return [((view, keys[place]), pictures[place]) for view, place in places], seen

    def _known(self, looks: Sequence[tuple[_Look, Image]]) -> dict[_Look, NDArray[np.float32]]:
        """Return the keypoints of all pictures, each seen once."""
        found: dict[_Look, NDArray[np.float32]] = {}
        fresh: dict[int, dict[_Look, Image]] = {}
        for look, rgb in looks:
            if look in found:
                continue
            kept = self._kept.get(look)
            if kept is None:
                fresh.setdefault(look[0], {})[look] = rgb
            else:
                found[look] = kept
        px = self.network.config.image_px
        for view, pictures in fresh.items():
            pixels = torch.from_numpy(np.stack([square(rgb, px) for rgb in pictures.values()]))
            for look, keypoints in zip(pictures, self.network.look(view, pixels).numpy(), strict=True):
                found[look] = keypoints.copy()
                self._kept.put(look, found[look])
        return found

    def _compare(
        self,
        asked: Sequence[Sequence[_Look]],
        seen: Sequence[Sequence[bool]],
        known: dict[_Look, NDArray[np.float32]],
    ) -> torch.Tensor:
        network, views = self.network, 1 + self.network.wrists
        if not asked:
            return torch.zeros(0, network.config.bins)
        rows = torch.from_numpy(np.stack([np.stack([known[look] for look in looks]) for looks in asked]))
        masks = torch.tensor(seen, dtype=torch.float32).reshape(len(asked), 2 * network.wrists)
        logits = network(
            rows[:, :2],
            rows[:, 2 : 2 + views],
            rows[:, 2 + views :],
            masks[:, : network.wrists],
            masks[:, network.wrists :],
        )
        return torch.as_tensor(logits)

    def _reply(self, query: VlmQuery, likely: Floats, timings: dict[str, float]) -> VlmReply | None:
        if not np.isfinite(likely).all():
            return None
        if not query.alternatives:
            return VlmReply(text=write_hop(float(likely @ self.network.hops.numpy())), timings_ms=timings)
        order = np.argsort(-likely, kind="stable")
        ranked = tuple((self._texts[place], float(likely[place])) for place in order)
        text = ranked[0][0]
        return VlmReply(text=text, tokens=(Token(text=text, alternatives=ranked),), timings_ms=timings)


def check_wrists(judge: VlmJudge, *, left: str, right: str) -> None:
    """See whether a judge looks at the wrists that a question will show; a single one stands as the left.

    Args:
        judge: A judge of pairs; any other takes whatever is named.
        left: Camera at the left wrist; empty where there is none.
        right: The same at the right wrist.

    Raises:
        ConfigError: If it would never look at one of them.
    """
    shown = 2 if right else 1 if left else 0
    if isinstance(judge, PairJudge) and shown > judge.network.wrists:
        raise ConfigError(
            "The judge of pairs would never look at a wrist that is named",
            seen=f"left_wrist {left!r}, right_wrist {right!r}, and a judge of {judge.network.wrists} wrists",
            allowed="as many wrists as it has learnt from at most, a single one as left_wrist",
            remedy="Name a single wrist as left_wrist, whichever it is: the judge reads no words. Or train it with both",
        )


def network_identity(network: PairNetwork) -> str:
    """Return a hash of a network's weights and sizes."""
    described = asdict(network.config) | {"wrists": network.wrists}
    return f"pairs-{content_hash(network.state_dict(), described)}"
