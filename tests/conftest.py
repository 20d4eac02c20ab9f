"""What tests share across folders."""

from pathlib import Path

import pytest
from hypothesis import settings

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
