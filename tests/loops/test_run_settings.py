from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roborl.cli import learn as learn_verb
from roborl.cli import train as train_verb
from roborl.config import load, parse
from roborl.errors import ConfigError
from roborl.learning.rlpd import RlpdConfig
from roborl.loops.demonstrations import DemosConfig
from roborl.loops.learner.learn_config import LearnConfig, RunFolder
from roborl.loops.run_settings import SettingsKeeper, keep_settings, say_changes
from roborl.loops.supervise import Child, ChildSpec, Event
from roborl.loops.train_config import TrainConfig


def resolved(*args: str) -> TrainConfig:
    return parse(TrainConfig, train_verb.prepare_args(args), prog="roborl train")


def begin(run: Path, **settings: Any) -> TrainConfig:
    """Leave what a run of ``roborl train`` leaves of its settings."""
    config = replace(TrainConfig(run=run, bench_overrides=["--robot.scene=Reach"]), **settings)
    run.mkdir(exist_ok=True)
    keep_settings(RunFolder(run).settings("train"), config)
    keep_settings(RunFolder(run).learner, LearnConfig(run=run))
    return config


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (("--resume", "true"), {"resume": True}),
        (("--rollback=3",), {"rollback": 3}),
        (("--resume=yes", "--rollback", "3"), {"resume": True, "rollback": 3}),
    ],
)
def test_a_run_that_goes_on_has_its_own_settings_beneath_those_that_are_named(
    tmp_path: Path, asked: Sequence[str], wanted: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    own = begin(run, reward="brightness", episodes=20, rlpd=RlpdConfig(width=16, members=2))
    going_on = replace(own, **wanted)
    assert resolved("--run", str(run), *asked) == going_on
    named = ("--episodes", "30", "--rlpd.width", "32")
    changed = replace(going_on, episodes=30, rlpd=RlpdConfig(width=32, members=2))
    assert resolved("--run", str(run), *asked, *named) == changed
    file = tmp_path / "mine.yaml"
    file.write_text(f"run: {run}\nepisodes: 30\nrlpd: {{width: 64}}\n")
    assert resolved("--config_path", str(file), *asked, "--rlpd.width=32") == changed


def test_a_run_that_names_files_from_another_folder_is_not_gone_on_with_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another project's reward model, demonstrations or bench may lie there under the same name."""
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        (folder / "reward").mkdir(parents=True)
        (folder / "demos").mkdir()
    monkeypatch.chdir(there)
    begin(Path("run"), reward="sarm:reward", demos=DemosConfig(path="demos"))
    going_on = resolved("--run", "run", "--resume", "true")
    assert going_on.reward == "sarm:reward"
    monkeypatch.chdir(here)
    asked = ("--run", str(there / "run"), "--resume", "true")
    with pytest.raises(
        ConfigError, match=r"found from another folder.*demos\.path demos, reward sarm:reward"
    ) as said:
        resolved(*asked)
    assert str(there) in str(said.value)
    with pytest.raises(ConfigError, match=r"Found: demos\.path demos;"):
        resolved(*asked, "--reward", str(there / "reward"))
    named = resolved(*asked, "--reward", str(there / "reward"), "--demos", str(there / "demos"))
    assert (named.reward, named.demos.path) == (str(there / "reward"), str(there / "demos"))
    begin(there / "run", reward="brightness", bench="so101_sim")
    monkeypatch.chdir(there)
    assert resolved(*asked).reward == "brightness", "words are found from anywhere"


def test_a_run_of_before_a_setting_was_there_goes_on_as_it_did(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(run)
    kept = RunFolder(run).settings("train")
    lines = kept.read_text().splitlines(keepends=True)
    kept.write_text("".join(line for line in lines if "lookahead_successes: 60" not in line))
    going_on = resolved("--run", str(run), "--resume", "true")
    assert going_on.rlpd.lookahead_successes == 0
    file = tmp_path / "mine.yaml"
    file.write_text("rlpd: {lookahead_successes: 7}\n")
    for said in (["--rlpd.lookahead_successes", "7"], ["--config_path", str(file)]):
        named = resolved("--run", str(run), "--resume", "true", *said)
        assert named.rlpd.lookahead_successes == 7


def test_settings_written_by_hand_are_those_of_a_run_of_now(tmp_path: Path) -> None:
    run = tmp_path / "run"
    begin(run)
    RunFolder(run).settings("train").write_text("bench: so101_sim\nepisodes: 300\n")
    going_on = resolved("--run", str(run), "--resume", "true")
    assert (going_on.episodes, going_on.rlpd) == (300, RlpdConfig())


@pytest.mark.parametrize("name", ["pick #2", "2026_10_02", "a: b", "🤖", "null"])
def test_a_run_is_gone_on_with_whatever_its_name_looks_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    begin(Path("pick"), episodes=10)
    own = begin(Path(name), episodes=20)
    assert resolved("--run", name, "--resume", "true") == replace(own, resume=True)
    with pytest.raises(ConfigError, match="rollback takes a number"):
        resolved("--run", name, "--rollback", "true")


def test_what_one_call_asked_for_is_not_asked_for_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    own = begin(run, episodes=20, resume=True, rollback=7)
    kept = RunFolder(run).settings("train")
    assert load(TrainConfig, kept) == replace(own, resume=False, rollback=0)
    # As earlier versions left it; and the folder has another name by now.
    kept.write_text(kept.read_text().replace("rollback: 0", "rollback: 7"))
    moved = run.rename(tmp_path / "moved")
    assert resolved("--run", str(moved), "--resume", "true") == replace(
        own, run=moved, resume=True, rollback=0
    )


@pytest.mark.parametrize("verb", [train_verb, learn_verb])
def test_a_verb_without_any_argument_is_one(verb: Any) -> None:
    assert verb.prepare_args([]) == []


def test_a_new_run_has_no_settings_of_another(tmp_path: Path) -> None:
    begin(tmp_path / "run", episodes=20)
    for asked in ((), ("--resume", "false"), ("--help",)):
        args = ("--run", str(tmp_path / "run"), *asked)
        assert train_verb.prepare_args(args) == list(args)
    args = ("--run", str(tmp_path / "none"), "--resume", "true")
    assert train_verb.prepare_args(args) == list(args), "the verb itself says that there is none"


def test_a_run_that_kept_no_settings_yet_goes_on_with_those_of_the_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    RunFolder(tmp_path).lock.touch()
    args = ("--run", str(tmp_path), "--resume", "true", "--demos", "shown")
    assert train_verb.prepare_args(args)[-2:] == ["--demos.path", "shown"]
    assert "stopped before it kept its settings" in caplog.text


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["--demos", "shown"], ["--demos.path", "shown"]),
        (["--demos=shown"], ["--demos.path=shown"]),
        (["--demos="], ["--demos.path="]),
        (["--demos={path: shown, limit: 3}"], ["--demos={path: shown, limit: 3}"]),
        (["--demos", "{path: shown}", "--seed", "1"], ["--demos", "{path: shown}", "--seed", "1"]),
        (["--demos.limit=3", "--demos"], ["--demos.limit=3", "--demos.path"]),
    ],
)
def test_demonstrations_are_named_by_their_folder_alone_in_either_form(
    typed: Sequence[str], read: Sequence[str]
) -> None:
    assert train_verb.prepare_args(typed) == learn_verb.prepare_args(typed) == list(read)


def test_a_run_is_gone_on_with_by_the_verb_that_made_it(tmp_path: Path) -> None:
    own = LearnConfig(run=tmp_path, steps="tcp://127.0.0.1:7", demos=replace(LearnConfig().demos, limit=3))
    keep_settings(RunFolder(tmp_path).learner, own)
    args = ("--run", str(tmp_path), "--resume", "true")
    assert parse(LearnConfig, learn_verb.prepare_args(args), prog="roborl learn") == replace(own, resume=True)
    with pytest.raises(ConfigError, match=r"no settings of roborl train.*Allowed: roborl learn.*train\.yaml"):
        train_verb.prepare_args(args)


def test_settings_that_differ_from_the_runs_are_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    own = begin(tmp_path / "run", episodes=20, reward="brightness")
    kept = RunFolder(own.run).settings("train")
    say_changes(kept, replace(own, resume=True, run=tmp_path / "moved"))
    say_changes(kept, replace(own, episodes=30))
    assert caplog.messages == []
    say_changes(kept, replace(own, rollback=1, episodes=30, reward="", bench_overrides=[]))
    (line,) = caplog.messages
    assert line.endswith(
        "bench_overrides ['--robot.scene=Reach'] -> []; episodes 20 -> 30; reward brightness -> none"
    )


def test_what_changes_nothing_of_a_run_that_has_begun_is_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    demos = DemosConfig(path="recorded")
    own = begin(tmp_path / "run", demos=demos, episodes=20)
    kept = RunFolder(own.run).settings("train")
    caplog.set_level("INFO", logger="roborl.loops.run_settings")
    changed = replace(own, resume=True, clone=replace(own.clone, actor_updates=5))
    say_changes(kept, replace(changed, demos=replace(demos, failed=[1]), episodes=30))
    late, ahead, other = caplog.records
    assert late.levelname == ahead.levelname == "WARNING"
    assert "change nothing any more: clone.actor_updates" in late.getMessage()
    assert "count for further ones alone: demos.failed [] -> [1]." in ahead.getMessage()
    assert other.getMessage().endswith("run before: episodes 20 -> 30")
    caplog.clear()
    say_changes(kept, replace(own, resume=True, demos=replace(demos, path="more", failed=[1])))
    (line,) = caplog.messages
    assert line.endswith("run before: demos.failed [] -> [1]; demos.path recorded -> more")


def idle(child: Child) -> None:
    """Do nothing."""


def test_settings_are_kept_once_all_of_the_learner_has_started_with_them(tmp_path: Path) -> None:
    own = begin(tmp_path / "run", episodes=20)
    kept = RunFolder(own.run).settings("train")
    before = kept.read_text()
    passed_on: list[Event] = []
    learner = [ChildSpec(name=name, target=idle) for name in ("trainer", "store")]
    keeper = SettingsKeeper(passed_on.append, learner, {kept: replace(own, episodes=30, resume=True)})
    events: list[Event] = [
        {"event": event, "child": child}
        for event, child in (
            ("ready", "control"),
            ("ready", "trainer"),
            ("died", "trainer"),
            ("ready", "trainer"),
            ("started", "store"),
        )
    ]
    for event in events:
        keeper(event)
        assert kept.read_text() == before
    keeper({"event": "ready", "child": "store"})
    assert load(TrainConfig, kept) == replace(own, episodes=30)
    assert passed_on[:-1] == events
