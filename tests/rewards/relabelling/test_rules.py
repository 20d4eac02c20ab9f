"""A command is turned down for the rule that it breaks, and only for that."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.rewards.relabelling.replies import (
    Analysis,
    UnreadableReply,
    plan_reader,
    read_analysis,
    read_blind,
    read_command,
    read_shown,
)
from roborl.rewards.relabelling.rules import Brief, cleaning_fault, first_fault
from roborl.rewards.relabelling.vocabulary import named_things
from roborl.rewards.relabelling.wording import WORDINGS

SEEN = Analysis(
    scene="a sink",
    objects=("red cup", "drying rack", "sink", "plates"),
    actions=("reaches",),
    final_state="the cup is in the sink",
)
ORIGINAL = "Put the red cup into the sink"


def rule(command: str, **changes: object) -> str:
    brief = {"analysis": SEEN, "known": [ORIGINAL], "unlike": [ORIGINAL, "Lift the plates"]} | changes
    fault = first_fault(command, Brief(**brief))  # type: ignore[arg-type]
    return fault.rule if fault else ""


@pytest.mark.parametrize(
    ("command", "broken"),
    [
        ("Put the red cup on the drying rack", ""),
        ("Turn the cup upside down next to the plate", ""),
        ("push " + "the cup " * 12, "length"),
        ("Go", "length"),
        ("Put the jalape\u00f1o in the sink", "characters"),
        ("Put the cup\nin the rack", "characters"),
        ("The cup goes on the rack", "verb"),
        ("(Put) the cup on the rack", "verb"),
        ("Put the cup on the rack. Then leave", "one sentence"),
        ("Put the cup on the rack for a score", "speaks of the scale"),
        ("Fail to lift the cup", "verb"),
        ("Lift the cup as in the original", "speaks of the scale"),
        ("place red cup in the sink.", "copy"),
        ("Please put it in the sink", "verb"),
        ("lift plate", "copy"),
        ("Put the banana in the sink", "objects"),
        ("Put the cup in the drawer", "objects"),
    ],
)
def test_the_first_rule_that_is_broken_is_named(command: str, broken: str) -> None:
    assert rule(command) == broken


def test_the_main_object_is_kept_where_it_has_to_be_and_length_where_it_is_given() -> None:
    assert rule("Put the plates on the rack", main_object="red cup") == "main object"
    assert rule("Put the cups on the rack", main_object="red cup") == ""
    assert rule("Put the cup on the rack", length=9) == "length"
    assert rule("Put the cup gently on the rack", length=9) == ""
    assert rule("Put the red cup into the sink", unlike=[], apart_from=[ORIGINAL]) == "copy"
    assert rule("Place the red cup in the sink", unlike=[], apart_from=[ORIGINAL]) == ""


def test_things_are_named_by_the_last_of_their_words() -> None:
    assert named_things("stack bowls onto blue towel and wipe counter") == ["bowls", "towel", "counter"]


def test_an_instruction_put_right_is_still_the_same() -> None:
    assert cleaning_fault("Put the cup into the sink.", "put the cuup in to sink") is None
    assert cleaning_fault("Open the fridge and take out the milk", "put cup in sink") is not None


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I cannot help with that.",
        '{"command": 3}',
        '{"command": ""}',
        '{"command": "lift it", "score": 3}',
        '{"command": "lift it", "command": "drop it"}',
        'Sure: {"command": "lift it"}',
        '{"command": "lift \\ud800"}',
        "[" * 100_000,
        '["command"]',
        '{"command": NaN}',
    ],
)
def test_a_reply_of_another_form_is_none(reply: str) -> None:
    with pytest.raises(UnreadableReply):
        read_command(reply)


def test_replies_of_the_asked_form_are_read() -> None:
    assert read_command('```json\n{"command": " lift\\n it "}\n```') == "lift it"
    verdict = {"reason": "so", "judged": True, "score": 4}
    assert read_blind(json.dumps(verdict)).level == 4
    assert read_blind(json.dumps(verdict | {"judged": False, "score": None})).level is None
    assert read_shown('{"reason": "so", "correct": false}').agrees is False
    for wrong in (
        {"score": 6},
        {"score": True},
        {"score": 4.0},
        {"score": None},
        {"judged": False},
        {"judged": 1},
    ):
        with pytest.raises(UnreadableReply):
            read_blind(json.dumps(verdict | wrong))


def test_a_plan_is_one_failure_for_each_score_in_order_about_an_object_in_view() -> None:
    entries = [{"score": level, "failure": f"wants {level}"} for level in (1, 2, 3, 4)]
    plan = {"main_object": "Red Cup", "failures": entries}
    assert plan_reader(SEEN)(json.dumps(plan)).failures == ("wants 1", "wants 2", "wants 3", "wants 4")
    for wrong in (
        {"failures": entries[::-1]},
        {"failures": entries[:3]},
        {"failures": [entries[0]] * 4},
        {"failures": [*entries[:3], {"score": 4, "failure": "WANTS  3"}]},
        {"main_object": "spoon"},
    ):
        with pytest.raises(UnreadableReply):
            plan_reader(SEEN)(json.dumps(plan | wrong))


def test_objects_named_in_another_script_are_asked_for_again() -> None:
    seen = {"scene": "桌子", "objects": ["杯子"], "actions": ["移动"], "final_state": "杯子在盘子上"}
    with pytest.raises(UnreadableReply, match="English"):
        read_analysis(json.dumps(seen))
    mixed = read_analysis(json.dumps(seen | {"objects": ["杯子", "plate"]}))
    plan = {"failures": [{"score": level, "failure": f"wants {level}"} for level in (1, 2, 3, 4)]}
    assert plan_reader(mixed)(json.dumps(plan | {"main_object": "plate"})).main_object == "plate"
    with pytest.raises(UnreadableReply, match="English"):
        plan_reader(mixed)(json.dumps(plan | {"main_object": "杯子"}))


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["scene", "objects", "actions", "final_state", "reason", "judged", "score", "command"]
        ),
        st.sampled_from(
            [None, True, 3, 9, -1.5, "", "so", "\x00", [], ["so"], [3], {}, [{"score": 1, "failure": ""}]]
        ),
        max_size=5,
    )
)
def test_nothing_but_an_unreadable_reply_comes_of_any_json(value: object) -> None:
    for read in (read_command, read_analysis, read_blind, read_shown, plan_reader(SEEN)):
        try:
            read(json.dumps(value))
        except UnreadableReply:
            continue


def test_words_put_into_slots_stay_words_and_stages_are_told_apart() -> None:
    assert len({wording.opening for wording in WORDINGS.values()}) == len(WORDINGS)
    assert len({wording.sha256 for wording in WORDINGS.values()}) == len(WORDINGS)
    filled = WORDINGS["clean"].fill(task="{again} and {task}", again="")
    assert "{again} and {task}" in filled
