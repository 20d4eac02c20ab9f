"""What tests share across folders."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

import roborl.envs  # noqa: F401  (chooses the renderer before a test module imports MuJoCo by itself)

if TYPE_CHECKING:
    from roborl.testing.desk import DeskArm
    from roborl.testing.servo_chain import ServoChain

# On a busy machine any example may take long.
settings.register_profile("roborl", deadline=None)
settings.load_profile("roborl")


@pytest.fixture(scope="session", autouse=True)
def _memory_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give back the memory of runs that tests killed: 250 MB each, and their folders stay for three more sessions."""
    yield
    act_config = sys.modules.get("roborl.loops.actor.act_config")
    if act_config is not None:
        act_config.give_back_memory(of=tmp_path_factory.getbasetemp())


# LeRobot's driver selects among its files, which works for the first 1024 of a process.
_MANY_FILES = 300
_most_files = [_MANY_FILES]


@pytest.fixture(autouse=True)
def _stores_are_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the stores that a test leaves open, as those of killed processes: eleven files and a thread each."""
    module = sys.modules.get("roborl.data.store")
    if module is None:
        yield
        return
    opened, begin = [], module.Store.__init__

    def noted(store: Any, *args: Any, **options: Any) -> None:
        begin(store, *args, **options)
        opened.append(store)

    monkeypatch.setattr(module.Store, "__init__", noted)
    yield
    for store in reversed(opened):
        with contextlib.suppress(OSError):  # Its folder may be gone.
            store.close()
    opened.clear()
    # Those that nothing holds any more; some stay, so that it is not looked for them after each test.
    if len(os.listdir("/proc/self/fd")) > _most_files[0]:
        gc.collect()
        _most_files[0] = len(os.listdir("/proc/self/fd")) + _MANY_FILES // 2


@pytest.fixture
def default_signals() -> Iterator[None]:
    """Python's own handlers, here and in what is started: what runs in the background or under nohup ignores some."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def table_data() -> Path:
    """Two filmed episodes of clearing a table by a real robot: data that lies beside the project and never in it."""
    return beside("shared/data/robo_dopamine_table")


@pytest.fixture(scope="session")
def bridge_data() -> Path:
    """25 episodes of a real WidowX as RLDS, cut to ten steps each."""
    return beside("shared/data/bridge_rlds/bridge_dataset")


def beside(place: str) -> Path:
    """Return real data that lies beside the project; skip the test where there is none."""
    found = next((p / place for p in Path(__file__).parents if (p / place).is_dir()), None)
    if found is None:
        pytest.skip(f"needs the real data beside the project, in {place}")
    return found


@pytest.fixture
def patient_driver(monkeypatch: pytest.MonkeyPatch) -> list[ServoChain]:
    """The chains whose own time LeRobot's driver shall wait by: on a busy machine its 50 ms are over before they had any."""
    from scservo_sdk import PortHandler

    chains: list[ServoChain] = []

    def now_ms(port: PortHandler) -> float:
        now_s = next((chain.awake_s for chain in chains if str(chain.port) == port.port_name), None)
        return (time.monotonic() if now_s is None else now_s) * 1e3

    monkeypatch.setattr(PortHandler, "getCurrentTime", now_ms)
    return chains


@pytest.fixture
def desk(tmp_path: Path, patient_driver: list[ServoChain]) -> Iterator[DeskArm]:
    """An emulated SO-101, plugged in and calibrated, in its home pose without torque."""
    from roborl.testing.desk import DeskArm

    with DeskArm(tmp_path) as arm:
        patient_driver.append(arm.chain)
        yield arm
