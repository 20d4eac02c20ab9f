"""What of a LeRobot policy learns online, the loss of each sample that teaches it, and how it goes home to LeRobot."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.processor import RelativeActionsProcessorStep
from lerobot.utils.constants import ACTION, OBS_IMAGES
from numpy.typing import NDArray
from torch import Tensor, nn

from roborl.errors import ModelLoadError
from roborl.finite import all_finite
from roborl.policies.lerobot_files import ONLINE
from roborl.policies.lerobot_opening import LeRobotParts, open_policy
from roborl.pretrained import WEIGHTS, disk_faults
from roborl.whole_files import write_whole

type Arrays = Mapping[str, NDArray[Any]]

ALL, LORA = "all", "lora"
IS_PAD = "action_is_pad"
KINDS = ("act", "evo1", "pi0", "pi05", "smolvla")
"""Kinds of policy whose loss is known sample by sample."""

_ADAPTER = "lora_"
# Their losses count the steps behind the end of a chunk, which are made up.
_COUNTS_PADDING = ("pi0", "pi05")
_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class OnlineForm:
    """What a run makes of a LeRobot policy. It stands in the policy's folder, so that an actor makes the same of it.

    Attributes:
        image_px: Side of the square pictures that replay memory keeps: the policy learns from these, so it acts on these.
        learn: What learns: ("all",) for what LeRobot's own trainer would change, ("lora",) for adapters of low rank where
            LeRobot puts them in this kind, or the names of modules.
        lora_rank: Rank of the adapters.
    """

    image_px: int
    learn: tuple[str, ...] = (ALL,)
    lora_rank: int = 16

    def write(self, folder: Path) -> None:
        """Leave it in a policy's folder."""
        write_whole(folder / ONLINE, json.dumps(asdict(self), indent=2))

    @classmethod
    def read(cls, folder: Path) -> OnlineForm | None:
        """Return what stands in a policy's folder, None where no run has made anything of it.

        Raises:
            ModelLoadError: If the file cannot be read.
        """
        try:
            fields = json.loads((folder / ONLINE).read_text())
            return cls(**fields | {"learn": tuple(map(str, fields["learn"]))})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelLoadError(
                "What a run has made of a LeRobot policy cannot be read",
                seen=f"{folder / ONLINE}: {type(error).__name__}: {error}",
                allowed="what roborl learn wrote",
                remedy="Copy the policy folder of the run again",
            ) from error


def learnt_parameters(parts: LeRobotParts, form: OnlineForm) -> dict[str, nn.Parameter]:
    """Let the part of a network learn that is to, and return it by name; adapters are put in first.

    Raises:
        ModelLoadError: If this kind cannot be taught sample by sample, if its actions are relative to the state, or if nothing
            of it learns.
    """
    _check_kind(parts)
    _check_actions(parts)
    model: nn.Module = parts.model
    if form.learn == (LORA,):
        _put_adapters_in(parts, form.lora_rank)
        names = {name for name, _ in model.named_parameters() if _ADAPTER in name}
    elif form.learn == (ALL,):
        names = set(parts.trains)
    else:
        names = _named(model, form.learn)
    model.requires_grad_(False)
    learnt = {name: parameter for name, parameter in model.named_parameters() if name in names}
    for parameter in learnt.values():
        parameter.requires_grad_(True)
    if not learnt:
        raise ModelLoadError(
            "Nothing of the LeRobot policy would learn",
            seen=f"learn {list(form.learn)}",
            allowed="settings of the policy that leave something unfrozen, or names of its modules",
            remedy="Name modules: --weighted.learn '[model.action_head]'",
        )
    return learnt


def learnt_groups(model: Any, learnt: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    """Return what learns in the groups that LeRobot trains it in, for an optimiser, each group in the order of ``learnt``.

    A group may have settings of its own, such as the learning rate of ACT's image network. What LeRobot puts into no group, such
    as an adapter that it does not know, is in one without any.
    """
    order = {id(parameter): place for place, parameter in enumerate(learnt.values())}
    given = list(model.get_optim_params())
    groups = [dict(group) for group in given] if given and isinstance(given[0], dict) else [{"params": given}]
    for group in groups:
        group["params"] = sorted(
            (each for each in group["params"] if id(each) in order), key=lambda each: order[id(each)]
        )
    grouped = {id(each) for group in groups for each in group["params"]}
    groups.append({"params": [each for each in learnt.values() if id(each) not in grouped]})
    return [group for group in groups if group["params"]]


def learnt_arrays(learnt: Mapping[str, nn.Parameter]) -> dict[str, NDArray[np.float32]]:
    """Copy parameters into float32 arrays, which hold those of half precision exactly."""
    return {name: parameter.detach().float().cpu().numpy().copy() for name, parameter in learnt.items()}


def load_learnt(learnt: Mapping[str, nn.Parameter], weights: Arrays, what: str) -> None:
    """Fill parameters, all or none.

    Raises:
        ModelLoadError: If the weights are not finite or not exactly these; the old ones stay.
    """
    if not all(map(all_finite, weights.values())):
        raise ModelLoadError(
            "New weights are not finite",
            seen=what,
            allowed="finite numbers",
            remedy="The last good weights stay in force; look at the trainer's losses",
        )
    wrong = sorted(set(learnt) ^ set(weights)) or [
        f"{name} {tuple(weights[name].shape)}, not {tuple(parameter.shape)}"
        for name, parameter in learnt.items()
        if tuple(weights[name].shape) != tuple(parameter.shape)
    ]
    if wrong:
        raise ModelLoadError(
            f"The weights of {what} do not fit this LeRobot policy",
            seen=wrong[0],
            allowed=f"exactly the {len(learnt)} tensors of it that learn",
            remedy="Give the folder named policy of the run that published them",
        )
    with torch.no_grad():
        for name, parameter in learnt.items():
            parameter.copy_(torch.from_numpy(np.array(weights[name])))


def sample_losses(parts: LeRobotParts, batch: dict[str, Any]) -> Tensor:
    """Return the imitation loss of each sample over its real steps, (b,), as LeRobot's trainer forms it over a batch.

    Args:
        parts: The policy, in training mode.
        batch: What its pre-processor returned, with ``action`` (b, chunk, a) and ``action_is_pad`` (b, chunk).
    """
    if parts.kind == "act":
        return _act_losses(parts.model, batch)
    real = ~batch[IS_PAD]
    counted = _real_steps_only(parts.model.model, real) if parts.kind in _COUNTS_PADDING else nullcontext()
    with counted:
        losses: Tensor = parts.model(batch, reduction="none")[0]
    return losses


def save_learnt(source: Path, weights: Arrays, into: Path) -> None:
    """Write a run's policy with these weights as LeRobot saves one: adapters merged, nothing that is a run's beside it.

    Args:
        source: The run's policy folder.
        weights: A published version.
        into: The folder, replaced as a whole.

    Raises:
        ModelLoadError: If folder or weights cannot be used.
        OSError: If the disk does not take it.
    """
    parts, form = open_policy(source, device="cpu"), OnlineForm.read(source)
    assert form is not None, "the policy of a run"
    load_learnt(learnt_parameters(parts, form), weights, "the version to be saved")
    if form.learn == (LORA,):
        _merge_adapters(parts.model)
    draft, replaced = (into.with_name(f".{into.name}.{part}") for part in ("draft", "replaced"))
    for leftover in (draft, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, draft, ignore=shutil.ignore_patterns(ONLINE, WEIGHTS))
    safetensors = importlib.import_module("safetensors.torch")
    with disk_faults():
        safetensors.save_model(parts.model, str(draft / WEIGHTS))
    if into.exists():
        into.rename(replaced)
    draft.rename(into)
    shutil.rmtree(replaced, ignore_errors=True)


def _check_kind(parts: LeRobotParts) -> None:
    looks_back = getattr(parts.config, "n_obs_steps", 1) > 1
    if parts.kind not in KINDS or looks_back:
        raise ModelLoadError(
            "Learning online cannot fine-tune this kind of LeRobot policy",
            seen=f"{parts.kind}, looking at {getattr(parts.config, 'n_obs_steps', 1)} observations",
            allowed=f"one of {', '.join(KINDS)}, looking at one observation: their losses are known sample by sample",
            remedy="Run it as it is with roborl evaluate or roborl act, or fine-tune it with lerobot-train",
        )


def _check_actions(parts: LeRobotParts) -> None:
    if any(isinstance(step, RelativeActionsProcessorStep) and step.enabled for step in parts.before.steps):
        raise ModelLoadError(
            "Learning online cannot fine-tune a LeRobot policy whose actions are relative to the state",
            seen=f"{parts.kind}, with an enabled relative_actions_processor",
            allowed="actions as the dataset has them: those of a bench are moves from where the arm is already",
            remedy="Train it again with lerobot-train --policy.use_relative_actions=false",
        )


def _named(model: nn.Module, modules: tuple[str, ...]) -> set[str]:
    """Return the parameters of modules, each of which must have some."""
    names = [name for name, _ in model.named_parameters()]
    chosen: set[str] = set()
    for module in modules:
        inside = {name for name in names if name == module or name.startswith(f"{module}.")}
        if not inside:
            there = dict.fromkeys(".".join(name.split(".")[:-1][:2]) for name in names)
            raise ModelLoadError(
                "A module that is to learn is not in this LeRobot policy",
                seen=module,
                allowed=f"all or lora alone, or modules such as {', '.join(list(there)[:_SHOWN])}",
                remedy="Correct --weighted.learn",
            )
        chosen |= inside
    return chosen


def _put_adapters_in(parts: LeRobotParts, rank: int) -> None:
    places = (
        parts.model._get_default_peft_targets() if hasattr(parts.model, "_get_default_peft_targets") else None
    )
    if not places:
        raise ModelLoadError(
            "LeRobot does not say where adapters of low rank go in this kind of policy",
            seen=parts.kind,
            allowed="lora for smolvla, pi0 and pi05",
            remedy="Let all of it learn, --weighted.learn all, or name its modules",
        )
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise ModelLoadError(
            "The package for adapters of low rank is missing",
            seen=error,
            allowed="peft",
            remedy="pip install 'roborl[learn]'",
        ) from error
    settings = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=places["target_modules"])
    with torch.random.fork_rng(devices=[]):
        # The same in every process; what is published holds them all the same.
        torch.manual_seed(0)
        peft.inject_adapter_in_model(settings, parts.model)


def _merge_adapters(model: nn.Module) -> None:
    layers = importlib.import_module("peft.tuners.tuners_utils").BaseTunerLayer
    for name, layer in [(name, layer) for name, layer in model.named_modules() if isinstance(layer, layers)]:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())


def _act_losses(model: Any, batch: dict[str, Any]) -> Tensor:
    """ACT has no loss by sample: L1 over the real steps, and the divergence of its latent where it has one.

    Source:
        Zhao et al., Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware (RSS 2023), algorithm 1.
    """
    cameras = list(model.config.image_features)
    seen = batch | ({OBS_IMAGES: [batch[camera] for camera in cameras]} if cameras else {})
    actions, (mean, log_variance) = model.model(seen)
    error = (batch[ACTION] - actions).abs().mean(dim=2)
    real = ~batch[IS_PAD]
    loss = (error * real).sum(dim=1) / real.sum(dim=1).clamp_min(1)
    if mean is not None:
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1)
        loss = loss + model.config.kl_weight * divergence
    return torch.as_tensor(loss)


@contextmanager
def _real_steps_only(network: Any, real: Tensor) -> Iterator[None]:
    """Weigh what a network says of each step and dimension, (b, chunk, d), so that its mean is that of the real steps."""
    share = real.float().mean(dim=1).clamp_min(1.0 / real.shape[1])
    weight = (real / share[:, None]).unsqueeze(2)
    own = network.__dict__.get("forward")
    plain = network.forward
    network.forward = lambda *args, **named: plain(*args, **named) * weight
    try:
        yield
    finally:
        if own is None:
            del network.forward
        else:
            network.forward = own
