"""Looking at the pictures of many questions: each different one once, those seen before not at all."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import batched

from roborl.errors import RoborlError
from roborl.rewards.judges.caches import RecentCache
from roborl.rewards.judges.queries import Clip, VlmQuery, picture_key
from roborl.rewards.judges.sights import Family, Patches, Sight
from roborl.rewards.judges.turns import Seen
from roborl.types import Image

log = logging.getLogger(__name__)

type _Noted = tuple[tuple[bytes, ...], Clip | None]

AT_ONCE = 64
"""Most pictures in one run of the vision network."""


class Eyes:
    """Runs a vision network over pictures.

    Args:
        family: How it is called.
        kept: Pictures seen before.
        at_once: Most pictures in one run.

    Attributes:
        looked: Pictures and instants that the vision network has been run over.
    """

    def __init__(self, family: Family, kept: RecentCache[bytes, Sight], at_once: int = AT_ONCE) -> None:
        self._family = family
        self._kept = kept
        self._at_once = at_once
        self.looked = 0

    def look(self, queries: Sequence[VlmQuery]) -> list[list[Seen] | None]:
        """Return what is seen of each picture and clip of each question; None where one cannot be looked at."""
        found: dict[bytes, Sight] = {}
        clips: dict[bytes, Patches] = {}
        pictures: dict[bytes, Image] = {}
        instants = iter(self._instants([p for q in queries for p in q.parts if isinstance(p, Clip)]))
        noted = [self._note(query, instants, found, clips, pictures) for query in queries]
        for part in batched([*clips.values(), *self._prepared(pictures)], self._at_once):
            self.looked += len(part)
            for patches, sight in zip(part, self._family.see(part), strict=True):
                found[patches.key] = sight
                self._kept.put(patches.key, sight)
        return [None if parts is None else _seen(parts, found) for parts in noted]

    def _note(
        self,
        query: VlmQuery,
        instants: Iterator[tuple[Patches, ...] | None],
        found: dict[bytes, Sight],
        clips: dict[bytes, Patches],
        pictures: dict[bytes, Image],
    ) -> list[_Noted] | None:
        """Return the digests of a question's pictures, and sort these into seen before and still to look at."""
        noted: list[_Noted] = []
        possible = True
        for part in query.parts:
            if isinstance(part, Clip):
                of_clip = next(instants)
                possible = possible and of_clip is not None
                noted.append((tuple(p.key for p in of_clip or ()), part))
                clips |= {p.key: p for p in of_clip or () if not self._recall(p.key, found, clips)}
            elif not isinstance(part, str):
                key = picture_key(part)
                noted.append(((key,), None))
                if not self._recall(key, found, pictures):
                    pictures[key] = part
        return noted if possible else None

    def _recall(self, key: bytes, found: dict[bytes, Sight], fresh: Container[bytes]) -> bool:
        if key in found or key in fresh:
            return True
        sight = self._kept.get(key)
        if sight is not None:
            found[key] = sight
        return sight is not None

    def _instants(self, clips: Sequence[Clip]) -> list[tuple[Patches, ...] | None]:
        """Preprocess all clips at once, or where that fails one by one; None for one that is impossible."""
        try:
            return [*self._family.patches_of_clips(clips)]
        except (RoborlError, ValueError) as error:
            if len(clips) == 1:
                log.warning("a question has a clip that the network cannot be shown: %s", error)
                return [None]
        return [one for clip in clips for one in self._instants([clip])]

    def _prepared(self, pictures: Mapping[bytes, Image]) -> list[Patches]:
        """Preprocess all pictures at once, or where that fails one by one, so that an impossible one hurts itself."""
        if not pictures:
            return []
        try:
            return self._family.patches_of_pictures([*pictures.values()], [*pictures])
        except ValueError as error:
            if len(pictures) == 1:
                log.warning("a question has a picture that the network cannot be shown: %s", error)
                return []
        return [p for key, picture in pictures.items() for p in self._prepared({key: picture})]


def _seen(parts: Sequence[_Noted], found: Mapping[bytes, Sight]) -> list[Seen] | None:
    if any(key not in found for keys, _ in parts for key in keys):
        return None
    return [Seen(sights=tuple(found[key] for key in keys), keys=keys, clip=clip) for keys, clip in parts]
