from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from roborl.errors import ConfigError, DatasetError
from roborl.loops import demo
from roborl.loops.demo import DemoConfig, run_demo
from roborl.loops.reporting.results import read_results
from roborl.loops.stages import Stages


class _Reached(Exception):
    """Stands for the first stage."""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(config: DemoConfig) -> None:
        raise _Reached

    monkeypatch.setattr(demo, "prepare", prepare)


@pytest.mark.usefixtures("begun")
@pytest.mark.parametrize("change", [{"scene": "PickPlace"}, {"quick": True}, {"seed": 3}])
def test_a_folder_of_another_run_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    first = DemoConfig(out=tmp_path)
    for _ in range(2):  # The same run goes on.
        with pytest.raises(_Reached):
            run_demo(first)
    settings = (tmp_path / "demo.yaml").read_text()
    with pytest.raises(ConfigError, match="other settings") as caught:
        run_demo(replace(first, **change))  # type: ignore[arg-type]
    name = next(iter(change))
    assert name in str(caught.value.seen)
    assert name in str(caught.value.allowed)
    assert "--out" in caught.value.remedy
    assert (tmp_path / "demo.yaml").read_text() == settings


def test_a_quick_run_does_not_lie_where_the_whole_one_belongs(tmp_path: Path) -> None:
    assert DemoConfig(quick=True).quickened().out == Path("outputs/demo-quick")
    assert DemoConfig(quick=True, out=tmp_path).quickened().out == tmp_path


def test_torn_stages_are_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text("")
    for read in (Stages, read_results):
        with pytest.raises(ConfigError, match=r"stages\.json.*Allowed.*Delete it"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["demo.yaml", "before.jsonl"])
def test_a_torn_file_of_a_demonstration_is_told_in_four_parts(tmp_path: Path, name: str) -> None:
    (tmp_path / "stages.json").write_text("{}")
    (tmp_path / name).write_text("{")
    with pytest.raises(DatasetError, match=rf"{name}.*Allowed.*backup"):
        read_results(tmp_path)
