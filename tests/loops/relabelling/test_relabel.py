"""Relabelling against an endpoint of this machine that plays every role, fails, babbles and is killed over."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roborl.cli.main import main
from roborl.cli.relabel import main as relabel_command
from roborl.data.relabel_rows import SPLITS, RelabelRow
from roborl.data.relabel_source import Film
from roborl.data.stage_log import StageLog
from roborl.errors import ConfigError, DatasetError
from roborl.locks import FolderLock
from roborl.loops.relabelling import sources as relabelled
from roborl.loops.relabelling.config import RelabelConfig
from roborl.loops.relabelling.relabel import plan, relabel
from roborl.loops.reporting.relabel_page import write_relabel_page
from roborl.loops.video import write_video
from roborl.rewards.graded_videos import METADATA, read_graded
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.model import JudgeDown
from roborl.rewards.references import video_frames
from roborl.rewards.relabelling.questions import Verify
from roborl.rewards.relabelling.replies import read_analysis
from roborl.rewards.relabelling.rules import Brief, first_fault
from roborl.rewards.relabelling.wording import VERIFY_BLIND, VERIFY_SHOWN, again
from roborl.testing.endpoint import StubEndpoint, answer
from roborl.testing.relabelling import Cast, asked_in, bars
from roborl.testing.rlds import rlds_episode, write_rlds

TASKS = ("put the cup on the plate", "open the drawer of the cabinet", "wipe the counter")
QUICK = JudgeConfig(clips="pictures", backoff_s=0.001, deadline_s=20.0, timeout_s=5.0, attempts=3)


@pytest.fixture(autouse=True)
def sources(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = [bars(episode=str(i), task=TASKS[i % 3]) for i in range(3)]

    def opened(place, *, cap, left_out, failures, **_):
        assert not failures, "what failed has no known score"
        left_out["that failed"] += 1
        return [replace(source, dataset=place) for source in found[:cap]]

    monkeypatch.setattr(relabelled, "open_sources", opened)
    # The page and its pictures are looked at once, below.
    monkeypatch.setattr("roborl.loops.relabelling.relabel.write_relabel_page", lambda folder, result: None)
    return found


@pytest.fixture
def stub():
    made = []

    def listen(say):
        made.append(StubEndpoint(say))
        return made[-1]

    yield listen
    for endpoint in made:
        endpoint.close()


def config_of(out, endpoint=None, **changes):
    model = f"toy@{endpoint.url}" if endpoint else "none"
    fields = {"source": ["bars"], "out": out, "model": model, "judge": QUICK, "val": 0.0, "test": 0.0}
    return RelabelConfig(**(fields | changes))


def read_rows(folder):
    path = folder / METADATA
    return (
        [RelabelRow(**json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []
    )


def rows_of(folder):
    return [row for split in SPLITS for row in read_rows(folder / split)]


def test_every_kind_of_row_comes_out_in_the_layout_of_roboreward(tmp_path, stub):
    cast = Cast(TASKS)
    result = relabel(config_of(tmp_path, stub(cast)))
    rows = rows_of(tmp_path)
    assert rows == result.rows
    one = [row for row in rows if row.source_episode == "0"]
    counted = Counter((row.kind, row.reward) for row in one)
    assert {pair: n for pair, n in counted.items() if pair[0] != "rewind"} == {
        ("original", 5): 1,
        **{("clip", level): 1 for level in (1, 2, 3, 4)},
        **{("counterfactual", level): 1 for level in (1, 2, 3, 4)},
        ("paraphrase", 5): 2,
        ("wrong_task", 1): 1,
    }
    assert sum(row.kind == "rewind" for row in one) == 1
    graded = read_graded(tmp_path / "train")
    assert [(g.task, g.level, g.group) for g in graded] == [(r.task, r.reward, "bars") for r in rows]
    # Every distinct video is written once, and a hash is that of its file.
    files = {row.file_name: row.video_sha256 for row in rows}
    assert len(files) == len(set(files.values())) == len(list((tmp_path / "train").rglob("*.mp4")))
    assert {g.digest() for g in graded} == set(files.values())
    assert {(row.verified, row.verifier_score == row.reward) for row in rows} == {("blind", True)}
    assert {tuple(sorted(row.models)) for row in rows if row.kind == "counterfactual"} == {
        ("model", "verifier", "writer")
    }
    assert "Nothing was verified" not in (tmp_path / "README.md").read_text()
    assert result.counts["counterfactual"][3] == 3


def test_a_blind_verifier_is_shown_nothing_of_the_proposed_score(tmp_path, stub):
    cast = Cast(TASKS)
    relabel(config_of(tmp_path, stub(cast)))
    tasks = {row.task for row in rows_of(tmp_path)}
    plain = {VERIFY_BLIND.fill(task=task, again="") for task in tasks}
    assert set(cast.words["verify_blind"]) == plain, (
        "a question of the verifier says more than the instruction"
    )
    assert "verify_shown" not in cast.words


def test_a_verifier_that_is_shown_the_score_is_asked_to_confirm_it(tmp_path, stub):
    cast = Cast(
        TASKS,
        lambda stage, n, body: answer('{"reason": "so", "correct": true}') if "shown" in stage else None,
    )
    relabel(config_of(tmp_path, stub(cast), verify=Verify.SHOWN, episodes=1))
    for row in rows_of(tmp_path):
        assert (row.verified, row.verifier_score) == ("shown", None)
        asked = VERIFY_SHOWN.fill(task=row.task, again="", level=str(row.reward))
        assert asked in cast.words["verify_shown"]


def test_every_instruction_is_put_right_once_that_of_another_episode_too(tmp_path, stub, sources):
    sources += [bars(episode=str(i), task=TASKS[i % 3]) for i in range(3, 9)]
    cast = Cast(TASKS)
    result = relabel(config_of(tmp_path, stub(cast), max_calls=400))
    assert len(cast.words["clean"]) == len(TASKS)
    wrong = [row for row in result.rows if row.kind == "wrong_task"]
    assert len(wrong) == len(sources)
    assert {row.task[0].isupper() for row in result.rows} == {True}
    assert set(wrong[0].models) == {"writer", "verifier"}
    assert "clean" in wrong[0].prompts
    # One that says the same as the episode's own once it is put right is none for it.
    said = answer('{"task": "Open the drawer of the cabinets"}')
    cast = Cast(
        TASKS, lambda stage, n, body: said if stage == "clean" and "drawer" in asked_in(body) else None
    )
    sources[:] = [bars(episode="1", task=TASKS[1]), bars(episode="4", task="open drawer of the old cabinet")]
    alike = relabel(config_of(tmp_path / "b", stub(cast)))
    assert not [row for row in alike.rows if row.kind == "wrong_task"]
    assert [r.rule for e in alike.episodes for r in e.found.rejects if r.kind == "wrong_task"] == ["copy"] * 2


def test_commands_are_written_from_1_to_4_each_seeing_the_ones_before(tmp_path, stub):
    cast = Cast(TASKS)
    relabel(config_of(tmp_path, stub(cast), episodes=1))
    written = {r.reward: r.task for r in rows_of(tmp_path) if r.kind == "counterfactual"}
    asked = cast.words["write"]
    assert len(asked) == 4
    for level, words in enumerate(asked, start=1):
        listed = words.partition("Instructions already written")[2].partition("It is one command")[0]
        assert f"earns a {level}." in words
        assert [written[k] in listed for k in (1, 2, 3, 4)] == [k < level for k in (1, 2, 3, 4)]
        assert ("as the real one is" in words) == (level >= 3)


def test_what_breaks_a_rule_or_is_not_verified_is_written_again_with_the_reason_and_not_for_ever(
    tmp_path, stub
):
    said = iter(['{"command": "Lift the banana"}', '{"command": "Put the cup on the plate"}'])

    def instead(stage, before, body):
        if stage == "write" and (reply := next(said, None)):
            return answer(reply)
        return None

    cast = Cast(TASKS, instead)
    result = relabel(config_of(tmp_path, stub(cast), episodes=1))
    (episode,) = result.episodes
    assert len(cast.words["write"]) == 6
    assert "banana" in cast.words["write"][1]
    assert cast.words["write"][2].count("cannot be used") == 1
    assert [r.rule for r in episode.found.rejects if r.stage == "write"][:1] == ["objects"]
    first = next(r for r in episode.rows if r.kind == "counterfactual")
    assert first.rejections == 2
    # A verifier that never agrees: every level is tried as often as allowed, and the rest of the episode goes on.
    stubborn = Cast(
        TASKS,
        lambda stage, n, body: (
            answer('{"reason": "no", "judged": false, "score": null}') if stage == "verify_blind" else None
        ),
    )
    result = relabel(config_of(tmp_path / "b", stub(stubborn), episodes=1, attempts=2))
    assert rows_of(tmp_path / "b") == []
    assert result.figures["accepted"] == 0.0
    lines = [json.loads(line) for line in (tmp_path / "b" / "rejects.jsonl").read_text().splitlines()]
    assert {line["rule"] for line in lines if line["stage"] == "verify"} == {"cannot be judged"}
    assert max(Counter(line["kind"] for line in lines).values()) <= 8


GARBAGE = (
    "",
    "I am sorry, but I cannot help with that.",
    '{"command": "Lift the banana with a score of 3"}',
    '{"command": "Put the cup on the plate"}',
    '{"task": "x"}',
    '{"reason": "r", "judged": true, "score": 5}',
    '{"reason": "r", "judged": true, "score": 3}',
    '{"scene": "s", "objects": ["cup"], "actions": ["a"], "final_state": "f"}',
    "{" * 50,
    "\x00\ud800".encode("utf-8", "replace").decode(),
)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_whatever_the_endpoint_says_no_row_breaks_the_rules(tmp_path_factory, random):
    def instead(stage, before, body):
        kind = random.random()
        if kind < 0.3:
            return answer(random.choice(GARBAGE), finish=random.choice(["stop", "length"]))
        if kind < 0.4:
            return random.choice(
                [(429, {}), (400, {"error": "no"}), (500, b"<html>"), (200, b"torn"), (200, {})]
            )
        return None

    cast, out = Cast(TASKS, instead), tmp_path_factory.mktemp("said")
    endpoint = StubEndpoint(cast)
    try:
        result = relabel(config_of(out, endpoint, verify=Verify.BLIND))
    except JudgeDown:
        return
    finally:
        endpoint.close()
    analyses = {}
    for line in StageLog(out / "stages" / "analyse.jsonl", dry=True).lines():
        if not line["unreadable"] and line["ended"]:
            analyses[line["episode"]] = read_analysis(str(line["reply"]))
    for episode in result.episodes:
        own = [episode.found.task, episode.source.task]
        levels: Counter[str] = Counter()
        for row in episode.rows:
            assert (row.verified, row.verifier_score) == ("blind", row.reward)
            levels[f"{row.kind} {row.reward}"] += 1
            if row.kind in ("counterfactual", "paraphrase"):
                unlike = own if row.kind == "counterfactual" else ()
                brief = Brief(analysis=analyses[episode.ladder], known=own, unlike=unlike)
                assert first_fault(row.task, brief) is None
        assert max((n for name, n in levels.items() if "counterfactual" in name), default=1) == 1
        commands = [r.task for r in episode.rows if r.kind in ("counterfactual", "paraphrase")]
        assert len(set(commands)) == len(commands)


def test_a_budget_is_kept_and_another_run_asks_for_the_rest_alone(tmp_path, stub):
    whole = Cast(TASKS)
    full = relabel(config_of(tmp_path / "whole", stub(whole)))
    told = plan(config_of(tmp_path / "part", stub(Cast(TASKS))))
    asked = sum(map(len, whole.words.values()))
    assert told["calls"] == asked == full.tally.calls.total()
    assert told["pictures"] == full.tally.pictures
    assert told["calls_at_most"] > asked
    assert not (tmp_path / "part").exists(), "a dry run writes"
    cast = Cast(TASKS)
    endpoint = stub(cast)
    first = relabel(config_of(tmp_path / "part", endpoint, max_calls=20))
    assert len(endpoint.asked) == 20
    assert first.figures["unfinished"] > 0
    assert plan(config_of(tmp_path / "part", endpoint))["calls"] < asked
    last = relabel(config_of(tmp_path / "part", endpoint))
    assert len(endpoint.asked) == asked
    assert [replace(row, models={}) for row in last.rows] == [replace(row, models={}) for row in full.rows]
    assert relabel(config_of(tmp_path / "part", endpoint)).tally.calls.total() == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_at_any_instant_it_goes_on_and_asks_nothing_twice(tmp_path, stub):
    """The child is a fork, so that it costs no imports; what was under way at the kill alone may be asked again."""
    expected = relabel(config_of(tmp_path / "whole", stub(Cast(TASKS))))
    endpoint = stub(Cast(TASKS))
    config = config_of(tmp_path / "killed", endpoint, judge=replace(QUICK, concurrency=1))
    kills = 0
    for wanted in (3, 9, 17, 31, 40):
        child = os.fork()
        if child == 0:
            try:
                relabel(config)
            finally:
                os._exit(0)
        while len(endpoint.asked) < wanted and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
        except (ProcessLookupError, ChildProcessError):
            break
    with (tmp_path / "killed" / "stages" / "write.jsonl").open("ab") as log:
        log.write(b'{"key": "torn')
    result = relabel(config)
    bodies = Counter(json.dumps(body, sort_keys=True) for body in endpoint.asked)
    assert sum(bodies.values()) - len(bodies) <= kills
    assert len(result.rows) == len(expected.rows)
    unlike = [
        (had.file_name, name, getattr(had, name), getattr(row, name))
        for row, had in zip(result.rows, expected.rows, strict=True)
        for name in (field.name for field in fields_of(had))
        if name != "models" and getattr(row, name) != getattr(had, name)
    ]
    assert not unlike
    assert not list((tmp_path / "killed").rglob("*.draft"))


def test_without_a_network_only_cheap_rows_come_and_it_says_that_nothing_was_verified(tmp_path, sources):
    result = relabel(config_of(tmp_path, onsets={"bars": 0.5}))
    assert {row.kind for row in result.rows} == {"original", "clip", "rewind", "wrong_task"}
    assert {row.verified for row in result.rows} == {"none"}
    assert result.left_out == {"that failed": 1}
    assert "Nothing was verified" in (tmp_path / "README.md").read_text()
    last = next(row for row in result.rows if row.kind == "clip" and row.reward == 4)
    assert (last.clip_fraction, last.onset, last.video_frames) == (0.7, 0.5, 11)
    # Fewer episodes the next time: their videos go, what is kept is not written again.
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "train").rglob("*.mp4")}
    again = relabel(config_of(tmp_path, onsets={"bars": 0.5}, episodes=1))
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / "train").rglob("*.mp4")}
    assert left.items() <= kept.items()
    assert len(left) == len({row.file_name for row in again.rows})


@pytest.mark.parametrize("kept", ["stages/sources.json", "relabel.json"])
def test_rows_of_another_source_are_not_taken_away(tmp_path, kept):
    relabel(config_of(tmp_path / "o"))
    if kept == "relabel.json":  # as earlier releases left it
        (tmp_path / "o" / "stages" / "sources.json").unlink()
    before = {path: path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()}
    other = config_of(tmp_path / "o", source=["rods"])
    for run in (relabel, plan):
        with pytest.raises(
            DatasetError, match=rf"made from other sources.*rods.*bars.*another --out.*{kept}"
        ):
            run(other)
    assert {path: path.read_bytes() for path in (tmp_path / "o").rglob("*") if path.is_file()} == before
    assert {row.source_dataset for row in relabel(config_of(tmp_path / "o")).rows} == {"bars"}
    both = relabel(config_of(tmp_path / "o", source=["bars", "rods"]))
    assert {row.source_dataset for row in both.rows} == {"bars", "rods"}
    with pytest.raises(DatasetError, match="made from other sources"):
        relabel(config_of(tmp_path / "o"))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("my card")
    with pytest.raises(DatasetError, match=r"something else where the rows are to go.*README\.md"):
        relabel(config_of(tmp_path))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("README.md", "my card")]


def test_an_episode_and_all_that_is_made_of_it_is_in_one_split_whatever_others_there_are(tmp_path, sources):
    sources += [bars(episode=str(i), task=TASKS[i % 3], count=8) for i in range(3, 24)]
    result = relabel(config_of(tmp_path, val=0.2, test=0.3))
    splits = {split: {row.ladder for row in read_rows(tmp_path / split)} for split in SPLITS}
    assert all(splits.values())
    assert sum(map(len, splits.values())) == len(set().union(*splits.values())) == 24
    by_episode = {e.source.episode: e.split for e in result.episodes}
    del sources[12:]
    fewer = relabel(config_of(tmp_path / "fewer", val=0.2, test=0.3))
    assert {e.source.episode: e.split for e in fewer.episodes}.items() <= by_episode.items()
    tasks = {e.source.task for e in result.episodes if e.split == "test"}
    assert {r.task for r in read_rows(tmp_path / "test") if r.kind == "wrong_task"} <= tasks


def test_an_endpoint_that_answers_nothing_ends_the_run_and_what_was_answered_is_kept(tmp_path, stub):
    cast = Cast(
        TASKS, lambda stage, before, body: (401, {"error": "key"}) if stage == "verify_blind" else None
    )
    endpoint = stub(cast)
    with pytest.raises(JudgeDown, match=r"answers nothing.*run the same again"):
        relabel(config_of(tmp_path, endpoint))
    assert len(StageLog(tmp_path / "stages" / "clean.jsonl", dry=True)) == 3
    assert len(cast.words["verify_blind"]) < 60


def test_questions_that_an_endpoint_always_refuses_end_no_run(tmp_path, stub, sources):
    sources += [bars(episode=str(i), task=TASKS[i % 3]) for i in range(3, 11)]
    cast = Cast(TASKS, lambda stage, n, body: (400, {"error": "too long"}) if stage == "analyse" else None)
    endpoint = stub(cast)
    first = relabel(config_of(tmp_path, endpoint))
    assert first.tally.unanswered["analyse"] == first.figures["unfinished"] == len(sources)
    assert {row.kind for row in rows_of(tmp_path)} == {"original", "clip", "rewind", "wrong_task"}
    assert relabel_command(config_of(tmp_path, endpoint))["exit"] == 1
    # Nor does a run that asks nothing else, and so hears nothing but refusals.
    again = relabel(config_of(tmp_path, endpoint))
    assert (again.rows, again.tally.calls.total()) == (first.rows, len(sources))
    # Who never answered anything refuses everything.
    with pytest.raises(JudgeDown, match="answers nothing"):
        relabel(config_of(tmp_path / "b", stub(lambda body: (400, {"error": "no such model"}))))


@dataclass(frozen=True, kw_only=True)
class Torn:
    film: Film
    whole: int

    def read(self, indices):
        if max(indices) >= self.whole:
            raise DatasetError("A picture cannot be decoded", seen=max(indices))
        return self.film.read(indices)


@dataclass(frozen=True, kw_only=True)
class Changing:
    film: Film
    whole: int

    def read(self, indices):
        found = self.film.read(indices)
        return {i: p if i < self.whole else p.repeat(2, axis=0) for i, p in found.items()}


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("fault", [Torn, Changing])
def test_an_episode_with_a_picture_that_cannot_be_used_is_left_out_alone(
    tmp_path, stub, sources, fault, asked
):
    whole = relabel(config_of(tmp_path / "whole", stub(Cast(TASKS)) if asked else None))
    sources[1] = replace(sources[1], film=fault(film=sources[1].film, whole=20))
    cast = Cast(TASKS)
    config = config_of(tmp_path / "torn", stub(cast) if asked else None)
    for _ in range(2):
        result = relabel(config)
        assert result.left_out == {"that failed": 1, "that cannot be read": 1}
        kept = [replace(row, models={}) for row in whole.rows if row.source_episode != "1"]
        assert [replace(row, models={}) for row in result.rows] == kept
        assert not asked or result.figures["unfinished"] == 0
    sources[:] = [sources[1]]
    with pytest.raises(DatasetError, match=r"No episode can be relabelled.*cannot be read"):
        relabel(config)


def test_replies_under_way_are_written_down_before_a_run_ends_with_an_error(tmp_path, stub, monkeypatch):
    def instead(stage, before, body):
        if stage == "analyse":
            time.sleep(0.2)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("roborl.loops.relabelling.assemble.Assembler.rows", full)
    endpoint = stub(Cast(TASKS, instead))
    config = config_of(tmp_path, endpoint)
    with pytest.raises(OSError, match="no space"):
        relabel(config)
    logged = sum(len(path.read_text().splitlines()) for path in (tmp_path / "stages").glob("*.jsonl"))
    assert logged == len(endpoint.asked)


def test_an_episode_of_which_nobody_knows_how_it_ended_is_no_5(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    silent = rlds_episode(1, steps=4, reward=np.zeros(5, np.float32))
    root = write_rlds(tmp_path / "desk" / "1.0.0", [rlds_episode(0, steps=4), silent])
    config = config_of(tmp_path / "o", source=[str(root)], rate_hz=5.0)
    result = relabel(config)
    assert [e.source.episode for e in result.episodes] == ["00000-000000"]
    assert result.left_out == {"of which nobody says whether they succeeded": 1}
    assert len(relabel(replace(config, success=True)).episodes) == 2
    write_rlds(root, [silent])
    with pytest.raises(DatasetError, match=r"No episode can be relabelled.*--success true"):
        relabel(config)


def test_videos_with_keyframes_are_demonstrations_unless_it_is_said_that_they_failed(tmp_path, monkeypatch):
    monkeypatch.undo()
    for name in ("a", "b"):
        (tmp_path / "table" / name).mkdir(parents=True)
        pictures = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), np.uint8)
        write_video(tmp_path / "table" / name / "front.mp4", pictures, fps=10)
        marks = [{"annotation": "wipe", "start_frame_id": 0, "end_frame_id": 11}]
        (tmp_path / "table" / name / "annotated_keyframes.json").write_text(json.dumps(marks))
    (tmp_path / "table" / "task_instruction.json").write_text('["wipe the table"]')
    config = config_of(tmp_path / "o", source=[str(tmp_path / "table")])
    assert len(relabel(config).episodes) == len(relabel(replace(config, success=True)).episodes) == 2
    with pytest.raises(DatasetError, match=r"No episode can be relabelled\. Found: 2 that failed\. Allowed"):
        relabel(replace(config, success=False))


def session(folder, level):
    one = rlds_episode(0, steps=11)
    one["steps"]["observation"]["image"] = np.full((12, 32, 32, 3), level, np.uint8)
    return write_rlds(folder / "1.0.0", [one])


def test_a_dataset_recorded_anew_in_its_place_keeps_none_of_the_old_videos(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = config_of(tmp_path / "o", source=[str(tmp_path / "desk")], rate_hz=5.0)
    for level in (40, 220):
        session(tmp_path / "desk", level)
        row = next(row for row in relabel(config).rows if row.kind == "original")
        pictures = video_frames(tmp_path / "o" / "train" / row.file_name, [3])
        assert abs(int(pictures[3].mean()) - level) < 5


def test_two_sessions_of_one_name_in_a_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for day, level in (("monday", 50), ("tuesday", 200)):
        session(tmp_path / "made" / day / "desk", level)
        (tmp_path / "both" / day).mkdir(parents=True)
        (tmp_path / "made" / day / "desk" / "1.0.0").rename(tmp_path / "both" / day / "1.0.0")
    with pytest.raises(ConfigError, match="Two episodes of a source have one name"):
        relabel(config_of(tmp_path / "o", source=[str(tmp_path / "both")], rate_hz=5.0))


def test_settings_that_cannot_work_are_told(tmp_path, sources):
    for wrong in (
        {"onset": 0.0},
        {"val": 0.6, "test": 0.5},
        {"attempts": 0},
        {"clips": {4: 0.2, 3: 0.4}},
        {"max_calls": -1},
        *({"video_hz": value} for value in (0.0, float("nan"), float("inf"))),
        *({"frame_hz": value} for value in (0.0, float("nan"), float("inf"))),
        *({"rate_hz": value} for value in (0.0, float("nan"), float("inf"))),
        {"val": float("nan")},
        {"temperature": float("nan")},
        {"require": ["nothing>=1"]},
        {"verifier": "fake"},
        {"model": "fake", "writer": "none"},
    ):
        with pytest.raises(ConfigError):
            config_of(tmp_path, **wrong)
    with pytest.raises(ConfigError, match="onset is given for a source"):
        relabel(config_of(tmp_path, onsets={"other": 0.5}))
    sources.clear()
    with pytest.raises(DatasetError, match="No episode can be relabelled"):
        relabel(config_of(tmp_path))


def test_reasons_of_rejection_are_said_to_whom_is_asked_again():
    assert again([]) == ""
    assert "- because" in again(["because"])


def test_the_page_shows_what_there_is_and_escapes_what_was_said(tmp_path, sources, monkeypatch):
    monkeypatch.setattr("roborl.loops.relabelling.relabel.write_relabel_page", write_relabel_page)
    sources[:] = [
        bars(episode="0", task="put the <b>cup</b> on the plate"),
        bars(episode="1", task=TASKS[1]),
    ]
    relabel(config_of(tmp_path, require=["rows>=1000"]))
    page = (tmp_path / "report.html").read_text()
    for said in (
        "rows from 2 episodes",
        "Nothing was verified",
        "Not met: rows",
        "&lt;b&gt;cup&lt;/b&gt;",
    ):
        assert said in page
    assert "<b>cup" not in page
    assert page.count("data:image/jpeg;base64,") == 2
    assert "http" not in page.replace("http://www.w3.org", "")


def test_two_sources_of_one_name_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="one name"):
        relabel(config_of(tmp_path, source=["bars", "bars"]))


def test_the_command_line_says_what_came_and_a_bar_that_is_missed_fails(tmp_path, capsys):
    words = ["relabel", "--source", "a", "--source", "b", "--out", str(tmp_path / "o"), "--model", "fake"]
    assert main([*words, "--dry_run", "true"]) == 0
    assert json.loads(capsys.readouterr().out)["calls"] > 30
    assert not (tmp_path / "o").exists()
    assert main([*words, "--require", "rows>=1", "--require", "text_only<=0.1"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["met"] is False
    assert "rows>=1: met" in err
    assert "text_only<=0.1: not met" in err
    assert "made up" in err
    assert main(["relabel", "--out", str(tmp_path / "p"), "--model", "elsewhere@"]) == 2


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(DatasetError, match="writes into this"):
        relabel(config_of(tmp_path))
    lock.close()


@pytest.mark.slow
def test_a_network_of_this_machine_that_babbles_leaves_no_row(tmp_path):
    from roborl.testing.tiny_vlms import build_tiny_vlm

    network = build_tiny_vlm(tmp_path / "tiny", "qwen3_vl")
    here = JudgeConfig(device="cpu", dtype="float32")
    result = relabel(
        config_of(tmp_path / "o", model=str(network), judge=here, episodes=1, attempts=1, max_tokens=8)
    )
    assert result.rows == []
    assert result.figures["unreadable"] == 1.0
