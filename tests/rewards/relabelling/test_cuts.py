"""Videos end where their score says, and networks are always shown the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.rewards.relabelling import cheap
from roborl.rewards.relabelling.cheap import cheap_proposals
from roborl.rewards.relabelling.cuts import Timeline, clips, glimpses
from roborl.rewards.relabelling.proposals import Kind, LadderConfig

TIMELINES = st.builds(
    Timeline,
    count=st.integers(2, 400),
    rate_hz=st.sampled_from([3.0, 5.0, 10.0, 29.97, 30.0]),
    onset=st.floats(0.05, 1.0),
    video_hz=st.sampled_from([2.0, 10.0]),
)
SHARES = {1: 0.1, 2: 0.3, 3: 0.5, 4: 0.7}


@given(TIMELINES)
def test_cuts_keep_order_and_clips_of_higher_scores_end_later(timeline: Timeline) -> None:
    whole = timeline.whole()
    assert whole[0] == 0
    assert whole[-1] == timeline.count - 1
    assert list(whole) == sorted(whole)
    assert timeline.rate_hz < timeline.video_hz or len(set(whole)) == len(whole)
    ends = [places[-1] for _, (_, places) in sorted(clips(timeline, SHARES).items())]
    assert ends == sorted(set(ends))
    assert all(0 < end < round(timeline.onset * (timeline.count - 1)) for end in ends)
    back = timeline.rewind(0.3)
    if back is not None:
        assert back[: len(whole)] == whole
        assert list(back[len(whole) :]) == sorted(back[len(whole) :], reverse=True)
        assert back[-1] == round(0.3 * timeline.onset * (timeline.count - 1))


def test_no_clip_shows_the_task_done() -> None:
    for count in (2, 3):
        timeline = Timeline(count=count, rate_hz=5.0, onset=1.0, video_hz=5.0)
        assert all(places != timeline.whole() for _, places in clips(timeline, SHARES).values())
    early = Timeline(count=11, rate_hz=5.0, onset=0.1, video_hz=5.0)
    assert not clips(early, SHARES)


@given(TIMELINES, st.sampled_from([0.5, 1.0, 2.0]))
def test_networks_see_evenly_spaced_moments_and_the_true_last_one(
    timeline: Timeline, frame_hz: float
) -> None:
    places = timeline.whole()
    shown, stamps = glimpses(places, timeline.video_hz, frame_hz)
    assert shown[0] == places[0]
    assert shown[-1] == places[-1]
    assert len(shown) == len(stamps) >= 2
    assert list(stamps) == sorted(stamps)
    assert len(shown) <= max(2, 2 + (len(places) - 1) * frame_hz / timeline.video_hz)


def test_cheap_rows_depend_on_the_episode_alone_and_take_no_instruction_that_says_the_same() -> None:
    timeline = Timeline(count=50, rate_hz=10, onset=1.0, video_hz=10)
    others = ["Place cup into the sink", "open the drawer", "put the cup in sink"]
    config = LadderConfig(wrong_tasks=3, rewinds=2)
    rows = cheap_proposals("e1", "put the cup in the sink", timeline, others, config, 0)
    assert rows == cheap_proposals("e1", "put the cup in the sink", timeline, others[::-1], config, 0)
    assert [row.task for row in rows if row.kind is Kind.WRONG_TASK] == ["open the drawer"]
    assert sum(row.kind is Kind.REWIND for row in rows) == 2
    assert [row.level for row in rows if row.kind is Kind.CLIP] == [1, 2, 3, 4]
    assert {row.level for row in rows if row.kind is Kind.ORIGINAL} == {5}


def test_instructions_without_latin_letters_are_swapped_as_well() -> None:
    timeline = Timeline(count=50, rate_hz=10, onset=1.0, video_hz=10)
    others = ["把杯子放进水槽。", "把书放在桌上", "打开抽屉"]
    rows = cheap_proposals("e1", "把杯子放进水槽", timeline, others, LadderConfig(wrong_tasks=3), 0)
    assert {row.task for row in rows if row.kind is Kind.WRONG_TASK} == {"把书放在桌上", "打开抽屉"}


def test_few_instructions_are_compared_with_the_task_and_the_draw_is_that_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timeline = Timeline(count=50, rate_hz=10, onset=1.0, video_hz=10)
    others = [f"put the cup in box {number}" for number in range(200)]
    drawn = {}
    for count in (0, 2, 4):
        compared = []
        monkeypatch.setattr(cheap, "much_alike", lambda one, other, at=compared: bool(at.append(one)))
        rows = cheap_proposals("e1", "open the drawer", timeline, others, LadderConfig(wrong_tasks=count), 0)
        drawn[count] = [row.task for row in rows if row.kind is Kind.WRONG_TASK]
        assert len(compared) == len(drawn[count]) == count
    assert set(drawn[2]) < set(drawn[4])
    lowest = sorted(others, key=lambda words: cheap.drawn_at(f"0 wrong task e1 {words}"))[:4]
    assert drawn[4] == sorted(lowest)
