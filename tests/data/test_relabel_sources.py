"""Episodes to relabel come out of datasets of every form alike, drawn so that one can say which."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from roborl.data.relabel_source import RelabelSource
from roborl.data.relabel_sources import open_sources, part_of
from roborl.errors import ConfigError, DatasetError
from roborl.testing.episodes import lerobot_recording, random_episode, write_episodes
from roborl.types import EndCause, Image


class NoFilm:
    def read(self, indices: list[int]) -> dict[int, Image]:
        raise AssertionError("nobody looks at it")


def source(episode: str, **changes: str) -> RelabelSource:
    return RelabelSource(
        dataset="bridge",
        split="train",
        episode=episode,
        task="open the drawer",
        camera="front",
        rate_hz=5.0,
        count=10,
        success=True,
        film=NoFilm(),
        origin=changes.get("origin", ""),
    )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("v3") / "recorded"
    write_episodes(
        path,
        random_episode(0),
        random_episode(1, discarded=True),
        random_episode(2, success=False, end=EndCause.FAILURE),
        random_episode(3, task="  "),
        random_episode(4, images={n: p * 0 for n, p in random_episode(4).images.items()}),
        random_episode(5),
    )
    return path


def test_a_recording_of_ours_gives_its_usable_episodes(
    recorded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = list(open_sources(str(recorded)))
    assert [(s.episode, s.success, s.count, s.camera) for s in found] == [
        ("000000", True, 7, "front"),
        ("000002", False, 7, "front"),
        ("000005", True, 7, "front"),
    ]
    assert {(s.dataset, s.split, s.rate_hz) for s in found} == {("recorded", "train", 10.0)}
    assert "3 episodes taken" in caplog.text
    for reason in ("1 without an instruction", "1 with a black", "1 that are to be kept out"):
        assert reason in caplog.text
    pictures = found[0].read([6, 0, 6])
    assert list(pictures) == [0, 6]
    for i, picture in pictures.items():
        np.testing.assert_array_equal(picture, random_episode(0).images["front"][i])
    assert [s.episode for s in open_sources(str(recorded), failures=False)] == ["000000", "000005"]
    assert {s.camera for s in open_sources(str(recorded), camera="wrist")} == {"wrist"}


def test_single_frames_of_a_video_are_those_of_their_episode(tmp_path: Path) -> None:
    lerobot_recording(tmp_path / "films", [4, 6], video=True)
    second = list(open_sources(str(tmp_path / "films"), camera="laptop"))[1]
    pictures = second.read([5, 2])
    for i, picture in pictures.items():
        assert abs(float(picture[:, :, 1].mean()) - 25 * (i + 1)) < 6, "frame t has brightness 25 (t + 1)"


def test_a_draw_is_uniform_repeatable_and_grows(recorded: Path) -> None:
    def drawn(cap: int, seed: int) -> list[str]:
        return [s.episode for s in open_sources(str(recorded), cap=cap, seed=seed)]

    assert drawn(2, 1) == drawn(2, 1) == drawn(3, 1)[:2]
    first = Counter(drawn(1, seed)[0] for seed in range(60))
    assert set(first) == {"000000", "000002", "000005"}
    assert min(first.values()) > 8


def test_everything_made_of_one_episode_comes_into_one_part() -> None:
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}
    parts = Counter(part_of(source(f"{i}"), shares) for i in range(2000))
    assert abs(parts["train"] / 2000 - 0.8) < 0.04
    assert parts["val"] > 120
    assert parts["test"] > 120
    assert len({part_of(source(f"7_{copy}", origin="7"), shares) for copy in range(9)}) == 1
    assert part_of(source("7"), shares) == part_of(source("7_1", origin="7"), shares)
    assert part_of(source("7"), {"train": 1.0, "test": 0.0}) == "train"
    with pytest.raises(ConfigError, match="do not make a whole"):
        part_of(source("7"), {"train": 0.8})


def test_what_is_not_there_is_named(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no such camera.*'front', 'wrist'"):
        list(open_sources(str(recorded), camera="top"))
    with pytest.raises(DatasetError, match=r"no such split\. Found: test\. Allowed: \['train'\]"):
        list(open_sources(str(recorded), split="test"))
    with pytest.raises(ConfigError, match="more than 0"):
        list(open_sources(str(recorded), cap=0))
    (one, *_) = open_sources(str(recorded))
    with pytest.raises(DatasetError, match=r"no such observation\. Found: \[-1, 7\]\. Allowed: 0 to 6"):
        one.read([-1, 3, 7])
    assert one.read([]) == {}
