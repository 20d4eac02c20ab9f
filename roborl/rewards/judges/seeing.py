"""Looking at the pictures of many questions: each different one once, those seen before not at all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import batched

from roborl.errors import RoborlError
from roborl.rewards.judges.caches import RecentCache
from roborl.rewards.judges.queries import Clip, VlmQuery, picture_key
from roborl.rewards.judges.sights import Family, Patches, Sight
from roborl.rewards.judges.turns import Seen

log = logging.getLogger(__name__)

_AT_ONCE = 64  # most pictures in one run of the vision network


class Eyes:
    """Runs a vision network over pictures.

    Args:
        family: How it is called.
        kept: Pictures seen before.

    Attributes:
        looked: Pictures and instants that the vision network has been run over.
    """

    def __init__(self, family: Family, kept: RecentCache[bytes, Sight]) -> None:
        self._family = family
        self._kept = kept
        self.looked = 0

    def look(self, queries: Sequence[VlmQuery]) -> list[list[Seen] | None]:
        """Return what is seen of each picture and clip of each question; None where one cannot be looked at."""
        found: dict[bytes, Sight] = {}
        fresh: dict[bytes, Patches] = {}
        noted = [self._note(query, found, fresh) for query in queries]
        for part in batched(fresh.values(), _AT_ONCE):
            self.looked += len(part)
            for patches, sight in zip(part, self._family.see(part), strict=True):
                found[patches.key] = sight
                self._kept.put(patches.key, sight)
        return [
            None
            if parts is None
            else [
                Seen(sights=tuple(found[key] for key in keys), keys=keys, clip=clip) for keys, clip in parts
            ]
            for parts in noted
        ]

    def _note(
        self, query: VlmQuery, found: dict[bytes, Sight], fresh: dict[bytes, Patches]
    ) -> list[tuple[tuple[bytes, ...], Clip | None]] | None:
        """Sort the pictures of a question into those seen before and those to look at; return their digests."""
        parts: list[tuple[tuple[bytes, ...], Clip | None]] = []
        prepared: dict[bytes, Patches] = {}
        try:
            for part in query.parts:
                if isinstance(part, Clip):
                    instants = self._family.patches_of_clip(part)
                    parts.append((tuple(p.key for p in instants), part))
                    for p in instants:
                        if not self._recall(p.key, found, fresh):
                            prepared[p.key] = p
                elif not isinstance(part, str):
                    key = picture_key(part)
                    parts.append(((key,), None))
                    if key not in prepared and not self._recall(key, found, fresh):
                        prepared[key] = self._family.patches_of_picture(part, key)
        except (RoborlError, ValueError) as error:
            # One question with an impossible picture, such as one too small, is one missing reply.
            log.warning("a question has a picture that the network cannot be shown: %s", error)
            return None
        fresh |= prepared
        return parts

    def _recall(self, key: bytes, found: dict[bytes, Sight], fresh: dict[bytes, Patches]) -> bool:
        if key in found or key in fresh:
            return True
        sight = self._kept.get(key)
        if sight is not None:
            found[key] = sight
        return sight is not None
