"""An RLDS dataset becomes a LeRobotDataset once, whatever interrupts it, and what is damaged is left out and counted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from roborl.cli.main import main
from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.lerobot_info import describe
from roborl.data.lerobot_io import read_episodes
from roborl.data.lerobot_writer import write_dataset
from roborl.data.rlds import importing
from roborl.data.rlds.conversion import convert
from roborl.data.rlds.dataset import RldsDataset
from roborl.data.rlds.importing import Imported, import_rlds
from roborl.data.rlds.mapping import map_features
from roborl.errors import DatasetError
from roborl.testing.rlds import rlds_episode, write_rlds


class Killed(BaseException):
    """What SIGKILL is to the code."""


def test_an_import_goes_on_where_it_was_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    given = [rlds_episode(seed, steps=2) for seed in range(4)]
    given.insert(1, rlds_episode(9, steps=0))
    # Pictures of another size than the first episode's.
    given[3]["steps"]["observation"]["image"] = np.full((3, 32, 40, 3), 90, np.uint8)
    root = write_rlds(tmp_path / "viola" / "1.0.0", given, shards=2)
    features = root / "features.json"
    features.write_text(features.read_text().replace('["16", "20", "3"]', '["-1", "-1", "3"]'))
    (shard,) = root.glob("*-00001-of-00002")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:40] + b"!!" + whole[42:])
    out = tmp_path / "out"

    def end(done: int, of: int) -> None:
        assert of == 5
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        import_rlds(root, out, on_episode=end)
    assert main(["import", "--dataset", str(root), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert json.loads(said) == {
        "dataset": str(out),
        "episodes": 2,
        "present": 2,
        "damaged": 1,
        "short": 0,
        "several_tasks": 0,
        "unjudged": 0,
    }
    assert "an episode is left out" in caplog.text
    info = describe(out)
    assert (info.fps, list(info.cameras)) == (20, ["image", "wrist_image"])
    found = list(read_episodes(out))
    assert [e.key for e in found] == [
        "rlds-viola-train-0001-000000",
        "rlds-viola-train-0001-000001",
        "rlds-viola-train-0001-000002",
        "rlds-viola-train-0002-000001",
    ]
    for episode, seed in zip(found, (0, 1, 3, 2), strict=True):
        steps = rlds_episode(seed, steps=2)["steps"]
        np.testing.assert_array_equal(episode.action, steps["action"][:2])
        np.testing.assert_array_equal(episode.state, steps["observation"]["state"])
        np.testing.assert_array_equal(episode.images["wrist_image"], steps["observation"]["wrist_image"])
        assert (episode.task, episode.success) == (f"put the cube in bowl {seed % 2}", True)
    assert {e.images["image"].shape for e in found} == {(3, 16, 20, 3)}
    shard.write_bytes(whole)
    again = import_rlds(root, out)
    assert (again.episodes, again.present, again.damaged, again.short) == (0, 4, 0, 1)
    shard.write_bytes(whole[:40] + b"!!" + whole[42:])
    with pytest.raises(DatasetError, match="not what was written"):
        import_rlds(root, tmp_path / "strict", strict=True)


def test_an_import_that_is_sent_sigterm_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_rlds(tmp_path / "viola" / "1.0.0", [rlds_episode(seed, steps=2) for seed in range(3)])
    append = importing.DatasetWriter.append

    def append_and_be_ended(writer: importing.DatasetWriter, episode: DatasetEpisode) -> int:
        index = append(writer, episode)
        if index == 1:
            signal.raise_signal(signal.SIGTERM)
        return index

    monkeypatch.setattr(importing.DatasetWriter, "append", append_and_be_ended)
    assert main(["import", "--dataset", str(root), "--out", str(tmp_path / "out")]) == 1
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert len(list(read_episodes(tmp_path / "out"))) == 2


@pytest.mark.slow
def test_an_import_that_is_killed_goes_on_behind_its_last_checkpoint(tmp_path: Path) -> None:
    root = write_rlds(tmp_path / "viola" / "1.0.0", [rlds_episode(seed, steps=2) for seed in range(4)])
    script = (
        "import os, sys; from pathlib import Path; from roborl.data.rlds.importing import Imported, import_rlds; "
        "import_rlds(sys.argv[1], Path(sys.argv[2]), on_episode=lambda n, _: n == 3 and os.kill(os.getpid(), 9))"
    )
    child = subprocess.run([sys.executable, "-c", script, str(root), str(tmp_path / "out")], check=False)
    assert child.returncode == -9
    import_rlds(root, tmp_path / "out")
    found = list(read_episodes(tmp_path / "out"))
    assert [e.key[-6:] for e in found] == ["000000", "000001", "000002", "000003"]
    for seed, episode in enumerate(found):
        np.testing.assert_array_equal(episode.action, rlds_episode(seed, steps=2)["steps"]["action"][:2])


def test_a_record_without_any_step_ends_no_import(tmp_path: Path) -> None:
    given = [rlds_episode(seed, steps=steps) for seed, steps in enumerate((2, -1, 3))]
    root = write_rlds(tmp_path / "viola" / "1.0.0", given)
    assert import_rlds(root, tmp_path / "out") == Imported(episodes=2, present=0, damaged=0, short=1)


def test_an_episode_that_was_cut_and_judged_is_known_again_in_its_import(tmp_path: Path) -> None:
    cut = rlds_episode(0, steps=4, is_last=np.zeros(5, bool)) | {"success": np.array(True)}
    root = write_rlds(tmp_path / "desk" / "1.0.0", [cut, rlds_episode(1) | {"success": np.array(True)}])
    import_rlds(root, tmp_path / "out", rate_hz=5)
    dataset = RldsDataset(root)
    mapping = map_features(dataset.info, rate_hz=5)
    before = [convert(dataset.episode(i), mapping, cameras=[]) for i in range(2)]
    after = list(read_episodes(tmp_path / "out", with_images=False))
    assert [e.content for e in after] == [e.content for e in before if e is not None]
    first = after[0]
    assert (first.steps, first.repeated_last, first.copied_last) == (5, False, True), (
        "a row of the file is one"
    )
    assert first.provenance is not None
    assert not first.provenance.meta, "nothing that its actor said"
    write_dataset(tmp_path / "again", read_episodes(tmp_path / "out"), fps=5)
    again = read_episodes(tmp_path / "again", with_images=False)
    assert [e.content for e in again] == [e.content for e in after], (
        "nor is it forgotten in a copy of the import"
    )


def test_a_dataset_without_a_state_is_imported(tmp_path: Path) -> None:
    observation = {"front_rgb": np.full((3, 8, 8, 3), 50, np.uint8)}
    root = write_rlds(tmp_path / "roboturk" / "0.1.0", [rlds_episode(0, steps=2, observation=observation)])
    assert main(["import", "--dataset", str(root), "--out", str(tmp_path / "out"), "--episodes", "1"]) == 0
    (episode,) = read_episodes(tmp_path / "out")
    assert (episode.state.shape, list(episode.images)) == ((3, 0), ["front_rgb"])


def test_a_second_session_of_one_name_is_not_taken_for_the_first(tmp_path: Path) -> None:
    monday, tuesday = (tmp_path / day / "desk" for day in ("monday", "tuesday"))
    write_rlds(monday / "1.0.0", [rlds_episode(0, steps=2), rlds_episode(1, steps=2)])
    write_rlds(tuesday / "1.0.0", [rlds_episode(7, steps=2)])
    out = tmp_path / "out"
    assert import_rlds(monday, out, rate_hz=5, limit=1).episodes == 1
    with pytest.raises(DatasetError, match=r"another dataset of this name.*another folder"):
        import_rlds(tuesday, out, rate_hz=5)
    again = import_rlds(monday, out, rate_hz=5)
    assert (again.episodes, again.present) == (1, 1)
    assert import_rlds(tuesday, tmp_path / "other", rate_hz=5).episodes == 1


@pytest.mark.parametrize(
    ("other", "name", "words"),
    [
        ({"rate_hz": 20}, "rate_hz", r"rate_hz 20\.0.*Allowed: rate_hz 5\.0"),
        ({"instruction": "natural"}, "instruction", r"natural.*Allowed: .*language_instruction"),
        ({"images": ["image"]}, "images", r"images.*Allowed: .*wrist_image"),
        ({"video": True}, "video", "video True.*Allowed: video False"),
    ],
)
def test_an_import_that_is_repeated_with_other_settings_is_refused(
    tmp_path: Path, other: dict[str, Any], name: str, words: str
) -> None:
    episodes = [rlds_episode(seed, steps=2, natural=["do it"] * 3) for seed in range(2)]
    root, out = write_rlds(tmp_path / "desk" / "1.0.0", episodes), tmp_path / "out"
    import_rlds(root, out, rate_hz=5, limit=1)
    with pytest.raises(DatasetError, match=rf"another {name}\. Found: .*{words}.*another folder"):
        import_rlds(root, out, **{"rate_hz": 5, **other})
    assert import_rlds(root, out, rate_hz=5, instruction="language_instruction").present == 1
    # What an earlier release wrote says its rate and its cameras.
    log = out / "meta" / "rlds_records.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if "settings" not in line))
    if name in ("rate_hz", "images"):
        with pytest.raises(DatasetError, match=f"another {name}"):
            import_rlds(root, out, **{"rate_hz": 5, **other})
    assert import_rlds(root, out, rate_hz=5).present == 2


def test_what_of_an_action_is_left_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    action = {"open": np.ones(3, bool), "terminate_episode": np.zeros(3, np.float32)}
    root = write_rlds(tmp_path / "desk" / "1.0.0", [rlds_episode(0, steps=2, action=action)])
    import_rlds(root, tmp_path / "out", rate_hz=5)
    assert "left out: steps/action/terminate_episode" in caplog.text
    (episode,) = read_episodes(tmp_path / "out", with_images=False)
    assert episode.action.tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize(("name", "deltas"), [("bridge_dataset", 6), ("desk", 0)])
def test_the_row_behind_the_last_action_commands_nothing_new(tmp_path: Path, name: str, deltas: int) -> None:
    """LeRobot's trainer takes it for a target: 0 would close a gripper that is to stay open, or send joints to 0."""
    action = np.linspace(0.2, 1.0, 4 * 7, dtype=np.float32).reshape(4, 7)
    camera = {"image_0": rlds_episode(0, steps=3)["steps"]["observation"]["image"]}
    given = rlds_episode(0, steps=3, action=action, observation=camera)
    root = write_rlds(tmp_path / name / "1.0.0", [given])
    import_rlds(root, tmp_path / "out", rate_hz=5)
    table = pq.read_table(next((tmp_path / "out" / "data").glob("*/*.parquet")))
    for column in ("action", "proposed_action"):
        *_, before, last = table.column(column).to_pylist()
        assert last == [0.0] * deltas + before[deltas:]
    assert table.column("is_last_observation").to_pylist()[-1]


def test_a_rate_that_is_no_whole_number_is_rounded_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_rlds(tmp_path / "desk" / "1.0.0", [rlds_episode(0, steps=0)])
    with pytest.raises(
        DatasetError,
        match=r"no episode to import\. Found: 0 damaged, 1 without a step and 0 with several instructions",
    ):
        import_rlds(root, tmp_path / "out", rate_hz=12.5)
    made = []

    def refuse(out: Path, **said: Any) -> None:
        made.append(said["fps"])
        raise Killed

    monkeypatch.setattr(importing, "DatasetWriter", refuse)
    write_rlds(root, [rlds_episode(0)])
    with pytest.raises(Killed):
        import_rlds(root, tmp_path / "out", rate_hz=12.5)
    assert made == [12]
    assert "12.5 Hz become 12" in caplog.text


def test_misuse_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_rlds(tmp_path / "desk" / "1.0.0", [rlds_episode(0)])
    out = str(tmp_path / "out")
    assert main(["import", "--dataset", str(root), "--out", out]) == 2
    assert "Say it with rate_hz" in capsys.readouterr().err
    assert main(["import", "--dataset", str(root), "--out", out, "--episodes", "0"]) == 2
    assert main(["import", "--dataset", str(tmp_path), "--out", out]) == 1
    assert not (tmp_path / "out").exists()
