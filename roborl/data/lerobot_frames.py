"""Single pictures out of a LeRobotDataset, without the rest of their episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from roborl.data.lerobot_files import Files
from roborl.data.lerobot_info import height_width
from roborl.data.pictures import decode_stored, decode_video
from roborl.errors import DatasetError
from roborl.types import Image


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LeRobotFilm:
    """One camera's pictures of one episode.

    Attributes:
        files: The dataset's metadata.
        row: The episode's row of it.
        key: The camera's column.
    """

    files: Files
    row: Mapping[str, Any]
    key: str

    def read(self, indices: Sequence[int]) -> dict[int, Image]:
        """Decode observations by index, uint8 RGB (h, w, 3) each; blocks.

        Raises:
            DatasetError: If one cannot be decoded.
        """
        feature = self.files.features[self.key]
        size = height_width(feature)
        if feature["dtype"] == "image":
            cells = self._cells(indices)
            return dict(zip(indices, decode_stored(cells, size, self.files.root), strict=True))
        fps = float(self.files.info["fps"])
        start = float(self.row[f"videos/{self.key}/from_timestamp"])
        times = np.asarray(indices, np.float64) / fps + start
        video = self.files.video_file(self.row, self.key)
        return dict(zip(indices, decode_video(video, times, size, tolerance_s=0.5 / fps), strict=True))

    def _cells(self, indices: Sequence[int]) -> list[Mapping[str, Any]]:
        path, index = self.files.data_file(self.row), int(self.row["episode_index"])
        try:
            table = pq.read_table(path, columns=[self.key], filters=[("episode_index", "=", index)])
            return table.take(pa.array(indices)).column(self.key).to_pylist()  # type: ignore[no-any-return]
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(
                "A data file of the dataset cannot be read",
                seen=f"{path}: {error}",
                allowed=f"{self.row['length']} rows of episode {index}",
                remedy="Fetch the dataset again",
            ) from error
