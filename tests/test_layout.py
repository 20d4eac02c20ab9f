"""The shape of the repository: what may stand where, how large a module may be, and what is light to import."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from roborl.cli.main import VERBS
from roborl.cli.main import main as command_line

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "roborl").rglob("*.py"))
HEAVY = ("torch", "mujoco", "lerobot")
LONGEST = 400
NAMELESS = {"utils", "util", "common", "core", "misc", "helpers", "helper", "base", "handler", "manager"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("folder", ["robots", "datasets", "hardware_configs"])
def test_data_folders_hold_no_python(folder: str) -> None:
    assert (ROOT / folder / "README.md").is_file()
    assert not list((ROOT / folder).rglob("*.py"))


def test_no_module_is_longer_than_it_can_be_read() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_every_module_is_named_for_what_it_does() -> None:
    # A family of tasks has its shared part in tasks/base.py, beside those who share it.
    named = {path for path in MODULES if name_of(path) != "roborl.envs.tasks.base"}
    words = {name_of(path): set(name_of(path).split(".")[-1].split("_")) for path in named}
    assert {name for name, parts in words.items() if parts & NAMELESS} == set()


def test_every_package_travels_in_the_wheel() -> None:
    packages = {name_of(path) for path in MODULES if path.name == "__init__.py"}
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    assert listed == packages | {"roborl.robots", "roborl.hardware_configs", "roborl.datasets"}


def test_packages_without_a_module_do_not_exist() -> None:
    folders = {path.parent for path in MODULES}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_public_name_says_what_it_is(path: Path) -> None:
    """Ruff's rules see functions and classes; this one also sees modules and what a class inherits nothing from."""
    tree = ast.parse(path.read_text())
    bare = [] if ast.get_docstring(tree) or not tree.body else ["the module"]
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            bare += [] if ast.get_docstring(node) else [node.name]
    assert bare == []


def light_rewards() -> dict[str, list[str]]:
    """The linter's contract on the parts of rewards that load nothing heavy."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [c for c in contracts if c["name"].startswith("These parts of rewards load neither")]
    return dict(contract)


def light_modules() -> list[str]:
    serving = importlib.import_module("roborl.serving")
    links = [f"roborl.serving.{module.name}" for module in pkgutil.iter_modules(serving.__path__)]
    return ["roborl", "roborl.cli.main", *links, *light_rewards()["source_modules"]]


def test_the_linter_forbids_light_parts_all_that_is_heavy() -> None:
    assert set(light_rewards()["forbidden_modules"]) >= set(HEAVY)


def test_light_parts_load_nothing_heavy() -> None:
    """In a process of its own per part, since what one loads the next would find loaded."""
    script = "import importlib, sys; importlib.import_module(sys.argv[1]); print(*sys.modules)"
    children = {
        name: subprocess.Popen([sys.executable, "-c", script, name], stdout=subprocess.PIPE, text=True)
        for name in light_modules()
    }
    loaded = {name: set(child.communicate()[0].split()) for name, child in children.items()}
    assert all(child.returncode == 0 for child in children.values())
    assert {name: modules & set(HEAVY) for name, modules in loaded.items() if modules & set(HEAVY)} == {}


def test_the_list_of_verbs_comes_without_anything_heavy() -> None:
    script = (
        "import sys; from roborl.cli.main import main; code = main(['--help']); "
        f"sys.exit(code or sum(name in sys.modules for name in {HEAVY!r}))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert all(f"  {verb}" in shown.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_tells_its_fields(verb: str) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        assert command_line([verb, "--help"]) == 0
    assert f"usage: roborl {verb}" in out.getvalue()


def test_each_verb_has_its_file_and_each_file_its_verb() -> None:
    files = {path.stem for path in (ROOT / "roborl" / "cli").glob("*.py")} - {"__init__", "main"}
    assert files == {verb.replace("-", "_") for verb in VERBS}
