"""What an extra does not bring is missed by what needs it alone, and told by the extra's name."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

# Hides packages as if they were not installed, from LeRobot's own look for them too.
HIDING = """
import sys
from importlib.machinery import PathFinder

hidden = set(sys.argv[1].split(","))

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""
LEARN = "jinja2,matplotlib,num2words,scipy,efficientnet_lite_pytorch"
VLM = "accelerate,httpx,peft,transformers"


def run_without(packages: str, program: str) -> list[Any]:
    """Run a program that prints JSON lines, and return what they say."""
    done = subprocess.run(
        [sys.executable, "-c", HIDING + program, packages], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


HELPS = """
import contextlib, io, json
from roborl.cli.main import main

def told(verb, *settings):
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        code = main([verb, *(settings or ["--help"])])
    print(json.dumps([verb, code, heard.getvalue().strip().splitlines()[-1]]))
"""


def test_on_the_robots_computer_a_person_can_record_and_other_verbs_name_their_extra() -> None:
    program = """
import roborl.loops.by_hand, roborl.envs.robot_env, roborl.loops.record
from pathlib import Path
from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.learnt import leave_run_page

assert "mujoco" not in sys.modules
print(json.dumps([leave_run_page(RunFolder(Path("run")), {})]))
told("record")
told("demo")
told("train-reward")
told("train-reward", "--model", "dopamine", "--dataset", "d", "--out", "m")
"""
    page, record, demo, train_reward, train_vlm = run_without(
        f"{LEARN},{VLM},mujoco,scservo_sdk", HELPS + program
    )
    assert page == [{}]
    assert record[1] == train_reward[1] == 0
    assert demo[1] == train_vlm[1] == 2
    assert "pip install 'roborl[sim]'" in demo[2]
    assert "pip install 'roborl[vlm]'" in train_vlm[2]


def test_with_the_extra_for_networks_alone_a_bench_of_reward_models_shows_its_help() -> None:
    assert run_without(f"{LEARN},mujoco,scservo_sdk", HELPS + 'told("bench-reward")')[0][1] == 0
