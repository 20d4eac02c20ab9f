"""The whole way: datasets on disk and models by name to a table, plots, a result and an exit code."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roborl.cli.bench_reward import prepare_args
from roborl.cli.main import main
from roborl.data.dataset_episode import DatasetEpisode
from roborl.errors import ConfigError, DatasetError
from roborl.loops.benchmarks.reward import bench_reward, short_names
from roborl.loops.benchmarks.reward_cohort import read_cohort
from roborl.loops.benchmarks.reward_config import RESULT, BenchRewardConfig
from roborl.loops.benchmarks.reward_result import format_table
from roborl.loops.references import ReferencesConfig
from roborl.loops.reward_gate import RewardGate
from roborl.loops.video import write_video
from roborl.rewards.benchmark import FIGURES, BenchmarkSettings, measure
from roborl.rewards.fake import BrightnessModel
from roborl.rewards.measured import FORMAT
from roborl.rewards.registry import load_reward_model
from roborl.testing.episodes import CAMERAS, lerobot_recording, random_episode, write_episodes
from roborl.types import EndCause


def lamp(seed: int, *, success: bool, task: str = "light the lamp") -> DatasetEpisode:
    """Pictures get as bright as the task is done."""
    steps = 10
    truth = np.linspace(0.0, 1.0 if success else 0.4, steps + 1)
    grain = np.random.default_rng(seed)
    images = {
        name: np.clip(
            255 * truth[:, None, None, None] + grain.integers(0, 2, (steps + 1, *size, 3)), 0, 255
        ).astype(np.uint8)
        for name, size in CAMERAS.items()
    }
    return random_episode(
        seed,
        steps,
        task=task,
        images=images,
        subtasks=(),
        success=success,
        end=EndCause.SUCCESS if success else EndCause.TIME_LIMIT,
        failure="" if success else "stall",
        benchmark_progress=truth.astype(np.float32),
    )


@pytest.fixture(scope="module")
def lamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "lamps"
    episodes = [lamp(seed, success=True) for seed in range(4)] + [
        lamp(10 + seed, success=False) for seed in range(3)
    ]
    write_episodes(path, *episodes, lamp(20, success=True, task="put out the lamp"), benchmark_progress=True)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    code = main(["bench-reward", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, json.loads(out or "{}"), err


def test_a_benchmark_measures_writes_draws_and_judges(
    lamps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--model", "brightness", "--dataset", lamps, "--lag", 3, "--out", tmp_path)
    code, said, err = run(
        capsys, *common, "--require", "voc>=0.95", "--require", "false_success_rate<=0", "--seed", 1
    )
    assert code == 0, err
    assert said["models"]["brightness"]["accuracy"] == 1.0
    assert "value order" in err
    assert "time only" in err
    assert "3 successes and 2 failures; 5 with a derived grade" in err
    assert "brightness: voc>=0.95: met" in err
    result = json.loads((tmp_path / RESULT).read_text())
    assert result["format"] == FORMAT
    assert result["met"] is True
    assert result["models"]["brightness"]["version"] == "brightness-all"
    assert result["models"]["brightness"]["figures"] == said["models"]["brightness"]
    assert result["time_only"]["figures"]["false_success_rate"] == 1.0
    assert result["time_only"]["figures"]["text_only_voc"] is None
    assert result["episodes"]["test_failures"] == 2
    assert result["episodes"]["derived_grades"] == result["episodes"]["privileged_truth"] == 5
    for name in ("progress.png", "reliability.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    RewardGate(result=str(tmp_path / RESULT)).check("brightness-all")

    code, said, err = run(capsys, *common, "--require", "derived_grade_mae<=0.0001", "--require", "voc<=0.5")
    assert code == 1
    assert said["met"] is False
    assert "brightness: voc<=0.5: not met" in err
    assert json.loads((tmp_path / RESULT).read_text())["models"]["brightness"]["missed"] == ["voc<=0.5"]
    with pytest.raises(ConfigError, match=r"does not pass its gate.*Found: voc 1.*Allowed: voc<=0.5"):
        RewardGate(result=str(tmp_path / RESULT)).check("brightness-all")


def test_a_calibration_that_was_fitted_is_applied_and_measured_again(lamps: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    config = BenchRewardConfig(model=["brightness"], dataset=[str(lamps)], out=first, probes=False)
    first_result = bench_reward(config)
    found = first_result.measured["brightness"]
    assert found.calibration is not None
    place = f"calibrated:{first / RESULT}:brightness"
    again = bench_reward(replace(config, model=[place], out=second))
    (name,) = again.places
    assert again.measured[name].version.startswith("brightness-all-cal")
    curves = {s.episode.video: curve for s, curve in zip(first_result.cohort.test, found.curves, strict=True)}
    for s, two in zip(again.cohort.test, again.measured[name].curves, strict=True):
        np.testing.assert_allclose(two.progress, found.calibration(curves[s.episode.video].progress))
    RewardGate(result=str(second / RESULT), require=["voc>=0.95"]).check(
        load_reward_model(place).info.version
    )


def test_it_is_said_where_time_alone_knows_nothing_of_a_task(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "lamps"
    write_episodes(data, *(lamp(seed, success=True) for seed in range(2)))
    write_episodes(data, lamp(2, success=True, task="Light lamp."))
    config = BenchRewardConfig(model=["brightness"], dataset=[str(data)], out=tmp_path / "out", probes=False)
    bench_reward(config)
    assert "other tasks" not in caplog.text
    write_episodes(data, lamp(9, success=False, task="mend the lamp"))
    bench_reward(config)
    assert "knows only the mean of other tasks on 1 of 3 episodes" in caplog.text


def test_a_result_is_not_written_over_the_calibration_of_its_own_model(lamps: Path, tmp_path: Path) -> None:
    config = BenchRewardConfig(model=["brightness"], dataset=[str(lamps)], out=tmp_path / "out", probes=False)
    bench_reward(config)
    place = f"calibrated:{tmp_path}/./out/{RESULT}:brightness"
    for named in (place, f"calibrated:other.json:{place}"):
        with pytest.raises(
            ConfigError, match=r"written over the calibration.*Found: .*Allowed: .*--out .*-calib"
        ):
            bench_reward(replace(config, model=["brightness", named]))
    assert load_reward_model(place).info.version.startswith("brightness-all-cal")


def grade_some(folder: Path) -> Path:
    """Videos in the layout of RoboRewardBench; each is dark but for its end, which is as bright as its grade is high."""
    (folder / "droid").mkdir(parents=True)
    lines = []
    for number, level in enumerate((1, 3, 5, 5)):
        shade = round(255 * (level - 1) / 4)
        frames = [np.zeros((32, 48, 3), np.uint8)] * 9 + [np.full((32, 48, 3), shade, np.uint8)] * 3
        if number == 3:  # written anew it would differ, in the second of its making
            shutil.copyfile(folder / "droid" / "2.mp4", folder / "droid" / "3.mp4")
        else:
            write_video(folder / "droid" / f"{number}.mp4", frames, fps=10)
        lines.append({"file_name": f"droid/{number}.mp4", "task": "light the lamp", "reward": level})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_videos_that_people_graded_are_a_benchmark_alone_or_beside_others(
    lamps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graded = grade_some(tmp_path / "graded")
    common = ("--model", "brightness", "--graded", graded, "--out", tmp_path / "out")
    bars = ("grade_mae<=0", "grade_unreadable<=0", "grade_false_five_high<=0.7")
    code, said, err = run(capsys, *common, *(word for bar in bars for word in ("--require", bar)))
    assert code == 0, err
    assert "4 videos graded by people" in err
    result = json.loads((tmp_path / "out" / RESULT).read_text())
    assert result["time_only"] is None
    row = result["models"]["brightness"]
    assert row["given_grades"]["by_group"] == {"droid": 0.0}
    # Two of the videos are the same, byte for byte.
    assert (row["given_grades"]["questions"], row["given_grades"]["videos"]) == (4, 3)
    assert row["given_grades"]["confusion"][4] == [0, 0, 0, 0, 2]
    assert row["given_grades"]["reading"] == "progress"
    assert row["given_grades_written"] is row["figures"]["written_grade_mae"] is None
    assert row["figures"]["grade_false_five"] == 0.0
    assert row["figures"]["derived_grade_mae"] is None
    assert row["figures"]["query_ms"] > 0
    assert result["episodes"]["given_grades"] == 4
    assert list(result["episodes"]["datasets"]) == [str(graded)]

    code, said, err = run(capsys, *common, "--dataset", lamps, "--probes", "false")
    assert code == 0, err
    figures = said["models"]["brightness"]
    assert figures["grade_mae"] == figures["derived_grade_mae"] == 0.0
    assert "time only" in err


def test_what_is_fitted_and_what_is_judged_are_different_episodes(lamps: Path) -> None:
    cohort = read_cohort(BenchRewardConfig(dataset=[str(lamps)], validation=0.3))
    assert not {s.episode.video for s in cohort.validation} & {s.episode.video for s in cohort.test}
    assert len(cohort.validation) + len(cohort.test) == 8
    assert not cohort.references
    assert all(not s.references for s in cohort.test)
    assert {s.level for s in cohort.test if s.episode.success} == {5}
    assert {s.level for s in cohort.test if not s.episode.success} == {3}
    assert all(s.other_task != s.episode.task and s.other_task for s in cohort.test)


def test_datasets_of_the_same_folder_name_are_groups_of_their_own(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("first/lamps", "second/lamps", "others")]
    for number, place in enumerate(places):
        write_episodes(place, *(lamp(9 * number + seed, success=True) for seed in range(2)))
    cohort = read_cohort(BenchRewardConfig(dataset=[str(place) for place in places]))
    for part in (cohort.validation, cohort.test):
        assert [s.group for s in part] == [str(places[0]), str(places[1]), "others"]


def test_an_episode_that_several_datasets_hold_counts_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, merged = str(tmp_path / "one"), str(tmp_path / "merged")
    episodes = [lamp(seed, success=True) for seed in range(6)]
    write_episodes(Path(one), *episodes[:4])
    write_episodes(Path(merged), *episodes[4:], *episodes[:4])
    for datasets, whole in (([one, one], 4), ([one, merged], 6)):
        cohort = read_cohort(BenchRewardConfig(dataset=datasets))
        known = [s.episode.video for s in (*cohort.validation, *cohort.test)]
        assert len(known) == len(set(known)) == whole
        assert cohort.described()["repeated"] == cohort.repeated == 4
    assert "4 episodes are left out: a dataset that was named before holds them as well" in caplog.text


def test_the_same_motion_in_other_pictures_is_judged_with_its_twin(tmp_path: Path) -> None:
    episodes = [lamp(seed, success=seed % 2 == 0) for seed in range(8)]
    dim = [replace(e, images={name: rgb // 2 for name, rgb in e.images.items()}) for e in episodes]
    write_episodes(tmp_path / "plain", *episodes)
    write_episodes(tmp_path / "dim", *dim)
    cohort = read_cohort(BenchRewardConfig(dataset=[str(tmp_path / "plain"), str(tmp_path / "dim")]))
    assert (cohort.repeated, len(cohort.validation) + len(cohort.test)) == (0, 16)
    for part in (cohort.validation, cohort.test):
        plain, other = (
            {s.episode.origin.content for s in part if s.group == group and s.episode.origin}
            for group in ("plain", "dim")
        )
        assert plain == other


def test_another_spelling_of_the_task_is_no_other_task(tmp_path: Path) -> None:
    spelt = [lamp(4 + seed, success=True, task="Light lamp.") for seed in range(2)]
    write_episodes(tmp_path / "lamps", *(lamp(seed, success=True) for seed in range(3)), *spelt)
    cohort = read_cohort(BenchRewardConfig(dataset=[str(tmp_path / "lamps")]))
    assert {s.other_task for s in (*cohort.test, *cohort.validation)} == {""}
    assert cohort.described()["other_words"] == "none"


def test_a_demonstration_is_of_the_task_and_nobody_is_judged_on_it(tmp_path: Path) -> None:
    other = "put out the lamp"
    write_episodes(
        tmp_path / "lamps",
        *(lamp(seed, success=True) for seed in range(3)),
        *(lamp(5 + seed, success=True, task=other) for seed in range(2)),
        lamp(8, success=False, task=other),
        lamp(9, success=False, task="mend the lamp"),
    )
    place = str(tmp_path / "lamps")
    cohort = read_cohort(BenchRewardConfig(dataset=[place], references=ReferencesConfig(path=place)))
    demos = {
        episode.task: episode.images for episode in (lamp(0, success=True), lamp(5, success=True, task=other))
    }
    assert cohort.references.keys() == demos.keys()
    judged = cohort.validation + cohort.test
    assert (len(judged), cohort.left_out) == (4, 1)
    for s in judged:
        demo = demos[s.episode.task]
        assert set(s.references) == {f"demo/{name}" for name in demo}
        assert all(np.array_equal(s.references[f"demo/{name}"], rgb) for name, rgb in demo.items())
        images = s.episode.read().images
        assert not all(np.array_equal(images[name], rgb) for name, rgb in demo.items())


def test_progress_of_failures_is_not_made_up(tmp_path: Path) -> None:
    write_episodes(
        tmp_path / "plain",
        *(lamp(seed, success=True) for seed in range(3)),
        *(lamp(9 + seed, success=False) for seed in range(2)),
    )
    cohort = read_cohort(BenchRewardConfig(dataset=[str(tmp_path / "plain")]))
    for s in (*cohort.validation, *cohort.test):
        if s.episode.success:
            assert np.allclose(s.truth, np.linspace(0, 1, 11), atol=1e-6)
        else:
            assert np.isnan(s.truth).all()
            assert s.level is None
    assert cohort.described()["privileged_truth"] == 0


def test_cameras_of_other_names_are_mapped(lamps: Path, tmp_path: Path) -> None:
    ours, theirs = "overhead", next(iter(CAMERAS))
    config = BenchRewardConfig(dataset=[str(lamps)], camera_map={ours: theirs})
    shown = {name for subject in read_cohort(config).test for name in subject.episode.read().images}
    assert shown == {ours, *CAMERAS} - {theirs}
    only = read_cohort(replace(config, cameras=[ours]))
    assert {tuple(subject.episode.read().images) for subject in only.test} == {(ours,)}
    with pytest.raises(DatasetError, match="lacks a camera"):
        read_cohort(replace(config, camera_map={ours: "nowhere"}))


def test_a_dataset_without_two_successes_is_refused(tmp_path: Path) -> None:
    write_episodes(tmp_path / "one", lamp(1, success=True), lamp(2, success=False))
    with pytest.raises(DatasetError, match="too few successful episodes"):
        read_cohort(BenchRewardConfig(dataset=[str(tmp_path / "one")]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "x"], "nothing to measure"),
        (["--model", "brightness", "--dataset", "x", "--require", "beauty>=1"], "requirement cannot be read"),
        (["--model", "brightness", "--dataset", "x", "--validation", "1"], "measured in this way"),
        (["--model", "brightness", "--dataset", "x", "--lag", "0"], "measured in this way"),
        (["--model", "brightness", "--dataset", "[x, y]", "--failed", "[1]"], "number alone does not name"),
    ],
)
def test_misuse_is_said(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert words in err


def test_models_repeat_and_their_names_stay_apart() -> None:
    assert prepare_args(["--model", "a", "--require=voc>=1", "--model", "b"]) == [
        *("--model", '["a", "b"]'),
        *("--require", '["voc>=1"]'),
    ]
    assert prepare_args(["--model", "[a, b]", "--model", "c"]) == ["--model", '["a", "b", "c"]']
    assert list(short_names(["x/r", "y/r", "clip:z/c"])) == ["x/r", "y/r", "clip:c"]
    assert short_names(["x/r", "r"]) == {"x/r": "x/r", "r": "r"}
    with pytest.raises(ConfigError, match="named twice"):
        short_names(["a", "a"])


def test_the_table_has_a_column_per_model_and_a_dash_where_nothing_is() -> None:
    figures = dict.fromkeys(FIGURES, float("nan"))
    lines = format_table({"one": figures | {"voc": 0.5}, "another long name": figures}).splitlines()
    assert lines[0].split()[0] == "one"
    assert lines[1].split()[-3:] == ["0.500", "-", "voc"]
    assert len(lines) == 1 + len(FIGURES)


def test_pictures_are_held_only_while_they_are_shown(tmp_path: Path) -> None:
    pictures = [np.full((21, 128, 128, 3), 20 * seed, np.uint8) for seed in range(10)]
    episodes = [
        random_episode(seed, 20, images={"front": shown}, subtasks=(), task="t", provenance=None)
        for seed, shown in enumerate(pictures)
    ]
    write_episodes(tmp_path / "many", *episodes)
    config = BenchRewardConfig(model=["brightness"], dataset=[str(tmp_path / "many")], probes=False)
    tracemalloc.start()
    cohort = read_cohort(config)
    measure(BrightnessModel(), cohort.validation, cohort.test, BenchmarkSettings(stride=10, probes=False))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.6 * sum(shown.nbytes for shown in pictures)


def test_the_metadata_of_a_dataset_is_not_read_again_to_show_an_episode(
    lamps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = read_cohort(BenchRewardConfig(dataset=[str(lamps)]))
    for module in ("lerobot_io", "lerobot_files"):
        monkeypatch.delattr(f"roborl.data.{module}.load_files")
    for s in cohort.test:
        assert s.episode.read().frames == s.episode.frames


def test_datasets_of_different_rates_are_not_measured_together(lamps: Path, tmp_path: Path) -> None:
    lerobot_recording(tmp_path / "fast", [3, 3], fps=30)
    config = BenchRewardConfig(dataset=[str(lamps), str(tmp_path / "fast")])
    with pytest.raises(
        ConfigError, match=r"different rates.*10 Hz in .*, 30 Hz in .*Allowed: .*each dataset alone"
    ):
        read_cohort(config)


def test_a_torn_list_of_models_is_told() -> None:
    with pytest.raises(ConfigError, match="--model cannot be read") as caught:
        prepare_args(["--model", "[abc"])
    assert all((caught.value.seen, caught.value.allowed, caught.value.remedy))
