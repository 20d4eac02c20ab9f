"""The bounded cache of what was read before."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from roborl.rewards.judges.caches import RecentCache


@dataclass(frozen=True)
class Thing:
    nbytes: int


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=60), st.integers(0, 100))
def test_it_never_holds_more_than_its_bound_and_counts_right(puts, bound):
    cache: RecentCache[int, Thing] = RecentCache(bound)
    for key, size in puts:
        cache.put(key, Thing(size))
        held = [cache.get(k) for k in range(10)]
        assert cache.nbytes == sum(thing.nbytes for thing in held if thing is not None) <= bound
    cache.clear()
    assert cache.nbytes == 0
    assert all(cache.get(key) is None for key in range(10))


def test_what_was_used_longest_ago_goes_first():
    cache: RecentCache[str, Thing] = RecentCache(30)
    for name in "abc":
        cache.put(name, Thing(10))
    assert cache.get("a") is not None
    cache.put("d", Thing(10))
    assert [cache.get(name) is not None for name in "abcd"] == [True, False, True, True]
    cache.put("e", Thing(31))
    assert cache.get("e") is None
    assert (cache.hits, cache.misses) == (4, 2)
