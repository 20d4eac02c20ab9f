"""An episode whose rows have several instructions is taken under none of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from roborl.data.lerobot_io import read_episodes
from roborl.data.relabel_sources import open_sources
from roborl.data.rlds.importing import import_rlds
from roborl.errors import DatasetError
from roborl.loops.footage import read_footage
from roborl.loops.rabc.label_config import LabelDatasetConfig
from roborl.loops.rabc.label_groups import groups_of
from roborl.loops.reward_training.training_episodes import read_training
from roborl.testing.rlds import rlds_episode, write_rlds

OPEN, PUT = "open the drawer", "put the cup in the drawer"


@pytest.fixture
def recording(tmp_path: Path) -> str:
    """Three episodes, the second of which goes on to another task."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    picture = {"dtype": "image", "shape": (16, 16, 3), "names": ["h", "w", "c"]}
    features = {
        "observation.images.front": picture,
        "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    }
    root = tmp_path / "recording"
    dataset = LeRobotDataset.create("local/tasks", fps=10, root=root, use_videos=False, features=features)
    for tasks in ((OPEN, OPEN), (OPEN, PUT), (PUT, PUT)):
        for t in range(6):
            dataset.add_frame(
                {
                    "observation.images.front": np.full((16, 16, 3), 20 * t + 10, np.uint8),
                    "action": np.full(2, t, np.float32),
                    "next.success": np.array([t == 5]),
                    "task": tasks[t // 3],
                }
            )
        dataset.save_episode()
    dataset.finalize()
    return str(root)


def test_it_is_left_out_of_relabelling_labelling_and_training_and_counted(
    recording: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert [(e.task, e.more_tasks) for e in read_episodes(recording)] == [
        (OPEN, ()),
        (OPEN, (PUT,)),
        (PUT, ()),
    ]
    left_out: Counter[str] = Counter()
    assert [s.task for s in open_sources(recording, left_out=left_out)] == [OPEN, PUT]
    assert left_out == {"with several instructions": 1}
    assert list(read_training(recording)[0]) == [0, 2]
    assert [e.tasks for e in read_footage(recording)[0]] == [(OPEN,), (PUT,)]
    groups, lost = groups_of(
        LabelDatasetConfig(dataset=recording, reward="brightness"), Path(recording), ("front",)
    )
    assert ([g.episodes for g in groups], lost) == ([(0, 2)], 1)
    named = LabelDatasetConfig(dataset=recording, reward="brightness", task=PUT)
    assert groups_of(named, Path(recording), ("front",))[0][0].episodes == (0, 1, 2)
    assert sum("1 episodes with several instructions are left out" in m for m in caplog.messages) == 3
    for read in (read_training, read_footage):
        with pytest.raises(DatasetError, match="no such episodes"):
            read(recording, episodes=[1])


def test_an_import_and_rlds_leave_it_out_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    changing = rlds_episode(1, language_instruction=[OPEN] * 3 + ["", f"{PUT} "] * 2)
    root = write_rlds(tmp_path / "viola" / "1.0.0", [rlds_episode(0), changing])
    left_out: Counter[str] = Counter()
    assert len(list(open_sources(str(root), left_out=left_out))) == 1
    assert left_out == {"with several instructions": 1}
    assert len(read_footage(str(root))[0]) == 1
    imported = import_rlds(root, tmp_path / "out")
    assert (imported.episodes, imported.several_tasks) == (1, 1)
    assert "1 episodes with several instructions are left out" in caplog.text
    alone = write_rlds(tmp_path / "alone" / "viola" / "1.0.0", [changing])
    with pytest.raises(DatasetError, match="1 with several instructions"):
        import_rlds(alone, tmp_path / "none")
