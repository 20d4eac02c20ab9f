"""``roborl check`` as it is typed: what it finds, what it plans, what it refuses, and the exit code of each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from roborl.cli.check import prepare_args
from roborl.cli.main import main
from roborl.envs.kinematics import Kinematics
from roborl.errors import ConfigError
from roborl.loops.planning.check_machine import check_bench
from roborl.paths import bench_file
from roborl.testing.desk import DeskArm
from roborl.testing.servo_chain import Instruction
from roborl.testing.tiny_vlms import build_tiny_vlm

type Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*args: str) -> tuple[int, Any, str]:
        code = main(["check", *args])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return run


def of(told: Any, what: str) -> dict[str, Any]:
    (found,) = [part for part in told["parts"] if part["what"].startswith(what)]
    return dict(found)


def test_plan_may_stand_alone() -> None:
    assert prepare_args(["--card_gib", "24", "--plan"]) == ["--card_gib", "24", "--plan", "true"]
    assert prepare_args(["--plan", "--judge", "x"]) == ["--plan", "true", "--judge", "x"]
    assert prepare_args(["--judge", "x", "--plan"]) == ["--judge", "x", "--plan", "true"]
    assert prepare_args(["--plan", "false"]) == ["--plan", "false"]


def test_what_fits_is_summed_and_what_is_not_measured_says_so(run: Run) -> None:
    args = ("--judge", "roboreward-8b", "--policy", "smolvla", "--card_gib", "[32]", "--questions", "8")
    code, told, table = run("--plan", *args)
    assert code == 0
    assert told["fits"]
    assert told["used_bytes"]["cuda:0"] == sum(part["nbytes"] for part in told["parts"])
    assert of(told, "weights, bf16")["nbytes"] // 2 == 8_767_123_696 + (18 + 64 + 64) * 2
    assert not of(told, "weights, bf16")["measured"]
    assert re.search(r"weights, bf16 +16\.330  estimated", table)
    assert re.search(r"cuda:0: .* left", table)


@pytest.mark.parametrize(
    ("judge", "parameters"), [("sole-r1-8b", 8_767_123_696), ("dopamine-v1-8b", 8_292_166_656)]
)
def test_a_judge_that_is_not_here_is_planned_with_by_its_name_as_an_estimate(
    run: Run, judge: str, parameters: int
) -> None:
    code, told, _ = run("--plan", "--judge", judge, "--card_gib", "[80]", "--questions", "1")
    assert code == 0
    weights = of(told, "weights, bf16")
    assert weights["nbytes"] == pytest.approx(2 * parameters, rel=1e-5)
    assert not weights["measured"]


def test_a_judge_in_int8_reads_one_question_at_a_time_however_many_are_asked(run: Run) -> None:
    def taken(dtype: str, questions: str) -> list[int]:
        args = ("--judge", "roboreward-8b", "--dtype", dtype, "--questions", questions, "--card_gib", "[80]")
        _, told, _ = run("--plan", *args)
        return [part["nbytes"] for part in told["parts"]]

    assert taken("int8", "16") == taken("int8", "1")
    assert sum(taken("nf4", "16")) > sum(taken("nf4", "1"))


def test_a_judge_that_does_not_fit_is_offered_in_fewer_bits(run: Run) -> None:
    code, _, said = run("--plan", "--judge", "sole-r1-8b", "--card_gib", "[14]", "--questions", "1")
    assert code == 1
    assert "The largest judge that fits: --judge sole-r1-8b --dtype int8" in said


def test_what_does_not_fit_is_refused_with_the_largest_that_does(run: Run) -> None:
    args = ("--policy", "smolvla", "--card_gib", "[24]", "--questions", "32")
    code, told, said = run("--plan", "--judge", "roboreward-8b", *args)
    assert (code, told) == (1, None)
    assert "TOO LITTLE" in said
    refusal = said.splitlines()[-1]
    assert all(
        word in refusal for word in ("does not fit", "Found: cuda:0 needs", "Allowed: cuda:0 has 24.00")
    )
    # Both of its proposals hold.
    judge, dtype, questions = re.findall(r"--judge (\S+) --dtype (\w+)\..*--questions (\d+)", refusal)[0]
    assert (judge, dtype) == ("roboreward-8b", "int8")
    assert run("--plan", "--judge", judge, "--dtype", dtype, *args)[0] == 0
    assert run("--plan", "--judge", "roboreward-8b", *args[:-1], questions)[0] == 0
    assert run("--plan", "--judge", "roboreward-8b", *args[:-1], str(int(questions) + 1))[0] == 1


def test_a_judge_may_have_a_card_of_its_own(run: Run) -> None:
    two = ("--judge", "dopamine-4b", "--questions", "4", "--policy", "pi0", "--card_gib", "[16, 16]")
    assert run("--plan", *two)[0] == 1
    code, told, _ = run("--plan", *two, "--judge_device", "cuda:1")
    assert code == 0
    assert of(told, "weights, bf16")["device"] == "cuda:1"


def test_where_a_policy_fills_the_card_no_judge_is_proposed(run: Run) -> None:
    code, _, said = run("--plan", "--judge", "vlac-2b", "--policy", "pi0", "--card_gib", "8")
    assert code == 1
    assert "without a judge" in said


def test_a_policy_that_learns_is_offered_the_largest_batch_that_fits(run: Run) -> None:
    args = ("--policy", "smolvla", "--learner", "policy-full", "--card_gib", "[8]")
    code, _, said = run("--plan", *args, "--learner_batch", "32")
    assert code == 1
    refusal = said.splitlines()[-1]
    assert "judge" not in refusal
    (batch,) = re.findall(r"fits with --learner_batch (\d+)", refusal)
    assert run("--plan", *args, "--learner_batch", batch)[0] == 0
    assert run("--plan", *args, "--learner_batch", str(int(batch) + 1))[0] == 1
    code, _, said = run("--plan", "--policy", "pi0", "--learner", "policy-full", "--card_gib", "[8]")
    assert code == 1
    refusal = said.splitlines()[-1]
    assert "judge" not in refusal
    assert "Take a larger card" in refusal
    assert "learner_batch" not in refusal


def test_a_policy_that_lerobot_trains_is_planned_with_the_batch_of_its_trainer(run: Run) -> None:
    code, told, _ = run("--plan", "--policy", "smolvla", "--learner", "policy-lora", "--card_gib", "[24]")
    assert code == 0
    assert of(told, "activations")["how"].startswith("8 x ")


def test_a_run_that_is_planned_names_its_own_batch_and_the_memory_of_its_versions(run: Run) -> None:
    args = ("--policy", "smolvla", "--learner", "weighted-full")
    code, told, _ = run("--plan", *args, "--card_gib", "[24]")
    assert code == 0
    assert of(told, "versions")["device"] == "cpu"
    code, _, said = run("--plan", *args, "--card_gib", "[8]", "--judge", "vlac-2b", "--judge_device", "cpu")
    assert code == 1
    assert re.search(r"--learner_batch (\d+), which is --weighted\.batch_size \1 of roborl train", said)


def test_a_checkpoint_is_measured(run: Run, tmp_path: Path) -> None:
    folder = build_tiny_vlm(tmp_path / "tiny", "qwen3_vl")
    file = (folder / "model.safetensors").stat().st_size
    code, told, _ = run("--plan", "--judge", f"roboreward:{folder}", "--card_gib", "[4]")
    assert code == 0
    weights = of(told, "weights, fp32")
    assert weights["measured"]
    assert weights["nbytes"] == pytest.approx(file, rel=0.05)


def test_a_judge_behind_endpoints_takes_nothing_here(run: Run, tmp_path: Path) -> None:
    settings = tmp_path / "far.yaml"
    settings.write_text("checkpoint: x\njudge: {kind: openai, endpoints: ['http://127.0.0.1:8000/v1']}\n")
    code, told, said = run(
        "--plan", "--judge", f"dopamine:{settings}", "--policy", "smolvla", "--card_gib", "4"
    )
    assert code == 0
    assert {part["process"] for part in told["parts"]} == {"policy"}
    assert "takes nothing here" in said


def test_a_judge_that_learns_takes_more_and_less_with_checkpointing(run: Run) -> None:
    def used(*args: str) -> int:
        _, told, _ = run("--plan", "--judge", "dopamine-4b", "--card_gib", "[200]", *args)
        return int(told["used_bytes"]["cuda:0"])

    lora = used("--learner", "judge-lora")
    assert used("--learner", "judge-lora", "--checkpointing", "true") < lora < used("--learner", "judge-full")
    assert used("--learner", "judge-lora", "--learner_batch", "1") < lora
    code, _, said = run("--plan", "--judge", "dopamine-4b", "--learner", "judge-lora", "--card_gib", "[24]")
    assert code == 1
    assert "This one fits with --checkpointing true" in said
    small = ("--plan", "--judge", "dopamine-8b", "--card_gib", "[12]", "--learner")
    assert "--judge dopamine-8b --dtype nf4 --checkpointing true" in run(*small, "judge-lora")[2]
    assert "nf4" not in run(*small, "judge-full")[2], "packed weights do not learn"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--plan"], "nothing to plan"),
        (["--plan", "--judge", "gpt"], "no such judge"),
        (["--plan", "--policy", "smolvla", "--policy_device", "cuda:3", "--card_gib", "[8]"], "not there"),
        (["--plan", "--policy", "smolvla", "--policy_device", "tpu"], "no such device"),
        (["--plan", "--judge", "vlac-2b", "--dtype", "int3"], "no such dtype"),
        (["--plan", "--learner", "policy-full"], "no policy to learn"),
        (["--plan", "--learner", "weighted-lora"], "no policy to learn"),
        (["--plan", "--learner", "ppo"], "no such learner"),
        (["--plan", "--policy", "pi0", "--learner", "weighted-full", "--card_gib", "[900]"], "can be sent"),
        (["--plan", "--policy", "act", "--learner", "weighted-lora", "--card_gib", "[900]"], "low rank go"),
        (["--judge", "vlac-2b"], "no plan is asked for"),
        (["--plan", "--policy", "smolvla", "--card_gib", "[nan]"], "cannot be made of these numbers"),
        (["--plan", "--policy", "smolvla", "--card_gib", "inf"], "cannot be made of these numbers"),
        (["--plan", "--policy", "small", "--learner", "weighted-full"], "learns by rlpd"),
        (["--plan", "--policy", "small", "--learner", "policy-lora"], "learns by rlpd"),
        (["--plan", "--policy", "smolvla", "--learner", "rlpd"], "Choose --learner weighted-lora"),
    ],
)
def test_misuse_is_told_and_is_exit_code_2(run: Run, args: list[str], says: str) -> None:
    code, told, said = run(*args)
    assert (code, told) == (2, None)
    assert says in said


def test_a_card_is_asked_for_where_there_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, said = run("--plan", "--policy", "smolvla")
    assert code == 2
    assert "No card was found" in said
    assert "--card_gib" in said
    assert run("--plan", "--policy", "smolvla", "--policy_device", "cpu")[0] == 0


def test_a_card_that_torch_sees_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: ((3 + i) << 30, 8 << 30))
    code, told, _ = run("--plan", "--policy", "smolvla")
    assert code == 0
    assert told["card_bytes"] == {"cuda:0": 3 << 30, "cuda:1": 4 << 30}


def test_a_simulated_bench_and_its_cameras_are_found(run: Run) -> None:
    code, told, said = run("--bench_overrides", "[--robot.scene=Reach]")
    assert (code, told["failed"]) == (0, [])
    found = {finding["what"]: finding["says"] for finding in told["findings"]}
    assert {"python", "torch", "bench so101_sim", "camera front", "camera wrist"} <= set(found)
    assert re.match(r"\d+ x \d+ px", found["camera front"])
    assert said.count("ok ") == len(found)


def test_a_bench_file_that_is_missing_is_a_fault(run: Run) -> None:
    code, told, said = run("--bench", "nowhere")
    assert (code, told["failed"]) == (1, ["bench nowhere"])
    assert "FAIL bench nowhere" in said


def test_cameras_that_do_not_answer_or_show_nothing_are_faults(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lerobot.cameras import utils

    class Camera:
        def __init__(self, name: str) -> None:
            self.name, self.open = name, False

        def connect(self) -> None:
            if self.name == "front":
                raise ConnectionError("no such device")
            self.open = True

        def read(self) -> Any:
            assert self.open
            return np.full((480, 640, 3), 16, np.uint8)

        def disconnect(self) -> None:
            closed.append(self.name)

    closed: list[str] = []
    monkeypatch.setattr(utils, "make_cameras_from_configs", lambda configs: {n: Camera(n) for n in configs})
    code, told, said = run("--bench", "so101_desk")
    assert (code, told["failed"][-2:]) == (1, ["camera front", "camera wrist"])
    assert "no such device" in said
    assert "every pixel is the same" in said
    assert closed == ["wrist"]
    assert not {"camera front", "camera wrist"} & set(
        run("--bench", "so101_desk", "--look", "false")[1]["failed"]
    )


def test_cameras_that_answer_one_by_one_and_not_together_are_a_fault_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two uncompressed streams are too much for one USB hub: the second gives no picture while the first is open."""
    from lerobot.cameras import utils

    streaming: list[str] = []

    class Camera:
        def __init__(self, name: str, fourcc: str | None) -> None:
            self.name, self.fourcc = name, fourcc

        def connect(self) -> None:
            streaming.append(self.name)

        def read(self) -> Any:
            if self.fourcc is None and len(streaming) > 1 and self.name == "wrist":
                raise TimeoutError("Timed out waiting for frame")
            return np.arange(12, dtype=np.uint8).reshape(2, 2, 3)

        def disconnect(self) -> None:
            streaming.remove(self.name)

    monkeypatch.setattr(
        utils,
        "make_cameras_from_configs",
        lambda configs: {n: Camera(n, c.fourcc) for n, c in configs.items()},
    )

    def wrist(bench: str) -> tuple[bool, str]:
        (found,) = (f for f in check_bench(bench, [], look=True) if f.what == "camera wrist")
        return found.ok, found.says

    assert wrist("so101_desk")[0], "the file that is there to be copied has compressed pictures"
    plain = tmp_path / "plain.yaml"
    plain.write_text(bench_file("so101_desk").read_text().replace("fourcc: MJPG, ", ""))
    ok, says = wrist(str(plain))
    assert not ok
    assert re.search(r"Timed out.*alone.*fourcc: MJPG", says)
    assert streaming == []


def test_a_physical_arm_is_looked_at_without_being_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "desk.json"
    robot = SimpleNamespace(calibration_fpath=file, bus=SimpleNamespace(calibration={}))
    monkeypatch.setattr("roborl.envs.bench.make_robot", lambda bench: robot)

    def found(port: str, *further: str) -> dict[str, tuple[bool, str]]:
        findings = check_bench("so101_desk", [f"--robot.port={port}", *further], look=False)
        return {finding.what: (finding.ok, finding.says) for finding in findings}

    nothing = found(str(tmp_path / "ttyACM0"))
    assert "under torque" in nothing["if control dies"][1]
    limits = re.fullmatch(
        r"x 0\.12 to 0\.3 m, y -0\.15 to 0\.15 m, .*; 60% of the arm's speed, .*", nothing["limits"][1]
    )
    assert limits, nothing["limits"][1]
    assert nothing["driver"][0]
    assert not nothing["port"][0]
    assert "lerobot-find-port" in nothing["port"][1]
    assert not nothing["calibration"][0]
    assert "--robot.id=desk" in nothing["calibration"][1]
    file.touch()
    assert all(ok for ok, _ in found("/dev/null").values())
    drops = found("/dev/null", "--robot.disable_torque_on_disconnect=true")
    assert [what for what, (ok, _) in drops.items() if not ok] == ["hold"]
    assert "disable_torque_on_disconnect: false" in drops["hold"][1]


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_robot_without_a_port_is_looked_at_and_one_without_calibrated_motors_asked_for_no_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibrated: bool
) -> None:
    bench = tmp_path / "bench.yaml"
    bench.write_text(
        f"robot: {{type: stub, id: desk, calibration_dir: {tmp_path}}}\nmodel: so101_sim\ntask: wait\nmax_steps: 5\n"
        "cameras: {front: {height_px: 64, width_px: 64}}\nif_control_dies: it holds\n"
    )
    if calibrated:
        monkeypatch.setattr("roborl.testing.stub_robot._StubBus.calibration", {}, raising=False)
    args = ("--bench", str(bench), "--plugins", "[roborl.testing.config_stub_robot]", "--look", "false")
    code, told, _ = run(*args)
    assert code == int(calibrated)
    assert told["failed"] == ["calibration"] * calibrated
    if calibrated:
        (said,) = (part["says"] for part in told["findings"] if part["what"] == "calibration")
        assert said.endswith("lerobot-calibrate --robot.type=stub --robot.id=desk")


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(bench: object) -> None:
        raise ConfigError("The robot of this bench cannot be made", seen="no driver")

    monkeypatch.setattr("roborl.envs.bench.make_robot", missing)
    findings = {f.what: f for f in check_bench("so101_desk", [], look=False)}
    assert not findings["driver"].ok
    assert "no driver" in findings["driver"].says


def test_the_motors_of_a_physical_arm_are_asked_and_go_on_holding(desk: DeskArm) -> None:
    def found() -> dict[str, tuple[bool, str]]:
        findings = check_bench(str(desk.bench()), [], look=True)
        return {finding.what: (finding.ok, finding.says) for finding in findings}

    desk.place(desk.model.home)
    desk.let_hold()
    good = found()
    assert all(ok for ok, _ in good.values())
    assert good["motors"][1] == "6 answer, calibrated as the file says"
    tip = Kinematics(desk.model).position(desk.joints())
    assert re.findall(r"-?\d\.\d+", good["tip"][1]) == [f"{axis:.3f}" for axis in tip]
    assert good["tip"][1].endswith(" in the workspace box")
    assert "camera wrist" in good
    assert not any(servo.was_limp for servo in desk.chain.servos.values())
    assert desk.chain.asked[Instruction.WRITE] == desk.chain.asked[Instruction.SYNC_WRITE] == 0

    servo = desk.chain.servos["elbow_flex"]
    servo.keep("Homing_Offset", 3)
    assert re.search(r"another calibration.*--robot\.port=.*--robot\.id=desk", found()["motors"][1])
    servo.silent = True
    assert found()["motors"] == (False, "no answer from elbow_flex: look at the cables there")
    desk.calibration.unlink()
    assert not found()["calibration"][0]


def test_a_joint_that_was_not_turned_from_stop_to_stop_is_told(desk: DeskArm) -> None:
    held = json.loads(desk.calibration.read_text())
    # The other way round an encoder that passes its end notes a whole turn, as LeRobot does for wrist_roll always.
    held["shoulder_lift"].update(range_min=0, range_max=4095)
    held["elbow_flex"]["range_max"] -= 600
    desk.calibration.write_text(json.dumps(held))
    findings = {f.what: f for f in check_bench(str(desk.bench()), [], look=False)}
    assert not findings["joint ranges"].ok
    assert "elbow_flex by 141 of its 194 degrees" in findings["joint ranges"].says
    assert "shoulder_lift by 360 of its 200 degrees" in findings["joint ranges"].says
    assert "wrist_roll" not in findings["joint ranges"].says
    assert "motors" not in findings
