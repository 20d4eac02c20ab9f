"""What tests share across folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from roborl.testing.desk import DeskArm

# On a busy machine any example may take long.
settings.register_profile("roborl", deadline=None)
settings.load_profile("roborl")


@pytest.fixture(scope="session")
def table_data() -> Path:
    """Two filmed episodes of clearing a table by a real robot: data that lies beside the project and never in it."""
    place = "shared/data/robo_dopamine_table"
    found = next((p / place for p in Path(__file__).parents if (p / place).is_dir()), None)
    if found is None:
        pytest.skip(f"needs the real data beside the project, in {place}")
    return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[DeskArm]:
    """An emulated SO-101, plugged in and calibrated, in its home pose without torque."""
    from roborl.testing.desk import DeskArm

    with DeskArm(tmp_path) as arm:
        yield arm
