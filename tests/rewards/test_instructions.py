"""Instructions are the same where they say the same."""

from __future__ import annotations

import numpy as np
import pytest

from roborl.rewards.instructions import draw_unlike, much_alike, one_spelling, words_of


def test_what_says_the_same_is_told_from_what_says_otherwise() -> None:
    assert much_alike("open the drawer", "Open the draweer")
    assert not much_alike("move the cup left", "move the cup right")
    assert not much_alike("put the cup on the plate", "put the plate on the cup")


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("把杯子放进水槽", "把杯子放进水槽。", True),
        ("把杯子放进水槽", "把书放在桌上", False),
        ("把杯子放进水槽", "把盘子放进水槽", False),
        ("Положи чашку в раковину", "положи чашку в раковину.", True),
        ("Положи чашку в раковину", "положи тарелку в раковину", False),
        ("कप उठाओ", "केप उठाओ", False),  # vowels that stand above their letter
        ("หยิบถ้วยใส่ในอ่างล้างจาน", "หยิบด้วยใส่ในอ่างล้างจาน", False),
        ("open cabinet1", "open cabinet2", False),
        ("open cabinet1", "Open the cabinet1", True),
        ("!?", "...", False),
        ("!?", "!?", True),
    ],
)
def test_instructions_of_any_script_and_with_numbers_are_told_apart(
    one: str, other: str, alike: bool
) -> None:
    assert much_alike(one, other) is alike


def test_a_task_goes_by_its_first_spelling() -> None:
    said = [
        "open the drawer",
        "Put cup in sink",
        "open a draweer.",
        "place the cup into the sink",
        "!?",
        "...",
    ]
    spelled = {said[2]: said[0], said[3]: said[1]}
    assert one_spelling(said) == {words: spelled.get(words, words) for words in said}


def test_words_of_any_script_are_found() -> None:
    assert words_of("Положи чашку, café cup_2!") == ["положи", "чашку", "café", "cup", "2"]
    assert words_of("u\u0308ber") == words_of("\u00fcber")
    assert words_of("把 cup 放") == ["把", "cup", "放"]


def test_what_is_drawn_says_something_else_in_whatever_words() -> None:
    rng = np.random.default_rng(0)
    own, others = (
        ["Put the cup in the sink", "wash it up"],
        ["put cup into sink.", "Wash it up!", "fold the towel"],
    )
    assert {draw_unlike(own, others, rng) for _ in range(30)} == {"fold the towel"}
    assert draw_unlike(own, [*own, *others[:2]], rng) is None
