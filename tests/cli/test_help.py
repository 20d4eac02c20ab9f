"""``--help`` of every verb: each option of ours says what it does."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from draccus.argparsing import ArgumentParser
from draccus.wrappers.choice_wrapper import ChoiceWrapper
from draccus.wrappers.dataclass_wrapper import DataclassWrapper
from draccus.wrappers.field_wrapper import FieldWrapper

import roborl.testing.config_stub_teleoperator  # noqa: F401  (a choice of --teleop wherever it is known)
from roborl.cli import train_reward
from roborl.cli.main import VERBS, main
from roborl.config import HelpShown, parse

KINDS = ["sarm", "pairs", "perceptual", "dopamine", "roboreward", "vlac"]


def config_of(verb: str) -> type[Any]:
    """Return what a verb is told; ``train-reward KIND`` is one verb for each kind of model."""
    name, _, kind = verb.partition(" ")
    if kind:
        return train_reward.choose(["--model", kind])[0]
    config: type[Any] = importlib.import_module(f"roborl.cli.{name.replace('-', '_')}").Config
    return config


def options(group: Any) -> Iterator[tuple[str, type[Any], str]]:
    """Yield the name, the class and the help of each option, however deep."""
    children = group._children.values() if isinstance(group, ChoiceWrapper) else group._children
    for child in children:
        if isinstance(child, FieldWrapper):
            owner: Any = child.parent
            yield child.dest, owner.dataclass, child.help or ""
        elif child is not None:
            yield from options(child)


ALL = [*VERBS, *(f"train-reward {kind}" for kind in KINDS)]


@pytest.mark.parametrize("verb", ALL)
def test_every_option_of_ours_says_what_it_does(verb: str) -> None:
    config = config_of(verb)
    found = list(options(DataclassWrapper(config)))
    ours = [(name, text) for name, owner, text in found if owner.__module__.startswith("roborl.")]
    assert ours
    assert [name for name, text in ours if not text.strip()] == []
    shown = ArgumentParser(config, prog=f"roborl {verb}").parser.format_help()
    assert all(f"--{name}" in shown for name, _ in ours)


@pytest.mark.parametrize("verb", ALL)
def test_help_lists_each_option_once_and_promises_no_file_that_is_not_read(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(HelpShown):
        parse(config_of(verb), ["--help"], prog=f"roborl {verb}")
    shown = capsys.readouterr().out
    assert "Config file for" not in shown
    listed = re.findall(r"^  (--[\w.]+)", shown, flags=re.M)
    assert "--config_path" in listed
    # The kinds that a choice knows share names.
    chosen = tuple(name.removesuffix("type") for name in listed if name.endswith(".type"))
    once = [name for name in listed if not (chosen and name.startswith(chosen))]
    assert len(once) == len(set(once)), sorted(once)


@pytest.mark.parametrize("verb", ["train", "learn"])
def test_help_says_what_demos_alone_is(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "also given as --demos PATH" in shown


def sections(config: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the default of each section, however deep."""
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            yield f"{before}{each.name}", value
            yield from sections(value, f"{before}{each.name}.")


# What a verb cannot be told nothing of, beside fields without a default.
NEEDED = {
    "watch": ["source"],
    "label": ["dataset", "reward"],
    "filter": ["dataset"],
    "train-reward pairs": ["dataset"],
}


@pytest.mark.parametrize("verb", [verb for verb in ALL if verb != "bench"])
def test_a_named_option_changes_no_other(verb: str) -> None:
    """A section is made anew where one of its fields is named; what it holds by default must stay."""
    config = config_of(verb)
    asked = [each.name for each in dataclasses.fields(config) if _lacks_default(each)] + NEEDED.get(verb, [])
    needed = [word for name in asked for word in (f"--{name}", "somewhere")]
    plain = parse(config, needed, prog="roborl")
    for name, section in sections(plain):
        numbers = [
            (each.name, getattr(section, each.name))
            for each in dataclasses.fields(section)
            if type(getattr(section, each.name)) in (int, float)
        ]
        for field, value in numbers[:1]:
            args = [*needed, f"--{name}.{field}", str(value)]
            assert parse(config, args, prog="roborl") == plain, name


def _lacks_default(declared: dataclasses.Field[Any]) -> bool:
    return declared.default is declared.default_factory is dataclasses.MISSING
