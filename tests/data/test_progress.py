"""Progress beside a dataset belongs to it, and says which rows were scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.dataset_tools import delete_episodes
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from roborl.data.lerobot_files import fingerprint
from roborl.data.progress import FINGERPRINT, Progress, progress_path, read_progress, write_progress
from roborl.errors import DatasetError
from roborl.testing.episodes import random_episode, write_episodes


def standing(rows: int) -> Progress:
    return Progress(np.zeros(rows, np.float32), np.zeros(rows, np.float32), np.ones(rows, np.bool_))


def test_progress_is_refused_beside_edited_data(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0), random_episode(1))
    write_progress(tmp_path / "d", "v1", {1: standing(7)})
    cut = delete_episodes(
        LeRobotDataset("local/d", root=tmp_path / "d"), [0], output_dir=tmp_path / "cut", repo_id="local/cut"
    )
    path = progress_path(tmp_path / "cut", "v1")
    path.write_bytes(progress_path(tmp_path / "d", "v1").read_bytes())
    assert len(cut) == 7
    with pytest.raises(DatasetError, match=r"other data.*fingerprint.*Label the dataset again"):
        read_progress(tmp_path / "cut", "v1")
    with pytest.raises(DatasetError, match=r"no progress.*v2.*roborl_progress_v1"):
        read_progress(tmp_path / "d", "v2")
    with pytest.raises(DatasetError, match=r"episode 0.*Found: 3, 3 and 3. Allowed: 7"):
        write_progress(tmp_path / "d", "v1", {0: standing(3)})


def rename(dataset: Path, task: str) -> None:
    path = dataset / "meta" / "tasks.parquet"
    table = pq.read_table(path)
    (column,) = (name for name in table.column_names if name != "task_index")
    named = pa.array([task] * table.num_rows)
    pq.write_table(table.set_column(table.column_names.index(column), column, named), path)


def test_progress_does_not_outlive_the_instruction_that_it_was_judged_by(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0))
    before = fingerprint(tmp_path / "d")
    path = write_progress(tmp_path / "d", "v1", {0: standing(7)})
    rename(tmp_path / "d", "another task")
    assert fingerprint(tmp_path / "d") != before
    with pytest.raises(DatasetError, match=r"other data.*given other tasks.*Label the dataset again"):
        read_progress(tmp_path / "d", "v1")
    table = pq.read_table(path)
    earlier = {**table.schema.metadata, FINGERPRINT: fingerprint(tmp_path / "d", tasks=False).encode()}
    pq.write_table(table.replace_schema_metadata(earlier), path)
    with pytest.raises(
        DatasetError, match=r"other data.*Found: .*of a release that did not look at the tasks"
    ):
        read_progress(tmp_path / "d", "v1")


def test_where_a_file_does_not_say_which_rows_were_scored_all_were(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0))
    scored = np.arange(7) % 3 == 0
    path = write_progress(tmp_path / "d", "v1", {0: standing(7)._replace(scored=scored)})
    np.testing.assert_array_equal(read_progress(tmp_path / "d", "v1")[0].scored, scored)
    pq.write_table(pq.read_table(path).drop_columns("scored"), path)
    assert read_progress(tmp_path / "d", "v1")[0].scored.all()
