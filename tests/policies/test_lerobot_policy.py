"""Policies of LeRobot's own classes, small and random, opened from folders as LeRobot saves them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from roborl.errors import ModelLoadError
from roborl.policies import load_policy
from roborl.policies.exploration import ExplorationConfig
from roborl.policies.lerobot_learning import OnlineForm
from roborl.policies.lerobot_opening import open_policy
from roborl.policies.lerobot_policy import LeRobotPolicy
from roborl.policies.small import SmallPolicy, SmallPolicyConfig
from roborl.testing import check_policy as conformance
from roborl.testing.check_policy import noise_observations
from roborl.testing.tiny_policies import build_tiny_policy

policy_check = conformance.policy_check

CAMERAS = {"front": (48, 64), "wrist": (48, 64)}
SHAPE: dict[str, Any] = {"cameras": CAMERAS, "state_dim": 5, "action_dim": 3}
SEEN = noise_observations(CAMERAS, 5, count=8)
PRE = "policy_preprocessor.json"
LENGTHS = {"act": 4, "smolvla": 4, "vqbet": 1, "smooth": 1}


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder of a saved policy of a kind, built once; not to be written to."""
    root = tmp_path_factory.mktemp("policies")

    def build(kind: str) -> Path:
        folder = root / kind
        if not folder.exists():
            fields: dict[str, Any] = {}
            if kind == "smooth":
                fields = {"kind": "act", "temporal_ensemble_coeff": 0.1, "n_action_steps": 1}
            one_camera = {"cameras": {"front": (48, 64)}} if kind == "vqbet" else {}
            options = {"kind": kind, "backbone": root / "backbone"} | SHAPE | one_camera | fields
            build_tiny_policy(folder, **options)
        return folder

    return build


@pytest.fixture
def act_copy(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """The folder of an ACT, to be spoilt; its large weights are a link, to be removed before others are written."""

    def copy(source: str, target: str) -> None:
        (os.symlink if source.endswith("model.safetensors") else shutil.copyfile)(source, target)

    return Path(shutil.copytree(saved("act"), tmp_path / "act", copy_function=copy))


def change(folder: Path, name: str, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / name).read_text())
    edit(content)
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["act", "smolvla", "vqbet", "smooth"])
def test_a_policy_of_lerobots_keeps_the_contract(
    saved: Callable[[str], Path], policy_check: Callable[..., None], kind: str
) -> None:
    folder = saved(kind)
    # SmolVLA begins each chunk with noise, and VQ-BeT draws its codes.
    draws = kind in ("smolvla", "vqbet")
    policy_check(lambda: load_policy(folder, task="reach the target"), draws=draws, **SHAPE)
    assert load_policy(folder).act(SEEN[0]).shape == (LENGTHS[kind], 3)


@pytest.mark.parametrize("kind", ["act", "smolvla", "vqbet", "smooth"])
def test_it_acts_as_in_lerobots_own_loop(saved: Callable[[str], Path], kind: str) -> None:
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    from lerobot.policies.utils import prepare_observation_for_inference

    folder = saved(kind)
    theirs: Any = get_policy_class("act" if kind == "smooth" else kind).from_pretrained(folder)
    before, after = make_pre_post_processors(theirs.config, pretrained_path=str(folder))
    ours, length = load_policy(folder, task="reach the target", seed=3), LENGTHS[kind]
    drawn = np.random.default_rng(3)
    for start in range(0, len(SEEN) // length * length, length):
        torch.manual_seed(int(drawn.integers(2**62)))
        for step, action in enumerate(ours.act(SEEN[start])):
            seen = SEEN[start + step]
            named = {f"observation.images.{name}": frame.rgb.copy() for name, frame in seen.frames.items()}
            batch: Any = named | {"observation.state": seen.state.copy()}
            batch = prepare_observation_for_inference(batch, torch.device("cpu"), "reach the target")
            with torch.inference_mode():
                wanted = after(theirs.select_action(before(batch)))[0].numpy()
            np.testing.assert_allclose(action, np.clip(wanted, -1.0, 1.0), atol=1e-5)


@pytest.mark.parametrize("kind", ["vqbet", "smooth"])
def test_plans_that_are_forgotten_do_not_go_on(saved: Callable[[str], Path], kind: str) -> None:
    """One that was asked elsewhere before answers as one that is asked for the first time."""
    old, new = (load_policy(saved(kind), seed=seed) for seed in (3, 4))
    for seen in SEEN[:3]:
        old.act(seen)
    assert isinstance(old, LeRobotPolicy)
    old._random = np.random.default_rng(4)
    old.forget_plans()
    np.testing.assert_allclose(old.act(SEEN[4]), new.act(SEEN[4]), atol=1e-5)


@pytest.mark.parametrize("parts", [("text_config",), ("text_config", "vision_config")])
def test_a_policy_on_a_language_model_in_half_precision_runs_in_the_formats_that_it_was_trained_in(
    tmp_path: Path, parts: tuple[str, ...]
) -> None:
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
    from transformers import AutoConfig, SmolVLMForConditionalGeneration

    backbone, folder = tmp_path / "backbone", tmp_path / "vla"
    form: dict[str, Any] = SHAPE | {"kind": "smolvla", "backbone": backbone}
    build_tiny_policy(tmp_path / "bare", **form)
    SmolVLMForConditionalGeneration(AutoConfig.from_pretrained(backbone)).save_pretrained(backbone)
    build_tiny_policy(folder, **form, load_vlm_weights=True)
    # What the published description says of itself differs from model to model.
    change(backbone, "config.json", lambda c: [c[part].update(dtype="bfloat16") for part in parts])
    theirs: Any = SmolVLAPolicy.from_pretrained(folder)
    OnlineForm(image_px=32).write(folder)
    policy = LeRobotPolicy.load(folder)
    formats = {name: parameter.dtype for name, parameter in theirs.named_parameters()}
    assert set(formats.values()) == {torch.float32, torch.bfloat16}
    assert {name: parameter.dtype for name, parameter in policy.parts.model.named_parameters()} == formats
    assert np.isfinite(policy.act(SEEN[0])).all()
    pictures = {name: np.zeros((2, 32, 32, 3), np.uint8) for name in CAMERAS}
    ends = np.array([4, 2])
    loss = policy.losses(pictures, np.zeros((2, 5), np.float32), np.zeros((2, 4, 3), np.float32), ends).sum()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in policy.learnt.values())
    policy.load_actor(policy.actor_weights(), 1)


def test_the_instruction_reaches_a_policy_that_reads(saved: Callable[[str], Path]) -> None:
    cube, bowl = (load_policy(saved("smolvla"), task=task).act(SEEN[0]) for task in ("red cube", "bowl"))
    assert not np.allclose(cube, bowl)


def test_drawing_actions_leaves_the_random_numbers_of_others_alone(saved: Callable[[str], Path]) -> None:
    policy = load_policy(saved("smolvla"))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    policy.act(SEEN[0])
    assert torch.equal(torch.rand(3), expected)


def test_what_lies_in_the_folder_says_whose_policy_it_is(
    act_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(load_policy(act_copy), LeRobotPolicy)
    assert capsys.readouterr().out == ""
    shape = SmallPolicyConfig(cameras=("front",), image_px=16, state_dim=3, action_dim=2, width=8)
    SmallPolicy(shape).save(act_copy)
    assert isinstance(load_policy(act_copy), SmallPolicy)
    with pytest.raises(ModelLoadError, match=r"no policy folder.*policy\.json.*config\.json"):
        load_policy(tmp_path / "nothing")


def test_it_takes_no_weights_and_does_not_explore(
    saved: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    policy = load_policy(saved("act"), explore=ExplorationConfig(std=5.0))
    assert "does not explore" in caplog.text
    np.testing.assert_array_equal(policy.act(SEEN[0]), load_policy(saved("act")).act(SEEN[0]))
    with pytest.raises(ModelLoadError, match=r"takes weights only as the policy of a run.*version 3"):
        policy.load_actor({}, 3)


def test_weights_that_a_network_starts_from_are_not_fetched(
    act_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fetch)
    monkeypatch.setattr("torchvision._internally_replaced_utils.load_state_dict_from_url", fetch)
    weights = "ResNet18_Weights.IMAGENET1K_V1"
    change(act_copy, "config.json", lambda c: c.update(pretrained_backbone_weights=weights))
    load_policy(act_copy).act(SEEN[0])


def test_a_camera_may_be_renamed_by_the_policys_own_processor(act_copy: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        (step,) = (s for s in content["steps"] if s["registry_name"] == "rename_observations_processor")
        step["config"]["rename_map"] = {"observation.images.desk": "observation.images.front"}

    change(act_copy, PRE, rename)
    policy = load_policy(act_copy)
    with pytest.raises(ModelLoadError, match="desk"):
        policy.act(SEEN[0])
    cameras = {"desk": CAMERAS["front"], "wrist": CAMERAS["wrist"]}
    assert policy.act(noise_observations(cameras, 5)[0]).shape == (4, 3)


def test_a_camera_that_was_not_in_the_training_data_is_not_asked_for(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved("smolvla"), tmp_path / "vla"))
    third = {"observation.images.third": {"type": "VISUAL", "shape": [3, 48, 64]}}
    change(folder, "config.json", lambda c: c["input_features"].update(third))
    np.testing.assert_array_equal(
        load_policy(folder).act(SEEN[0]), load_policy(saved("smolvla")).act(SEEN[0])
    )


@pytest.mark.parametrize(
    ("cameras", "state_dim", "words"),
    [
        ({"front": (48, 64), "side": (48, 64)}, 5, r"cameras that the bench does not have: wrist.*Found: \['front', 'side'\]"),
        ({"front": (48, 64), "wrist": (24, 32)}, 5, r"pictures of another size.*wrist.*24, 32.*Allowed.*48, 64.*height_px"),
        (CAMERAS, 6, r"state of another size.*Found: 6.*Allowed: 5"),
    ],
)  # fmt: skip
def test_another_bench_is_named_with_what_differs(
    saved: Callable[[str], Path], cameras: dict[str, tuple[int, int]], state_dim: int, words: str
) -> None:
    policy = load_policy(saved("act"))
    with pytest.raises(ModelLoadError, match=words) as caught:
        policy.act(noise_observations(cameras, state_dim)[0])
    assert caught.value.seen
    assert caught.value.remedy


def test_a_policy_that_scales_pictures_takes_other_sizes(saved: Callable[[str], Path]) -> None:
    policy = load_policy(saved("smolvla"))
    assert policy.act(noise_observations({"front": (96, 96), "wrist": (30, 40)}, 5)[0]).shape == (4, 3)


@pytest.mark.parametrize(
    "name",
    [
        "config.json", "model.safetensors", PRE, "policy_postprocessor.json",
        "policy_preprocessor_step_3_normalizer_processor.safetensors",
    ],
)  # fmt: skip
def test_a_missing_file_is_named(act_copy: Path, name: str) -> None:
    (act_copy / name).unlink()
    with pytest.raises(ModelLoadError, match=name.replace(".", r"\.")) as caught:
        open_policy(act_copy)
    assert caught.value.allowed
    assert caught.value.remedy


@pytest.mark.parametrize("spoil", ["nan", "missing", "surplus", "shape", "torn"])
def test_weights_that_are_not_exactly_its_own_are_refused(act_copy: Path, spoil: str) -> None:
    path = act_copy / "model.safetensors"
    tensors = load_file(path)
    name = "model.action_head.weight"
    if spoil == "nan":
        tensors[name][0, 0] = np.nan
    elif spoil == "missing":
        del tensors[name]
    elif spoil == "surplus":
        tensors["model.more"] = torch.zeros(2)
    elif spoil == "shape":
        tensors[name] = tensors[name][:1].clone()
    path.unlink()
    save_file(tensors, path)
    if spoil == "torn":
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match="not finite" if spoil == "nan" else "not those of its network"):
        load_policy(act_copy)


@pytest.mark.parametrize("spoil", ["nan", "missing"])
def test_statistics_that_cannot_be_used_are_refused(act_copy: Path, spoil: str) -> None:
    path = next(act_copy.glob("policy_postprocessor*.safetensors"))
    tensors = load_file(path)
    if spoil == "nan":
        tensors["action.std"][0] = np.inf
    else:
        tensors = {name: values for name, values in tensors.items() if not name.startswith("action.")}
    save_file(tensors, path)
    words = "statistics.*not finite" if spoil == "nan" else "without the statistics.*none of action"
    with pytest.raises(ModelLoadError, match=words):
        load_policy(act_copy)


def test_a_foreign_processor_is_refused_before_anything_is_built(act_copy: Path) -> None:
    change(act_copy, PRE, lambda c: c["steps"].append({"class": "os.system", "config": {}}))
    change(act_copy, "config.json", lambda c: c.update(type="nothing"))
    with pytest.raises(ModelLoadError, match="foreign class"):
        load_policy(act_copy)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda c: c.update(type="nothing"), "no policy of this kind.*nothing"),
        (lambda c: c.pop("type"), "no model as LeRobot saves it"),
        (lambda c: c.update(no_such_field=3), "settings of a LeRobot policy cannot be read.*no_such_field"),
        (lambda c: c.update(vision_backbone="vgg"), "settings of a LeRobot policy cannot be read"),
        (lambda c: c["input_features"].update({"observation.environment_state": {"type": "ENV", "shape": [2]}}), "not those of its network"),
        (lambda c: c.update(dim_model=33), "cannot build the policy"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_refused(
    act_copy: Path, edit: Callable[[dict[str, Any]], object], words: str
) -> None:
    change(act_copy, "config.json", edit)
    with pytest.raises(ModelLoadError, match=words):
        load_policy(act_copy)


def test_an_input_that_no_bench_has_is_refused(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved("smolvla"), tmp_path / "vla"))
    goal = {"observation.environment_state": {"type": "ENV", "shape": [2]}}
    change(folder, "config.json", lambda c: c["input_features"].update(goal))
    with pytest.raises(ModelLoadError, match="reads or writes what a bench does not have"):
        load_policy(folder)


def test_an_adapter_is_refused_with_what_to_do(act_copy: Path) -> None:
    (act_copy / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=r"adapter.*merge_and_unload"):
        load_policy(act_copy)


def test_a_name_of_the_hub_is_not_asked_for(
    saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **_: asked.append(args) or [])
    folder = Path(shutil.copytree(saved("smolvla"), tmp_path / "vla"))
    change(folder, "config.json", lambda c: c.update(vlm_model_name="nobody/nothing"))
    with pytest.raises(ModelLoadError, match=r"vlm_model_name nobody/nothing.*nothing is fetched"):
        load_policy(folder)
    assert asked == []


def test_code_beside_a_checkpoint_is_not_run(
    act_copy: Path, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    encoder = Path(shutil.copytree(saved("smolvla").parent / "backbone", tmp_path / "encoder"))
    (encoder / "evil.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Config: pass\n")
    change(encoder, "config.json", lambda c: c.update(auto_map={"AutoConfig": "evil.Config"}))
    # LeRobot opens this kind's encoder with trust_remote_code=True.
    act = json.loads((act_copy / "config.json").read_text())
    kept = {name: act[name] for name in ("input_features", "output_features", "device")}
    described = {"type": "gaussian_actor", "vision_encoder_name": str(encoder)} | kept
    (act_copy / "config.json").write_text(json.dumps(described))
    with pytest.raises(ModelLoadError, match="wants to run code that lies beside a checkpoint"):
        load_policy(act_copy)
    assert not (tmp_path / "sprung").exists()
