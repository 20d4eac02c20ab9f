"""The README keeps its promises: links lead somewhere, commands parse, and the first screen shows what it is about."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import cv2
import pytest

from roborl.cli.main import VERBS
from roborl.config import HelpShown, parse
from roborl.envs.tasks.registry import TASKS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PICTURE = ROOT / ".github" / "demo.png"


def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_commands", ROOT / ".ci" / "readme_commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUNNER = runner()
PAGES = {page: (ROOT / page).read_text() for page in RUNNER.PAGES}
COMMANDS: list[str] = [command for text in PAGES.values() for command in RUNNER.commands(text)]


def test_one_command_with_its_output_and_its_picture_come_first() -> None:
    first = README.splitlines()[:39]
    assert "make demo" in first
    assert any(".github/demo.png" in line for line in first)
    assert "```text" in first
    picture = cv2.imread(str(PICTURE))
    assert picture is not None
    assert picture.std() > 10
    assert PICTURE.stat().st_size < 150_000


def headings_of(text: str) -> set[str]:
    return {
        re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page: str) -> None:
    headings = headings_of(PAGES[page])
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("https://"):
            file, _, heading = target.partition("#")
            assert ((ROOT / page).parent / file).exists(), target
            assert not heading or heading in headings_of(PAGES[file]), target


def test_the_readme_leads_to_every_page_of_commands() -> None:
    assert all(page == "README.md" or f"]({page})" in README for page in PAGES)


def test_places_in_the_map_exist() -> None:
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    places = [place for row in rows for place in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(places) >= 10
    for place in places:
        for part in place.split():
            beside = Path(place.split()[0]).parent
            assert (ROOT / part).exists() or (ROOT / beside / part).exists(), part


def test_scenes_that_it_names_are_those_that_exist() -> None:
    line = re.search(r"Scenes: `([^`]+)`", README)
    assert line is not None
    assert set(line[1].split()) == set(TASKS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("roborl ")])
def test_commands_parse(command: str) -> None:
    """Every option exists and takes its value; nothing is run."""
    body = command.partition(" #")[0]
    _, verb, *rest = shlex.split(body)
    assert verb in VERBS
    module = importlib.import_module(f"roborl.cli.{verb.replace('-', '_')}")
    rest = module.prepare_args(rest) if hasattr(module, "prepare_args") else rest
    settings, rest = module.choose(rest) if hasattr(module, "choose") else (module.Config, rest)
    try:
        assert parse(settings, rest, prog=f"roborl {verb}") is not None
    except HelpShown:
        pytest.fail("the command only shows help")


def test_figures_name_the_commands_that_print_them() -> None:
    figures = README.partition("## Figures")[2].partition("\n## ")[0]
    tables = re.findall(r"(?:^\|.*\n)+", figures, flags=re.M)
    assert len(tables) > 3
    for table in tables:
        head, _, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        ]
        assert head[-1] == "command"
        assert rows
        for row in rows:
            assert len(row) == len(head), row
            assert re.search(r"`(roborl|make|.venv/bin)[^`]*`", row[-1]), row


def test_make_targets_that_it_names_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"\bmake ([a-z-]+)`", README)) | {"demo", "test", "lint"} <= targets


def test_the_runner_of_commands_shortens_what_is_long_and_touches_no_hardware() -> None:
    assert RUNNER.runnable("make demo").startswith("roborl demo --quick true")
    assert RUNNER.runnable("make test") is None
    assert RUNNER.runnable("roborl train --run x  # long") == "roborl train --help"
    assert RUNNER.runnable("roborl act --bench b  # hardware") == "roborl act --help"
    assert RUNNER.runnable("roborl keys --folder k") == "roborl keys --folder k"
    short = RUNNER.runnable("roborl evaluate --policy outputs/reach-run --require 'success>=0.8'  # long")
    assert short == "roborl evaluate --policy outputs/reach-run --episodes 3"


def test_the_first_path_is_run_and_not_only_spelt() -> None:
    shown = "outputs/reach-r"
    ran = [RUNNER.runnable(command) for command in COMMANDS if shown in command]
    assert len(ran) >= 6
    assert not any("--help" in line for line in ran)
    used = [start for start in RUNNER.QUICKENED if any(c.startswith(start) for c in COMMANDS)]
    assert used == list(RUNNER.QUICKENED)


def test_the_runner_of_commands_reports_what_fails_and_stops_what_waits(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    waits = "trap 'echo stopped; exit 0' INT; sleep 20 & wait"
    lines = {"roborl serve x": f"bash -c {shlex.quote(waits)}", "good": "sleep 0.5", "bad": "exit 3"}
    monkeypatch.setattr(RUNNER, "runnable", lines.get)
    assert list(RUNNER.run_block(["roborl serve x", "good", "bad", "elsewhere"], Path())) == ["bad"]
    out = capfd.readouterr().out
    assert "stopped" in out
    assert re.search(r"^sleep 0.5: took \d+ s$", out, flags=re.M)
    assert re.search(r"^exit 3: took \d+ s$", out, flags=re.M)


def test_the_runner_of_commands_can_run_again_and_leaves_alone_what_it_did_not_make(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = tmp_path / "outputs" / "keys" / "of-a-user"
    kept.mkdir(parents=True)
    (tmp_path / "page.md").write_text("```sh\nmkdir -p outputs\nmkdir outputs/keys\n```\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RUNNER, "PAGES", ("page.md",))
    assert [RUNNER.main() for _ in range(2)] == [0, 0]
    assert kept.is_dir()


def test_it_speaks_of_the_project_alone() -> None:
    for path in (*PAGES, ".github/workflows/ci.yml"):
        text = (ROOT / path).read_text()
        assert not re.search(r"/(work|root|tmp|home)/", text), path
