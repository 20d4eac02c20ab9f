"""The memory of one episode against the plain one that forgets nothing."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from roborl.rewards.sarm.sightings import Sighting, Sightings


@given(st.lists(st.integers(1, 4), min_size=1, max_size=40), st.integers(0, 9))
def test_whatever_a_window_reaches_is_remembered_and_little_else(steps: list[int], reach: int) -> None:
    seen, ids = Sightings(reach=reach), []
    for present in accumulate(steps):
        ids.append(present)
        seen.add(Sighting(id=present, images=(), state=np.zeros(0, np.float32)))
        assert (seen.first.id, seen.newest.id) == (ids[0], present)
        for index in {ids[0], *range(max(ids[0], present - reach), present + 1)}:
            assert seen.until(index).id == max(i for i in ids if i <= index)
            found = seen.at(index)
            assert (found is not None) == (index in ids)
            assert found is None or found.id == index
        assert len(seen.kept) <= reach + 3
