from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest

from roborl.cli.main import VERBS, main
from roborl.config import HelpShown, dump, load, named, parse
from roborl.config_fields import as_word, gathered
from roborl.config_files import read_files
from roborl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    # speed [m/s]
    speed: float = 1.0
    # and what it is called
    name: str = "a"

    def __post_init__(self) -> None:
        if self.speed < 0:
            raise ConfigError("A speed cannot be negative", seen=self.speed, allowed="0 or more")


class Gait(StrEnum):
    SLOW = "slow"
    FAST = "fast"


@dataclass(frozen=True, kw_only=True)
class Outer:
    # the arm
    inner: Inner = field(default_factory=Inner)
    # names
    names: list[str] = field(default_factory=list)
    # sizes
    sizes: list[float] = field(default_factory=list)
    # words
    words: tuple[str, ...] = ()
    # how to go
    gait: Gait = Gait.SLOW
    # where to
    place: Path = Path()
    # what to do
    task: str = ""
    # and what to say, if anything
    remark: str | None = "done"
    # folders by name
    models: dict[str, str] = field(default_factory=dict)
    # how often
    times: int = 1


def test_a_file_and_overrides_make_one_configuration(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("inner: {speed: 2.0}\nnames: [a]\n")
    config = parse(
        Outer, ["--config_path", str(path), "--inner.speed", "3", "--gait", "fast"], prog="roborl x"
    )
    assert config.inner.speed == 3.0
    assert config.gait is Gait.FAST
    assert config.names == ["a"]
    path.write_text(dump(config))
    assert "gait: fast" in path.read_text()
    assert load(Outer, path) == config


@dataclass(frozen=True, kw_only=True)
class Limbs:
    # the upper one
    upper: Inner = field(default_factory=lambda: Inner(speed=5.0))
    # how many
    joints: int = 6


@dataclass(frozen=True, kw_only=True)
class Body:
    # its limbs
    limbs: Limbs = field(default_factory=lambda: Limbs(joints=7))
    # its head
    head: Outer = field(default_factory=lambda: Outer(gait=Gait.FAST, place=Path("up"), names=["a"]))
    # its weight
    weight: float = 1.0


@pytest.mark.parametrize("by", ["option", "file", "files"])
def test_a_section_keeps_what_it_holds_by_default_where_one_of_its_fields_is_named(
    tmp_path: Path, by: str
) -> None:
    path = tmp_path / "body.yaml"
    path.write_text("limbs: {upper: {}}\nhead: {times: 3}\n")
    other = tmp_path / "other.yaml"
    other.write_text("weight: 2.0\n")
    args = {
        "option": ["--head.times", "3", "--weight", "2"],
        "file": ["--config_path", str(path), "--weight", "2"],
        "files": ["--config_path", str(path), "--config_path", str(other)],
    }[by]
    head = Outer(gait=Gait.FAST, place=Path("up"), names=["a"], times=3)
    assert parse(Body, args, prog="roborl x") == Body(head=head, weight=2.0)
    over = parse(Body, [*args, "--head.names", "[]", "--limbs.upper.speed", "1"], prog="roborl x")
    assert over.head.names == []
    assert over.limbs == Limbs(joints=7, upper=Inner(speed=1.0))


def test_the_help_shows_what_a_section_holds_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HelpShown):
        parse(Body, ["--help"], prog="roborl x")
    said = capsys.readouterr().out
    for option, value in (("limbs.joints", 7), ("limbs.upper.speed", 5.0), ("head.gait", "fast")):
        (line,) = re.findall(rf"--{option} [^-]*default: ([^)]*)\)", said)
        assert line == str(value)


def test_of_several_files_each_stands_on_top_of_those_before_it(tmp_path: Path) -> None:
    below, above = tmp_path / "below.yaml", tmp_path / "above.json"
    below.write_text("inner: {speed: 2.0}\nnames: [a, ä]\nsizes: [1.0, .inf]\ngait: fast\n")
    above.write_text('{"names": ["b"], "inner": {}}')
    files = ["--config_path", str(below), f"--config_path={above}"]
    config = parse(Outer, [*files, "--gait", "slow"], prog="roborl x")
    assert config == Outer(inner=Inner(speed=2.0), names=["b"], sizes=[1.0, float("inf")])
    assert parse(Outer, files[:2], prog="roborl x").names == ["a", "ä"]
    assert [named(files, name) for name in ("names", "gait", "words")] == [["b"], "fast", None]
    assert named([*files, "--gait=slow", "--gait", "a b"], "gait") == "a b"
    above.write_text('{"inner": {"velocity": 1}}')
    assert told(files).seen == f"velocity in {above}"
    below.write_text("inner: 3\n")
    above.write_text('{"names": ["b"]}')
    assert told(files).seen == f"3 in {below}"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--inner.speed", "fast"], "inner.speed"),
        (["--inner.velocity", "1"], "--inner.velocity"),
        (["--inner.speed", "-1"], "negative"),
        (["--config_path", "/nowhere.yaml"], "nowhere"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(args: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse(Outer, args, prog="roborl x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("args", "config"),
    [
        (["--names", "a"], Outer(names=["a"])),
        (["--names=--x=y"], Outer(names=["--x=y"])),
        (["--names=--x={a: 1, b: 2}"], Outer(names=["--x={a: 1, b: 2}"])),
        (["--names", "pick it up"], Outer(names=["pick it up"])),
        (["--names", "[a, b]", "--gait", "fast"], Outer(names=["a", "b"], gait=Gait.FAST)),
        (["--names", "7", "--sizes", "-7"], Outer(names=["7"], sizes=[-7.0])),
        (["--words", "abc", "--inner.speed", "2"], Outer(words=("abc",), inner=Inner(speed=2.0))),
    ],
)
def test_a_single_word_is_a_list_of_one(args: list[str], config: Outer) -> None:
    assert parse(Outer, args, prog="roborl x") == config


TYPED = (
    *(
        "/x/pick #2",
        "pick: the cube",
        "2026_10_02",
        "2026-10-02",
        "1.10",
        "01",
        "007",
        "on",
        "[a, b]",
        "{a}",
        "&a",
    ),
    *(
        "'a",
        "a\nb",
        " a ",
        "-a",
        "%",
        "a\\b",
        "🤖m",
        "\x7f",
        "x\udce4",
        "{a: b, c}",
        "!include a",
        "# a",
        "a:",
        "~",
    ),
)


@pytest.mark.parametrize("word", [*TYPED, "null"])
def test_text_and_paths_are_taken_as_they_are_typed(word: str) -> None:
    def read(*args: str) -> Outer:
        return parse(Outer, args, prog="roborl x")

    assert read("--place", word) == read(f"--place={word}") == Outer(place=Path(word))
    assert read("--task", word) == read(f"--task={word}") == Outer(task=word)
    assert read("--remark", word).remark == (None if word == "null" else word), "it may be without one"
    assert read("--models", as_word({word: word})).models == {word: word}
    told_twice = gathered(["--names", "a", f"--names={as_word([word])}"], ["--names"])
    assert read(*told_twice).names == ["a", word]
    if "," not in word and not word.startswith("["):
        assert read("--names", word).names == read(f"--names={word}").names == [word]
        assert read("--words", word).words == (word,)


def test_text_within_lists_and_mappings_is_taken_as_it_is_typed() -> None:
    def read(*args: str) -> Outer:
        return parse(Outer, args, prog="roborl x")

    assert read("--names", "[01, on, null, 'a: b']").names == ["01", "on", "null", "a: b"]
    assert read("--models", "{on: 1.10, 02: 2026-10-02}").models == {"on": "1.10", "02": "2026-10-02"}
    assert read("--sizes", "[1, 2.5, .inf]").sizes == [1.0, 2.5, float("inf")]
    assert read("--inner", "{speed: 3}").inner == Inner(speed=3.0)
    assert gathered(["--names", "[01, on]"], ["--names"]) == ["--names", '["01", "on"]']


def test_the_home_folder_is_meant_wherever_a_path_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("place: ~/a\nnames: [~/b]\nmodels: {front: 'sarm:~/c'}\n")
    home = str(tmp_path)
    for args in (
        ["--place=~/a", "--names", "[~/b]", "--models={front: 'sarm:~/c'}"],
        ["--config_path=~/mine.yaml"],
        ["--config_path", "~/mine.yaml", "--config_path=~/mine.yaml"],
    ):
        found = parse(Outer, [*args, "--task", "go ~/ there"], prog="roborl x")
        assert (found.place, found.names) == (tmp_path / "a", [f"{home}/b"])
        assert (found.models, found.task) == ({"front": f"sarm:{home}/c"}, "go ~/ there")
        with pytest.raises(HelpShown):
            parse(Outer, [*args, "--task", "go ~/ there", "--print_config"], prog="roborl x")
        (tmp_path / "kept.yaml").write_text(capsys.readouterr().out)
        assert load(Outer, tmp_path / "kept.yaml") == found


def test_a_file_is_found_by_its_name_as_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("2026_10_02", "a #2", "a: b"):
        Path(name).write_text("names: [a]\n")
        assert parse(Outer, ["--config_path", name], prog="roborl x").names == ["a"]


@pytest.mark.parametrize(
    ("args", "seen"),
    [
        (["--times", "true"], "true"),
        (["--times=null"], "null"),
        (["--gait", "null"], "null"),
        (["--inner.speed", "on"], "on"),
        (["--inner", "{speed: false}"], "false"),
        (["--names", "[a: b]"], "{a: b}"),
        (["--models", "{a: [b]}"], "[b]"),
        (["--task", "include the cube"], "include the cube"),
        (["--words", "a,b"], "a,b"),
        (["--words={a: [b], c: d}"], "{a: [b], c: d}"),
        (["--place="], "nothing"),
        (["--place", ""], "nothing"),
    ],
)
def test_a_word_of_another_kind_is_refused(args: list[str], seen: str) -> None:
    assert seen in str(told(args).seen)


def told(args: list[str]) -> ConfigError:
    """Return the error of arguments, which must have all four parts."""
    with pytest.raises(ConfigError) as caught:
        parse(Outer, args, prog="roborl x")
    error = caught.value
    assert all((error.problem, error.seen, error.allowed, error.remedy)), str(error)
    assert "\n" not in str(error)
    return error


@pytest.mark.parametrize(
    "text", ["", "# nothing but this\n", "- a\n", "word\n", "3\n", "names: [a\n", "a: b: c\n"]
)
@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_file_without_fields_is_named(tmp_path: Path, text: str, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    path.write_text(text)
    assert str(path) in str(told(["--config_path", str(path)]))
    assert str(path) in str(told([f"--config_path={path}", "--inner.speed", "3"]))


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ("speed: 1\nname: a\nspeed: 2\n", r"speed in lines 1 and 3"),
        ("inner:\n  speed: 1\n  # half\n  speed: 2\n", r"inner\.speed in lines 2 and 4"),
        ("inner: {speed: 1}\nname: a\ninner: {gain: 2}\n", r"inner in lines 1 and 3"),
        ("- - {a: 1}\n  - {a: 1, a: 2}\n", r"0\.1\.a in lines 2 and 2"),
    ],
)
def test_a_field_that_stands_twice_in_a_file_is_refused_with_its_lines(
    tmp_path: Path, text: str, twice: str
) -> None:
    """The parser takes the last of them: a second section would throw away what the first says."""
    path = tmp_path / "bench.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"stands twice.*{twice} of .*bench\.yaml"):
        read_files(["--config_path", str(path)])


def test_json_may_be_indented_by_tabs(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text('{\n\t"speed": 1\n}\n')
    assert read_files(["--config_path", str(path)]) == {str(path): {"speed": 1}}


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.yaml"):
        assert str(path) in str(told(["--config_path", str(path)]))


@pytest.mark.parametrize(
    ("text", "seen", "allowed"),
    [
        ("foo: 1\nbar: 2\n", "foo, bar in ", "inner, names, sizes, words, gait, place, task"),
        ("inner: {velocity: 1}\n", "velocity in ", "speed, name"),
        ("inner: 3\n", "3 in ", "speed"),
        ("inner:\n", "nothing in ", "speed"),
        ("names: a\n", "a in ", "[a, b]"),
        ("names:\n", "nothing in ", "[a, b]"),
        ("names: [a, ]\nsizes: [1, null]\n", "nothing in ", "a number"),
        ("words: null\n", "nothing in ", "[a, b]"),
        ("words: abc\n", "abc in ", "[a, b]"),
        ("words: {a: b}\n", "{'a': 'b'} in ", "[a, b]"),
        ("place: ''\n", "nothing in ", "a path"),
        ("gait:\n", "nothing in ", "slow, fast"),
        ("place:\n", "nothing in ", "a path"),
        ("task:\n", "nothing in ", "text"),
        ("models:\n", "nothing in ", "{name: value}"),
        ("times:\n", "nothing in ", "a number"),
        ("times: true\n", "true in ", "a number"),
        ("inner: {speed: }\n", "nothing in ", "a number"),
    ],
)
def test_a_wrong_field_is_named_with_its_file_and_what_is_allowed(
    tmp_path: Path, text: str, seen: str, allowed: str
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    error = told(["--config_path", str(path)])
    assert error.seen == f"{seen}{path}"
    assert allowed in str(error.allowed)


def test_an_empty_field_may_stand_in_a_file_where_it_is_given_otherwise_or_may_be_empty(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("inner: {speed: }\ntask:\nremark:\nsizes: [1, null]\n")
    args = ["--config_path", str(path), "--task", "t", "--inner.speed=3", "--sizes", "[2]"]
    config = parse(Outer, args, prog="roborl x")
    assert config == Outer(inner=Inner(speed=3.0), task="t", sizes=[2.0], remark=None)


def test_a_section_without_a_line_may_stand_in_a_file_where_its_fields_are_given_otherwise(
    tmp_path: Path,
) -> None:
    (below, empty) = tmp_path / "below.yaml", tmp_path / "x.yaml"
    below.write_text("inner: {speed: 2}\ntask: t\n")
    empty.write_text("inner:\n")
    assert parse(Outer, [f"--config_path={empty}", "--inner.speed", "3"], prog="x").inner.speed == 3.0
    # What a file below says of it stays.
    args = [f"--config_path={below}", f"--config_path={empty}", "--inner.name", "b"]
    assert parse(Outer, args, prog="x").inner == Inner(speed=2.0, name="b")


@dataclass(frozen=True, kw_only=True)
class Lacking:
    # what there must be
    out: Path
    # what need not
    place: Path = Path("here")


def test_only_what_need_not_be_there_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    for name, remedy in (("out", "Give out one"), ("place", "Give place one, or leave it out")):
        path.write_text(f"{name}:\n")
        with pytest.raises(ConfigError) as caught:
            load(Lacking, path)
        assert caught.value.remedy == remedy
        with pytest.raises(ConfigError) as caught:
            parse(Lacking, [f"--{name}="], prog="x")
        assert caught.value.remedy == remedy.replace(f"Give {name} one", f"Correct --{name}")


def test_a_file_is_not_blamed_for_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("names: [a]\n")
    error = told(["--config_path", str(path), "--names", "a,b"])
    assert error.seen == "a,b"
    assert "--names '[a,b]'" in error.remedy


def test_a_torn_value_is_told() -> None:
    assert "[abc" in str(told(["--names", "[abc"]).seen)


def test_a_resolved_configuration_is_printed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HelpShown):
        parse(Outer, ["--inner.speed", "4", "--print_config"], prog="roborl x")
    assert "speed: 4.0" in capsys.readouterr().out


def test_misuse_exits_with_2_and_names_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    assert "demo" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


def test_a_wrong_option_of_a_verb_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "--no_such_option", "1"]) == 2
    assert "no_such_option" in capsys.readouterr().err
