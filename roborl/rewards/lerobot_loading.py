"""Reading a reward model of LeRobot strictly: known kinds, safe files, every weight accounted for, no foreign code.

LeRobot's own loader is not used. What is known to be wrong with that of LeRobot 0.6.1:

* weights that are missing or surplus are a warning in the log (``strict=False``), and the model runs on random ones;
* every network is opened with ``trust_remote_code=True``, from the hub if need be;
* the weights of TOPReward's network are not checked at all, and ``strict`` is ignored;
* the settings of Robometer ask the hub where ``vlm_config`` is empty, and its network is fetched where
  ``pretrained_path`` is.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import draccus
import torch
from draccus.utils import DecodingError, ParsingError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from roborl.errors import ModelLoadError, RoborlError
from roborl.pretrained import CONFIG, WEIGHTS, read_description, standing_in
from roborl.rewards.judges.checkpoints import find_checkpoint
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.judges.weights import MODEL_TYPES, digest_file, load_network


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Where LeRobot keeps the classes of one kind of model."""

    config: str
    model: str
    encoder: str = ""


# Code comes from this list alone: a checkpoint names a kind, never a class or a module.
_KINDS = {
    "reward_classifier": _Kind(
        config="lerobot.rewards.classifier.configuration_classifier:RewardClassifierConfig",
        model="lerobot.rewards.classifier.modeling_classifier:Classifier",
    ),
    "robometer": _Kind(
        config="lerobot.rewards.robometer.configuration_robometer:RobometerConfig",
        model="lerobot.rewards.robometer.modeling_robometer:RobometerRewardModel",
        encoder="lerobot.rewards.robometer.processor_robometer:RobometerEncoderProcessorStep",
    ),
    "sarm": _Kind(
        config="lerobot.rewards.sarm.configuration_sarm:SARMConfig",
        model="lerobot.rewards.sarm.modeling_sarm:SARMRewardModel",
    ),
    "topreward": _Kind(
        config="lerobot.rewards.topreward.configuration_topreward:TOPRewardConfig",
        model="lerobot.rewards.topreward.modeling_topreward:TOPRewardModel",
        encoder="lerobot.rewards.topreward.processor_topreward:TOPRewardEncoderProcessorStep",
    ),
}

_PLACES = frozenset(
    [
        "base_model_id",
        "device",
        "license",
        "model_name",
        "pretrained_path",
        "pretrained_revision",
        "private",
        "push_to_hub",
        "repo_id",
        "tags",
        "vlm_name",
        "_name_or_path",
    ]
)
"""Fields that say where something lies or how it is published, and not what it is."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LerobotModel:
    """A reward model of LeRobot, as loaded.

    Attributes:
        kind: LeRobot's name of its kind.
        model: LeRobot's object, in evaluation mode.
        encoder: LeRobot's step that turns pictures and words into what the model takes, None where it has none.
        folder: Its checkpoint.
        described: Contents of its ``config.json``.
        digest: Hash of its files, and of those of the network that it is built on.
    """

    kind: str
    model: Any
    encoder: Any
    folder: Path
    described: Mapping[str, Any]
    digest: str


def load_lerobot_model(checkpoint: str, *, backbone: str = "", device: str = "auto") -> LerobotModel:
    """Read a reward model that LeRobot saved.

    Args:
        checkpoint: Its folder, or its name in the hub's cache.
        backbone: Where the network lies that it is built on, if not where its settings say. A classifier needs only
            its description, Robometer only its tokeniser and picture processor, TOPReward all of it.
        device: Where it runs: auto, cpu, cuda or cuda:1.

    Raises:
        ModelLoadError: If it is missing or of an unknown kind, asks for code of its own, or its weights are not exactly
            those of its network.
    """
    folder = find_checkpoint(checkpoint)
    described = read_description(folder)
    kind = described["type"]
    if kind not in _KINDS:
        raise ModelLoadError(
            "This reward model of LeRobot is of a kind that is not run here",
            seen=kind,
            allowed=sorted(_KINDS),
            remedy="Kinds that other packages add to LeRobot are not opened, as a checkpoint could then choose the code",
        )
    if kind == "robometer" and not described.get("vlm_config"):
        raise ModelLoadError(
            "The settings of Robometer do not describe its network, and the hub is not asked for them",
            seen=f"no vlm_config in {folder / CONFIG}",
            remedy="Copy the whole folder again",
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    config = _config(kind, described, folder, device)
    named = {"reward_classifier": "model_name", "robometer": "base_model_id", "topreward": "vlm_name"}
    place = backbone or getattr(config, named.get(kind, ""), "")
    digest = hashlib.sha256(_facts(described))
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*preprocessor.json")]):
        digest_file(digest, path)
    with _own_code_only(kind, place, config, digest.update):
        try:
            model = _imported(_KINDS[kind].model)(config)
            encoder = _encoder(kind, config)
        except RoborlError:
            raise
        except ImportError as error:
            raise ModelLoadError(
                "A package that LeRobot needs for this reward model is missing", seen=str(error)
            ) from error
        except (
            Exception
        ) as error:  # a checkpoint is a foreign file: whatever its readers raise, it cannot be used
            raise ModelLoadError(
                "LeRobot cannot build the network that a checkpoint describes",
                seen=f"{folder}: {type(error).__name__}: {error}",
                allowed="networks of the transformers library itself; code beside a checkpoint is not run",
            ) from error
    if kind != "topreward":  # whose every weight is that of its backbone
        _load_weights(model, folder / WEIGHTS)
    return LerobotModel(
        kind=kind,
        model=model.to(torch.device(device)).eval().requires_grad_(False),
        encoder=encoder,
        folder=folder,
        described=described,
        digest=digest.hexdigest(),
    )


def _facts(described: Mapping[str, Any]) -> bytes:
    """Return what settings say, but for where things lie and how the model is published."""
    return json.dumps({k: v for k, v in described.items() if k not in _PLACES}, sort_keys=True).encode()


def _config(kind: str, described: Mapping[str, Any], folder: Path, device: str) -> Any:
    """Return LeRobot's settings, for this machine; its own reader would leave a file in the temporary folder."""
    fields = {name: value for name, value in described.items() if name != "type"}
    # Without a path, Robometer fetches the network it began with, to be overwritten.
    fields |= {"device": device, "pretrained_path": str(folder)}
    try:
        return draccus.decode(_imported(_KINDS[kind].config), fields)
    except (DecodingError, ParsingError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelLoadError(
            "The config.json of a LeRobot reward model cannot be read",
            seen=f"{folder}: {type(error).__name__}: {error}",
            allowed="what the installed LeRobot writes",
            remedy="Save the model with the installed release, or install the one that it was saved with",
        ) from error


@contextmanager
def _own_code_only(kind: str, place: str, config: Any, digest: Callable[[bytes], None]) -> Iterator[None]:
    """Let LeRobot open what it opens from local files and without foreign code, while it builds its model.

    Known defect of LeRobot 0.6.1: it opens all of them with ``trust_remote_code=True``, so that a checkpoint, or whoever
    owns the name in it on the hub, can run code.
    """
    import transformers

    library: Any = transformers

    def network_from_config(described: Any, **options: Any) -> Any:
        if described.model_type not in MODEL_TYPES:
            raise ModelLoadError(
                "The network is of a kind that is not run here",
                seen=described.model_type,
                allowed=MODEL_TYPES,
            )
        return library.AutoModelForImageTextToText.from_config(
            described, **options | {"trust_remote_code": False}
        )

    def empty_network(name: str, **_: Any) -> Any:
        # Every weight of it stands in the classifier's own file, so only its description is needed.
        options = {"trust_remote_code": False, "local_files_only": True}
        described = auto_config.from_pretrained(find_checkpoint(place), **options)
        digest(_facts(described.to_dict()))
        return auto_model.from_config(described, trust_remote_code=False)

    def checked_network(name: str, **_: Any) -> Any:
        judge = JudgeConfig(
            dtype=config.torch_dtype, device=config.device, attention=config.attn_implementation or "sdpa"
        )
        network = load_network(judge, place)
        if network.model_type != "qwen3_vl":
            raise ModelLoadError(
                "TOPReward asks another network", seen=network.model_type, allowed="qwen3_vl"
            )
        digest(network.digest.encode())
        return network.model

    def local_processor(name: str, **options: Any) -> Any:
        folder = find_checkpoint(place)
        for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".jinja", ".txt")):
            digest(path.name.encode() + path.read_bytes())
        safe = {"trust_remote_code": False, "local_files_only": True}
        return auto_processor.from_pretrained(folder, **options | safe)

    auto_config, auto_model, auto_processor = library.AutoConfig, library.AutoModel, library.AutoProcessor
    processor = SimpleNamespace(from_pretrained=local_processor)
    replaced = {
        "reward_classifier": {"transformers.AutoModel": SimpleNamespace(from_pretrained=empty_network)},
        "robometer": {
            "lerobot.rewards.robometer.modeling_robometer.AutoModelForImageTextToText": SimpleNamespace(
                from_config=network_from_config
            ),
            "lerobot.rewards.robometer.processor_robometer.AutoProcessor": processor,
        },
        "topreward": {
            "lerobot.rewards.topreward.modeling_topreward.Qwen3VLForConditionalGeneration": SimpleNamespace(
                from_pretrained=checked_network
            ),
            "lerobot.rewards.topreward.processor_topreward.AutoProcessor": processor,
        },
        "sarm": {},
    }[kind]
    with ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(standing_in(name, value))
        yield


def _encoder(kind: str, config: Any) -> Any:
    if not _KINDS[kind].encoder:
        return None
    names = ["image_key", "task_key", "default_task", "max_frames"]
    options: dict[str, Any] = {}
    if kind == "robometer":
        names += ["base_model_id", "use_multi_image", "use_per_frame_progress_token"]
    else:
        names += ["vlm_name", "fps", "prompt_prefix", "prompt_suffix_template", "add_chat_template"]
        options = {"max_length": config.max_input_length}
    encoder = _imported(_KINDS[kind].encoder)(**{name: getattr(config, name) for name in names}, **options)
    if kind == "robometer":
        rows, words = config.vlm_config["text_config"]["vocab_size"], len(encoder._processor.tokenizer)
        if rows != words:
            raise ModelLoadError(
                "The tokeniser is not the one that Robometer was trained with",
                seen=f"{words} tokens with LeRobot's own",
                allowed=f"{rows}, as vlm_config says",
                remedy="Name the folder of the right one in the settings: backbone",
            )
    return encoder


def _load_weights(model: Any, path: Path) -> None:
    """Fill a network.

    Known defect of LeRobot 0.6.1: it loads with ``strict=False``, and a warning is all there is of a foreign file. Its
    classifier has one network under several names, of which the file holds at least one.
    """
    try:
        saved = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelLoadError(
            "The weights of a LeRobot reward model cannot be read",
            seen=f"{path}: {error}",
            remedy="Copy or download the whole folder again",
        ) from error
    infinite = [name for name, tensor in saved.items() if not torch.isfinite(tensor).all()]
    if infinite:
        raise ModelLoadError("Weights of a LeRobot reward model are not finite", seen=infinite[:3])
    own: dict[str, Tensor] = model.state_dict()
    names: defaultdict[int, list[str]] = defaultdict(list)
    for name, tensor in own.items():
        names[tensor.data_ptr()].append(name)
    absent = [same[0] for same in names.values() if not any(name in saved for name in same)]
    surplus = sorted(saved.keys() - own.keys())
    wrong = [name for name in own.keys() & saved.keys() if own[name].shape != saved[name].shape]
    unlike = [
        name
        for same in names.values()
        for name in same
        if not wrong
        and name in saved
        and not torch.equal(saved[name], saved[next(n for n in same if n in saved)])
    ]
    if absent or surplus or wrong or unlike:
        raise ModelLoadError(
            "The weights of a LeRobot reward model are not those of its network",
            seen=f"{path}: {len(absent)} missing {absent[:3]}, {len(surplus)} surplus {surplus[:3]},"
            f" {len(wrong)} of another shape {wrong[:3]}, {len(unlike)} unlike their double {unlike[:3]}",
            allowed="exactly the weights that its config.json describes",
            remedy="Copy or download the whole folder again",
        )
    model.load_state_dict(saved, strict=False)


def _imported(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
