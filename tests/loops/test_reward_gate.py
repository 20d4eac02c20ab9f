from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from roborl.envs.bench import load_bench
from roborl.errors import ConfigError, DatasetError, ShapeError
from roborl.loops.launch import run_training
from roborl.loops.learner.episode_labels import LabelConfig
from roborl.loops.references import ReferencesConfig
from roborl.loops.reward_gate import RewardGate, require_question
from roborl.loops.serve import ServeConfig, serve
from roborl.loops.supervise import Child
from roborl.loops.train_config import TrainConfig
from roborl.loops.train_gate import gate_main, pass_gate, preload
from roborl.rewards.benchmark import FIGURES
from roborl.rewards.calibrated import CalibratedModel
from roborl.rewards.calibration import Calibration
from roborl.rewards.measured import FORMAT
from roborl.rewards.prompts import own_prompt
from roborl.rewards.registry import load_reward_model
from roborl.rewards.roboreward import CONTRACT, RoboRewardModel
from roborl.rewards.roboreward_config import RoboRewardConfig
from roborl.rewards.sarm.checkpoint import freeze_sarm, save_sarm
from roborl.rewards.sarm.config import SarmConfig
from roborl.rewards.sarm.network import SarmNetwork
from roborl.rewards.sole import SoleConfig, SoleModel
from roborl.rewards.training.labels import StagePlan
from roborl.testing.vlms import ScriptedVlm


def written(folder: Path, *, version: str = "brightness-all", **changes: Any) -> str:
    figures = dict.fromkeys(FIGURES) | {"voc": 0.9, "false_success_rate": 0.1}
    result = {
        "format": FORMAT,
        "require": ["voc>=0.8"],
        "models": {"one": {"version": version, "figures": figures, "references": {}}},
    }
    path = folder / "bench_reward.json"
    path.write_text(json.dumps(result | changes))
    return str(path)


def test_a_model_passes_with_the_bars_of_its_benchmark_or_with_others(tmp_path: Path) -> None:
    result = written(tmp_path)
    RewardGate(result=result).check("brightness-all")
    RewardGate(result=result, require=["false_success_rate<0.2", "voc>0.85"]).check("brightness-all")
    RewardGate().check("anything")


def test_a_result_from_before_a_figure_was_known_does_not_have_it(tmp_path: Path) -> None:
    path = Path(written(tmp_path))
    result = json.loads(path.read_text())
    del result["models"]["one"]["figures"]["grade_false_five"]
    path.write_text(json.dumps(result))
    RewardGate(result=str(path)).check("brightness-all")
    with pytest.raises(ConfigError, match="Found: grade_false_five nan"):
        RewardGate(result=str(path), require=["grade_false_five<=0.1"]).check("brightness-all")


@pytest.mark.parametrize(
    ("changes", "require", "words"),
    [
        ({}, ["voc>=0.95"], r"does not pass its gate\. Found: voc 0\.9\. Allowed: voc>=0\.95\. Train"),
        ({"require": ["voc>=0.95"]}, [], "does not pass its gate"),
        # A figure that was not measured meets no bar.
        ({}, ["grade_mae<=4"], "does not pass its gate. Found: grade_mae nan"),
        ({"require": []}, [], "asks for nothing"),
        (
            {"version": "sarm-1"},
            [],
            r"another reward model\. Found: version brightness-all\. Allowed: sarm-1",
        ),
        ({"format": "other"}, [], "another format"),
    ],
)
def test_a_model_that_does_not_pass_is_told_why(
    changes: dict[str, Any], require: list[str], words: str, tmp_path: Path
) -> None:
    gate = RewardGate(result=written(tmp_path, **changes), require=require)
    with pytest.raises(ConfigError, match=words):
        gate.check("brightness-all")


def test_a_gate_without_a_result_or_with_a_foreign_bar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no figures to hold against"):
        RewardGate(require=["voc>=0.8"])
    with pytest.raises(ConfigError, match="requirement cannot be read"):
        RewardGate(result="x", require=["luck>=1"])
    with pytest.raises(
        ConfigError, match=r"cannot be read\. Found: .*FileNotFoundError.*roborl bench-reward"
    ):
        RewardGate(result=str(tmp_path / "absent.json")).check("v")
    with pytest.raises(ConfigError, match="needs a reward model"):
        TrainConfig(reward_gate=RewardGate(result="x"))


def test_the_server_does_not_serve_a_model_that_does_not_pass(tmp_path: Path) -> None:
    config = ServeConfig(
        models={"reward": "brightness"},
        endpoint="tcp://127.0.0.1:*",
        gate=RewardGate(result=written(tmp_path, version="another")),
    )
    with pytest.raises(ConfigError, match="another reward model"):
        serve(Child.alone("serve"), config)


def test_ctrl_c_while_the_reward_model_loads_ends_the_run_before_any_arm_has_a_process(
    tmp_path: Path,
) -> None:
    config = TrainConfig(run=tmp_path / "run", reward="brightness")
    with pytest.raises(KeyboardInterrupt):
        run_training(config, lambda: True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("begun", [False, True])
def test_the_classes_of_a_lerobot_policy_are_loaded_once_for_all_processes_with_a_reward_model_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    loaded: list[tuple[str, ...]] = []

    class Group:
        def __init__(self, specs: object, *, preload: tuple[str, ...]) -> None:
            loaded.append(preload)

        def finished(self, name: str) -> bool:
            return True

        def start(self) -> None: ...

        def stop(self) -> None: ...

    monkeypatch.setattr("roborl.loops.train_gate.ProcessGroup", Group)
    config = TrainConfig(run=tmp_path / "run", reward="brightness", policy=str(tmp_path / "vla"))
    place = config.run / "policy" if begun else Path(config.policy)
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps({"type": "smolvla"}))
    pass_gate(replace(config, policy="") if begun else config)
    assert loaded == [preload(config)]
    assert "lerobot.policies.smolvla.modeling_smolvla" in loaded[0]


def test_training_asks_before_any_arm_has_a_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = written(tmp_path)
    pass_gate(TrainConfig(run=run, reward="brightness", reward_gate=RewardGate(result=result)))
    strict = RewardGate(result=result, require=["voc>=0.99"])
    with pytest.raises(ConfigError, match=r"gate process cannot go on.*does not pass its gate"):
        run_training(TrainConfig(run=run, reward="brightness", reward_gate=strict))
    assert not run.exists()


def sarm(folder: Path, *cameras: str, trained_hz: float, use_state: bool = False) -> str:
    plan = StagePlan(names=("a",), shares=(1.0,))
    config = SarmConfig(image_px=16, frame_dim=8, dim=8, members=1, use_state=use_state)
    network = SarmNetwork(config, plan, cameras, 6)
    model = freeze_sarm(network, plan, cameras=cameras, tasks=("t",), state_dim=6, trained_hz=trained_hz)
    save_sarm(model, folder)
    return str(folder)


def test_a_model_of_other_cameras_is_refused_before_any_arm_has_a_process(tmp_path: Path) -> None:
    config = TrainConfig(
        run=tmp_path / "run", reward=sarm(tmp_path / "model", "laptop", "wrist", trained_hz=10.0)
    )
    words = (
        r"gate process.*wants cameras that are not recorded.*Found: .*laptop.*Allowed: .*front.*--camera_map"
    )
    with pytest.raises(ConfigError, match=words):
        run_training(config)
    assert not config.run.exists()


def test_a_model_that_learnt_from_another_rate_passes_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = sarm(tmp_path / "own", "front", "wrist", trained_hz=load_bench("so101_sim").policy_hz)
    gate_main(Child.alone("gate"), TrainConfig(run=tmp_path / "run", reward=place))
    assert caplog.messages == []
    place = sarm(tmp_path / "other", "front", "wrist", trained_hz=60.0)
    gate_main(Child.alone("gate"), TrainConfig(run=tmp_path / "run", reward=place))
    (said,) = caplog.messages
    assert "learnt from 60 observations per second" in said
    assert "in the bench" in said


def test_a_model_that_cannot_ask_about_what_the_bench_records_is_refused(tmp_path: Path) -> None:
    place = sarm(tmp_path / "model", "front", "wrist", trained_hz=10.0, use_state=True)
    with pytest.raises(ShapeError, match=r"state.*9"):
        gate_main(Child.alone("gate"), TrainConfig(run=tmp_path / "run", reward=place))
    bench, prompt = load_bench("so101_sim"), own_prompt(CONTRACT)
    judge = ScriptedVlm(lambda query: None)
    for blind in (
        RoboRewardModel(judge, prompt, RoboRewardConfig()),
        SoleModel(judge, prompt, SoleConfig()),
    ):
        with pytest.raises(ShapeError, match=r"several.*settings"):
            require_question(blind, blind.start("reach", {}), bench)
    for told in (
        RoboRewardModel(judge, prompt, RoboRewardConfig(camera="front")),
        SoleModel(judge, prompt, SoleConfig(cameras=("front", "wrist"))),
    ):
        require_question(told, told.start("reach", {}), bench)


def test_a_model_that_never_says_done_judges_no_episodes_by_that_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, prompt = ScriptedVlm(lambda query: None), own_prompt(CONTRACT)
    model = RoboRewardModel(judge, prompt, RoboRewardConfig(camera="front"))
    monkeypatch.setattr("roborl.loops.train_gate.find_loader", lambda place: lambda: model)
    config = TrainConfig(run=tmp_path / "run", reward="it")
    gate_main(Child.alone("gate"), config)
    config = replace(config, bench_overrides=["--outcome=judge"])
    with pytest.raises(ConfigError, match=r"never says it.*terminal01.*done_score"):
        gate_main(Child.alone("gate"), config)
    gate_main(Child.alone("gate"), replace(config, labels=LabelConfig(verdict="terminal01")))
    model = RoboRewardModel(judge, prompt, RoboRewardConfig(camera="front", done_score=4.5))
    gate_main(Child.alone("gate"), config)
    line = Calibration.from_dict({"raw": [0.0, 1.0], "calibrated": [0.0, 0.9]})
    sole = SoleModel(judge, prompt, SoleConfig(cameras=("front",)))
    assert [CalibratedModel(one, line).info.says_done for one in (model, sole)] == [True, False]


def test_a_calibrated_model_passes_by_its_own_benchmark(tmp_path: Path) -> None:
    line = {"raw": [0.0, 1.0], "calibrated": [0.0, 0.9]}
    plain = {"version": "brightness-all", "calibration": line, "figures": {"voc": 0.9}, "references": {}}
    result = written(tmp_path, models={"one": plain})
    place = f"calibrated:{result}:brightness"
    with pytest.raises(ConfigError, match=r"another reward model\. Found: version brightness-all-cal"):
        pass_gate(TrainConfig(run=tmp_path / "run", reward=place, reward_gate=RewardGate(result=result)))
    version = load_reward_model(place).info.version
    written(tmp_path, models={"one": plain, "two": plain | {"version": version}})
    pass_gate(TrainConfig(run=tmp_path / "run", reward=place, reward_gate=RewardGate(result=result)))


def test_a_model_that_does_not_fit_is_told_before_its_demonstration_is_recorded(tmp_path: Path) -> None:
    place = sarm(tmp_path / "model", "laptop", trained_hz=10.0)
    shown = ReferencesConfig(path=str(tmp_path / "not yet"))
    config = TrainConfig(run=tmp_path / "run", reward=place, references=shown)
    with pytest.raises(ConfigError, match="cameras that are not recorded"):
        gate_main(Child.alone("gate"), config, False)
    gate_main(Child.alone("gate"), replace(config, reward="brightness"), False)
    with pytest.raises(DatasetError, match="no LeRobotDataset here"):
        gate_main(Child.alone("gate"), config)
