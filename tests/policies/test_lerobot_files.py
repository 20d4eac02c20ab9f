from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from lerobot.processor import DeviceProcessorStep, PolicyProcessorPipeline, RenameObservationsProcessorStep

from roborl.errors import ModelLoadError
from roborl.policies.lerobot_files import check_processor_files

PRE = "policy_preprocessor.json"


def write(folder: Path, *steps: Any, name: str = PRE) -> None:
    (folder / name).write_text(json.dumps({"name": "policy_preprocessor", "steps": list(steps)}))


def test_what_lerobot_saves_passes(tmp_path: Path) -> None:
    pipeline: Any = PolicyProcessorPipeline(
        [RenameObservationsProcessorStep(), DeviceProcessorStep()], name="policy_preprocessor"
    )
    pipeline.save_pretrained(tmp_path)
    assert check_processor_files(tmp_path) == {
        PRE: ["rename_observations_processor", "device_processor"],
    }


def test_a_folder_without_processors_passes(tmp_path: Path) -> None:
    assert check_processor_files(tmp_path) == {}


@pytest.mark.parametrize(
    "path",
    [
        "lerobot.processor.device_processor.DeviceProcessorStep",
        "lerobot.processor.RenameObservationsProcessorStep",
    ],
)
def test_a_step_of_lerobots_own_may_be_named_by_class(tmp_path: Path, path: str) -> None:
    write(tmp_path, {"class": path, "config": {}})
    assert check_processor_files(tmp_path) == {PRE: [path]}


@pytest.mark.parametrize("file", [PRE, "policy_postprocessor.json"])
def test_a_foreign_class_is_refused_before_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    (tmp_path / "evil_module.py").write_text("open('sprung', 'w')\nclass Step: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"registry_name": "device_processor"}, {"class": "evil_module.Step"}, name=file)
    with pytest.raises(ModelLoadError) as caught:
        check_processor_files(tmp_path)
    error = caught.value
    assert file in error.problem
    assert error.seen == "evil_module.Step"
    assert error.allowed
    assert error.remedy
    assert not (tmp_path / "sprung").exists()
    assert "evil_module" not in sys.modules
    # LeRobot's own loader would have imported it.
    with pytest.raises(Exception, match=r".*"):
        PolicyProcessorPipeline.from_pretrained(str(tmp_path), config_filename=file)
    assert (tmp_path / "sprung").exists()
    sys.modules.pop("evil_module", None)


@pytest.mark.parametrize(
    "path",
    [
        "os.system", "subprocess.Popen", "builtins.exec", "posixpath.join",
        "lerobot.scripts.lerobot_train.train", "lerobot.processor.pipeline.json", "lerobot.processor.pipeline.Path",
        "lerobot.processor.os.system", "lerobot.processor", "lerobot_foreign.processor.Step",
        "lerobot.processor..Step", "lerobot.policies.act.modeling_act.ACTPolicy", ".Step", "Step", "", None, 3, ["os.system"],
        "lerobot.processor.no_such_module.Step", "lerobot.processor.device_processor.NoSuchStep",
    ],
)  # fmt: skip
def test_whatever_is_not_a_step_of_lerobots_own_is_refused(tmp_path: Path, path: object) -> None:
    write(tmp_path, {"class": path})
    with pytest.raises(ModelLoadError, match="foreign class"):
        check_processor_files(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"steps": 3}',
        '{"steps": [3]}',
        '{"steps": {"class": "os.system"}}',
        "[" * 100_000,
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / PRE).write_text(content)
    with pytest.raises(ModelLoadError, match="cannot be read"):
        check_processor_files(tmp_path)


def test_a_file_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    (tmp_path / PRE).write_text(" " * (1 << 20) + '{"steps": []}')
    with pytest.raises(ModelLoadError, match="too large"):
        check_processor_files(tmp_path)


@pytest.mark.parametrize("state", ["../secrets.safetensors", "/etc/passwd", "a/b.safetensors", 3])
def test_state_outside_the_folder_is_refused(tmp_path: Path, state: object) -> None:
    write(tmp_path, {"registry_name": "device_processor", "state_file": state})
    with pytest.raises(ModelLoadError, match="elsewhere"):
        check_processor_files(tmp_path)
