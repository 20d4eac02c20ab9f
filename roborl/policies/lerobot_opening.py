"""Opens a policy that LeRobot saved: from local files alone, strictly, and without code that it brings along."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
import torch
from draccus.utils import DecodingError, ParsingError
from lerobot.configs import FeatureType, NormalizationMode, PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model

from roborl.errors import ModelLoadError, RoborlError
from roborl.policies.lerobot_files import PROCESSOR_FILES, check_processor_files
from roborl.pretrained import CONFIG, WEIGHTS, read_description, standing_in

_ADAPTER = "adapter_config.json"
_LONGEST = 400
# What a network is filled with before its own weights are: all of them stand in the folder.
_FROM_VLM = "load_vlm_weights"
_STARTS_FROM: dict[str, Any] = {"pretrained_backbone_weights": None, _FROM_VLM: False}
_FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def extra_of(kind: str) -> str:
    """Return the extra of LeRobot's that brings what a kind of policy needs.

    Example:
        >>> [extra_of(kind) for kind in ("pi0", "pi05", "smolvla")]
        ['pi', 'pi', 'smolvla']
    """
    return {"pi0": "pi", "pi05": "pi", "pi0_fast": "pi", "wall_x": "wallx"}.get(kind, kind)


@dataclass(frozen=True, kw_only=True)
class LeRobotParts:
    """A policy as LeRobot runs it.

    Attributes:
        kind: LeRobot's name of it, such as ``act``.
        config: Its settings.
        model: The network, on its device, in evaluation mode.
        before: The pre-processor: a batch to what the network reads.
        after: The post-processor: what the network writes to actions.
        known: Names of the features that the training data had statistics of.
        renamed: What the pre-processor calls by another name: the network's name to the dataset's.
        trains: Names of the parameters that LeRobot's own trainer would change; the others it keeps frozen.
    """

    kind: str
    config: Any
    model: Any
    before: Any
    after: Any
    known: frozenset[str]
    renamed: dict[str, str]
    trains: frozenset[str]


def open_policy(folder: Path, *, device: str = "") -> LeRobotParts:
    """Read a folder that LeRobot saved, such as ``pretrained_model`` of a checkpoint.

    The network runs on the device that it was saved with, or on what LeRobot finds where that is not there.

    Args:
        folder: The folder.
        device: Where it runs instead, such as ``cpu`` where it is only looked at.

    Raises:
        ModelLoadError: If a file is missing or foreign, if the weights are not exactly those that it describes or are not
            finite, or if statistics are missing.
    """
    _check_files(folder)
    steps = check_processor_files(folder)
    kind, config = _config(folder)
    config.device = device or config.device
    device_step = "device_processor"
    overrides = {device_step: {"device": config.device}} if device_step in steps[PROCESSOR_FILES[0]] else {}
    try:
        with _local_and_own_code():
            model = get_policy_class(kind)(config)
            before, after = make_pre_post_processors(
                config, pretrained_path=str(folder), preprocessor_overrides=overrides
            )
    except RoborlError:
        raise
    except ImportError as error:
        raise ModelLoadError(
            "A package that LeRobot needs for this policy is missing",
            seen=f"{kind}: {error}",
            allowed="the packages of LeRobot's extra for it",
            remedy=f"pip install 'lerobot[{extra_of(kind)}]'",
        ) from error
    except (
        Exception
    ) as error:  # a checkpoint is a foreign file: whatever its readers raise, it cannot be used
        raise ModelLoadError(
            "LeRobot cannot build the policy that a folder describes",
            seen=_short(f"{folder}{_named(config)}: {type(error).__name__}: {error}"),
            allowed="one whose every file, and the tokeniser that it names, lies on this computer: nothing is fetched",
            remedy="Copy the whole folder again; what it names on the hub is fetched with: hf download",
        ) from error
    _load_weights(model, folder / WEIGHTS, as_saved=hasattr(config, _FROM_VLM))
    known = _check_statistics(folder, (*before.steps, *after.steps))
    trains = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return LeRobotParts(
        kind=kind,
        config=config,
        model=model.to(config.device).eval().requires_grad_(False),
        before=before,
        after=after,
        known=known,
        renamed={new: old for step in before.steps for old, new in getattr(step, "rename_map", {}).items()},
        trains=trains,
    )


def _check_files(folder: Path) -> None:
    if (folder / _ADAPTER).exists():
        raise ModelLoadError(
            "This folder holds an adapter and not a whole policy",
            seen=folder / _ADAPTER,
            allowed=f"{CONFIG} and {WEIGHTS} of a whole policy",
            remedy="Merge it into its policy with peft's merge_and_unload, and save that with save_pretrained",
        )
    needed = (CONFIG, WEIGHTS, *PROCESSOR_FILES)
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise ModelLoadError(
            "The folder of a LeRobot policy lacks files",
            seen=f"{folder} without {', '.join(missing)}",
            allowed=", ".join(needed),
            remedy="Name the folder pretrained_model of a LeRobot checkpoint; processors of an older release are made by "
            "python -m lerobot.processor.migrate_policy_normalization",
        )


def known_kinds(wanted: str) -> list[str]:
    """Return the kinds of LeRobot's policies; those of installed plug-ins are looked for where the wanted one is none of its own."""
    if wanted not in PreTrainedConfig.get_known_choices():
        importlib.import_module("lerobot.utils.import_utils").register_third_party_plugins()
    return sorted(PreTrainedConfig.get_known_choices())


def _config(folder: Path) -> tuple[str, Any]:
    """Return kind and settings; LeRobot's own reader would leave a file in the temporary folder."""
    fields = read_description(folder)
    kind = fields.pop("type")
    known = known_kinds(kind)
    if kind not in known:
        raise ModelLoadError(
            "LeRobot knows no policy of this kind",
            seen=kind,
            allowed=known,
            remedy=f"Install the plug-in that brings it, lerobot_policy_{kind}",
        )
    fields |= {name: value for name, value in _STARTS_FROM.items() if name in fields}
    fields["pretrained_path"] = str(folder)
    try:
        return kind, draccus.decode(PreTrainedConfig.get_choice_class(kind), fields)
    except (DecodingError, ParsingError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelLoadError(
            "The settings of a LeRobot policy cannot be read",
            seen=_short(f"{folder / CONFIG}: {type(error).__name__}: {error}"),
            allowed="what the installed LeRobot writes",
            remedy="Save the policy with the installed release, or install the one that it was saved with",
        ) from error


def _load_weights(model: Any, path: Path, *, as_saved: bool) -> None:
    """Fill a network. LeRobot 0.6.1 loads with ``strict=False``, and a warning is all there is of a foreign file.

    Args:
        model: The network.
        path: Its weights.
        as_saved: Whether they keep the number formats that they have there; else they take those of the network.

    Raises:
        ModelLoadError: If they are not exactly the network's, or not finite.
    """
    try:
        if as_saved:
            _take_formats(model, path)
        load_model(model, path, strict=True)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise ModelLoadError(
            "The weights of a LeRobot policy are not those of its network",
            seen=_short(f"{path}: {error}"),
            allowed=f"exactly the weights that its {CONFIG} describes",
            remedy="Copy the whole folder again",
        ) from error
    _check_finite("The weights", path, model.state_dict())


def _take_formats(model: Any, path: Path) -> None:
    """Give the parameters of a network the number formats that they have in a file.

    LeRobot 0.6.1 trains SmolVLA on a language model that it reads in half precision. Built from its description, that
    model has other formats, and for some descriptions such as do not fit together.
    """
    with safe_open(path, "pt") as file:
        formats = {name: _FORMATS.get(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if (found := formats.get(name)) is not None and parameter.is_floating_point():
            parameter.data = parameter.data.to(found)


def _check_statistics(folder: Path, steps: tuple[Any, ...]) -> frozenset[str]:
    """Return the features that there are statistics of. Without those of state and action a normaliser does nothing."""
    known: set[str] = set()
    for step in steps:
        if not isinstance(step, NormalizerProcessorStep | UnnormalizerProcessorStep):
            continue
        state = step.state_dict()
        here = {name.rpartition(".")[0] for name in state}
        used = {name: values for name, values in state.items() if name.rpartition(".")[0] in step.features}
        _check_finite("The statistics", folder, used)
        missing = sorted(
            name
            for name, feature in step.features.items()
            if feature.type in (FeatureType.STATE, FeatureType.ACTION)
            and step.norm_map.get(feature.type, NormalizationMode.IDENTITY) is not NormalizationMode.IDENTITY
            and name not in here
        )
        if missing:
            raise ModelLoadError(
                "A LeRobot policy was saved without the statistics that it normalises by",
                seen=f"{folder}: none of {', '.join(missing)}",
                allowed="statistics of the dataset that it was trained on, in its processors",
                remedy="Save the processors again with that dataset's statistics, as lerobot-train does",
            )
        known |= here
    return frozenset(known)


def _check_finite(what: str, where: Path, tensors: dict[str, torch.Tensor]) -> None:
    wrong = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if wrong:
        raise ModelLoadError(
            f"{what} of a LeRobot policy are not finite",
            seen=f"{where}: {wrong[0]}, one of {len(wrong)}",
            allowed="finite numbers",
            remedy="Use an earlier checkpoint of that training",
        )


@contextmanager
def _local_and_own_code() -> Iterator[None]:
    """Let LeRobot open what it opens from local files and without foreign code, while it builds a policy.

    LeRobot 0.6.1 asks the hub for tokenisers and descriptions, with ``trust_remote_code=True`` for some, and prints to
    where the result of a command is expected.
    """

    def refuse(name: str, *_: Any, **__: Any) -> None:
        raise ModelLoadError(
            "A LeRobot policy wants to run code that lies beside a checkpoint",
            seen=name,
            allowed="classes of the transformers library itself",
            remedy="Use a policy that needs no such code",
        )

    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))
        stack.enter_context(standing_in("huggingface_hub.constants.HF_HUB_OFFLINE", True))
        if importlib.util.find_spec("transformers"):
            stack.enter_context(standing_in("transformers.dynamic_module_utils.get_class_in_module", refuse))
        yield


def _named(config: Any) -> str:
    """Return which folders or places on the hub the settings name."""
    named = [
        f"{name} {value}" for name, value in vars(config).items() if isinstance(value, str) and "/" in value
    ]
    return f" with {', '.join(named)}" if named else ""


def _short(text: str) -> str:
    return textwrap.shorten(text, _LONGEST, placeholder=" ...")
