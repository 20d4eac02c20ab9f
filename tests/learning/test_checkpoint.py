from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roborl.errors import ModelLoadError
from roborl.learning.checkpoint import (
    Checkpoint,
    check_shapes,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)

IDENTITY = {"algorithm": "tiny", "cameras": {"front": [64, 64]}, "state_dim": 6, "action_dim": 4}

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
TREES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(TREES)
def test_plain_state_comes_back_as_it_went(tmp_path: Path, tree: object) -> None:
    path = save_checkpoint(tmp_path, Checkpoint(step=1, identity=IDENTITY, parts={"tree": tree}))
    assert load_checkpoint(path, IDENTITY).parts["tree"] == tree


def test_an_optimiser_continues_bit_for_bit(tmp_path: Path) -> None:
    def make() -> tuple[torch.nn.Linear, torch.optim.Adam]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        return layer, torch.optim.Adam(layer.parameters(), lr=0.1)

    def step(layer: torch.nn.Linear, optimiser: torch.optim.Adam) -> None:
        optimiser.zero_grad()
        layer(torch.ones(1, 3)).sum().backward()
        optimiser.step()

    layer, optimiser = make()
    step(layer, optimiser)
    state = {"model": layer.state_dict(), "optimiser": optimiser.state_dict()}
    path = save_checkpoint(tmp_path, Checkpoint(step=1, identity=IDENTITY, parts={"algorithm": state}))
    step(layer, optimiser)

    other, other_optimiser = make()
    loaded = load_checkpoint(path, IDENTITY).parts["algorithm"]
    other.load_state_dict(loaded["model"])
    other_optimiser.load_state_dict(loaded["optimiser"])
    step(other, other_optimiser)
    assert torch.equal(layer.weight, other.weight)


def test_arrays_and_generator_states_are_kept(tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    parts = {"rng": generator.bit_generator.state, "array": np.arange(4, dtype=np.int64)}
    path = save_checkpoint(tmp_path, Checkpoint(step=1, identity=IDENTITY, parts=parts))
    loaded = load_checkpoint(path, IDENTITY).parts
    assert loaded["array"].dtype == np.int64
    again = np.random.default_rng(0)
    again.bit_generator.state = loaded["rng"]
    assert again.integers(1 << 40) == generator.integers(1 << 40)


@pytest.mark.parametrize(
    ("field", "value"), [("algorithm", "other"), ("state_dim", 7), ("cameras", {"wrist": [64, 64]})]
)
def test_a_checkpoint_of_another_model_is_refused_by_field(tmp_path: Path, field: str, value: object) -> None:
    path = save_checkpoint(tmp_path, Checkpoint(step=1, identity=IDENTITY, parts={}))
    with pytest.raises(ModelLoadError, match=field) as caught:
        load_checkpoint(path, IDENTITY | {field: value})
    assert caught.value.seen == IDENTITY[field]
    assert caught.value.allowed == value
    assert caught.value.remedy


def test_a_field_that_an_older_checkpoint_does_not_name_is_unknown(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, Checkpoint(step=1, identity=IDENTITY, parts={}))
    assert load_checkpoint(path, IDENTITY | {"action_unit": (0.012, 25.0)}).step == 1
    named = save_checkpoint(
        tmp_path, Checkpoint(step=2, identity=IDENTITY | {"action_unit": (0.012, 25.0)}, parts={})
    )
    assert load_checkpoint(named, IDENTITY | {"action_unit": (0.012, 25.0)}).step == 2
    with pytest.raises(ModelLoadError, match=r"another action_unit.*0\.012.*0\.015"):
        load_checkpoint(named, IDENTITY | {"action_unit": (0.015, 25.0)})


def test_another_width_is_named_by_tensor() -> None:
    wanted = {"actor": {"weight": torch.zeros(4, 3)}}
    with pytest.raises(ModelLoadError, match=r"algorithm\.actor\.weight") as caught:
        check_shapes(Path("run"), {"actor": {"weight": torch.zeros(5, 3)}}, wanted, "algorithm")
    assert (caught.value.seen, caught.value.allowed) == ([5, 3], [4, 3])
    with pytest.raises(ModelLoadError, match="nothing"):
        check_shapes(Path("run"), {}, wanted)
    check_shapes(Path("run"), wanted | {"moments": torch.zeros(2)}, wanted)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_torn_file_is_an_error_of_ours(tmp_path: Path, name: str, share: float) -> None:
    parts = {"algorithm": {"weight": torch.ones(64)}}
    path = save_checkpoint(tmp_path, Checkpoint(step=1, identity=IDENTITY, parts=parts))
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelLoadError):
        load_checkpoint(path, IDENTITY)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 300):
        save_checkpoint(tmp_path, Checkpoint(step=step, identity=IDENTITY, parts={}), keep=2)
    assert [int(path.name) for path in checkpoints(tmp_path)] == [10, 300]


def test_a_checkpoint_that_replaces_one_of_its_step_is_whole_at_any_instant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_meanwhile(folder: Path, *, ignore_errors: bool = False) -> None:
        if folder.exists():
            (folder / "tensors.safetensors").unlink()
            raise KeyboardInterrupt

    first, second = (
        Checkpoint(step=1, identity=IDENTITY, parts={"weight": torch.tensor(value)}) for value in (1.0, 2.0)
    )
    save_checkpoint(tmp_path, first)
    with monkeypatch.context() as dying:
        dying.setattr("roborl.learning.checkpoint.shutil.rmtree", killed_meanwhile)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, second)
    (path,) = checkpoints(tmp_path)
    assert load_checkpoint(path, IDENTITY).parts["weight"] == 2.0
    save_checkpoint(tmp_path, second)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("next_step", [1, 2])
@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_a_kill_between_two_renames_leaves_a_whole_checkpoint_that_the_next_save_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int, next_step: int
) -> None:
    real, renamed = Path.rename, list[Path]()

    def killed(path: Path, target: Path) -> Path:
        renamed.append(path)
        if len(renamed) == killed_at:
            raise KeyboardInterrupt
        return real(path, target)

    first, second, third = (
        Checkpoint(step=step, identity=IDENTITY, parts={"weight": torch.tensor(value)})
        for step, value in ((1, 1.0), (1, 2.0), (next_step, 3.0))
    )
    save_checkpoint(tmp_path, first)
    with monkeypatch.context() as dying:
        dying.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, second)
    newest = load_checkpoint(checkpoints(tmp_path)[-1], IDENTITY)
    assert newest.parts["weight"] == (1.0 if killed_at == 1 else 2.0)
    save_checkpoint(tmp_path, third)
    kept = [load_checkpoint(path, IDENTITY).parts["weight"].item() for path in checkpoints(tmp_path)]
    assert kept == ([newest.parts["weight"], 3.0] if next_step == 2 else [3.0])
    assert sorted(int(entry.name) for entry in tmp_path.iterdir()) == sorted({1, next_step})


def test_what_a_checkpoint_cannot_keep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"algorithm\.model holds a Linear"):
        save_checkpoint(
            tmp_path,
            Checkpoint(step=1, identity=IDENTITY, parts={"algorithm": {"model": torch.nn.Linear(1, 1)}}),
        )


def test_a_kill_at_any_instant_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    script = f"""
import torch
from pathlib import Path
from roborl.learning.checkpoint import Checkpoint, save_checkpoint
step = 0
while True:
    step += 1
    parts = {{"algorithm": {{"weight": torch.full((200_000,), float(step))}}}}
    save_checkpoint(Path({str(tmp_path)!r}), Checkpoint(step=step, identity={{}}, parts=parts))
    print(step, flush=True)
"""
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for _ in range(3):
        writer.stdout.readline()
    time.sleep(0.013)
    writer.send_signal(signal.SIGKILL)
    printed = writer.communicate()[0].split()
    newest = load_checkpoint(checkpoints(tmp_path)[-1], {})
    assert newest.step >= (int(printed[-1]) if printed else 3)
    assert torch.equal(newest.parts["algorithm"]["weight"], torch.full((200_000,), float(newest.step)))
