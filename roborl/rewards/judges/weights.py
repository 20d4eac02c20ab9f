"""Reading a vision-language checkpoint strictly: known classes, safe files, every weight accounted for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open

from roborl.errors import ModelLoadError
from roborl.rewards.judges.checkpoints import find_checkpoint
from roborl.rewards.judges.config import JudgeConfig, Quantisation

MODEL_TYPES = ("qwen2_5_vl", "qwen3_vl", "internvl")
"""Networks that may be loaded: code comes from this list alone, never from a checkpoint."""

_HEAD, _CHUNK = "lm_head.weight", 1 << 24
_PLACES = ".embeddings.position_ids"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Network:
    """A checkpoint as loaded.

    Attributes:
        model: The network, in evaluation mode.
        processor: Its processor.
        model_type: One of :data:`MODEL_TYPES`.
        digest: Hash of all its files, and of the adapter's.
    """

    model: Any
    processor: Any
    model_type: str
    digest: str


def load_network(config: JudgeConfig, checkpoint: str) -> Network:
    """Read a checkpoint from a folder, or from the hub's cache by its name.

    Raises:
        ModelLoadError: If it is missing, of an unknown kind, has weights too many, too few or of another shape, lacks
            a chat template, or its adapter does not fit.
    """
    folder = find_checkpoint(checkpoint)
    described = read_network_config(folder)
    model_type = str(described.get("model_type"))
    if model_type not in MODEL_TYPES:
        raise ModelLoadError(
            "A checkpoint holds a network of a kind that is not run here",
            seen=model_type,
            allowed=MODEL_TYPES,
            remedy="Serve it with vLLM or SGLang, and name that in the model's settings: judge.kind: openai and judge.endpoints",
        )
    files = weight_files(folder)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    with quiet():
        try:
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            model, report = AutoModelForImageTextToText.from_pretrained(
                folder,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=config.dtype if config.dtype == "auto" else getattr(torch, config.dtype),
                device_map=_device_map(config.device),
                attn_implementation=config.attention,
                **_quantised(config.quantisation),
            )
        except torch.OutOfMemoryError:
            raise
        except (
            Exception
        ) as error:  # a checkpoint is a foreign file: whatever its readers raise, it cannot be used
            raise ModelLoadError(
                "A checkpoint cannot be read",
                seen=f"{folder}: {type(error).__name__}: {error}",
                remedy="Copy or download the whole folder again; if it is whole, see whether this computer has what"
                " judge.device and judge.attention in the model's settings ask for",
            ) from error
    _check_report(folder, report)
    check_tied(model, files)
    if not getattr(processor, "chat_template", None):
        raise ModelLoadError(
            "A checkpoint has no chat template",
            seen=str(folder),
            allowed="chat_template.jinja or chat_template.json beside the weights",
            remedy="Copy the one that was published with the checkpoint",
        )
    digest = xxhash.xxh3_128()
    for path in [*files, *_setting_files(folder)]:
        digest_file(digest, path)
    if config.adapter:
        model = _with_adapter(
            model, Path(config.adapter), digest, merge=config.quantisation is Quantisation.NONE
        )
    return Network(
        model=model.eval().requires_grad_(False),
        processor=processor,
        model_type=model_type,
        digest=digest.hexdigest(),
    )


def read_network_config(folder: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint's ``config.json``.

    Raises:
        ModelLoadError: If it cannot be read.
    """
    try:
        described: dict[str, Any] = json.loads((folder / "config.json").read_text())
        if not isinstance(described, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            "The config.json of a checkpoint cannot be read", seen=f"{folder}: {error}"
        ) from error
    return described


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint.

    Raises:
        ModelLoadError: If there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelLoadError(
            "A checkpoint has no weights that may be loaded",
            seen=sorted(path.name for path in folder.iterdir())[:12],
            allowed="*.safetensors; pickled weights (*.bin, *.pt) are refused",
            remedy="Where you trust them, load network and processor once with transformers, write both into one folder"
            " with save_pretrained, and name that folder",
        )
    return files


def _setting_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in (".json", ".jinja", ".txt", ".model"))


def misfits(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return what keeps the weights of a checkpoint from being those of its network, by kind; empty where all fit.

    Older releases of transformers saved the numbers of places beside the weights, 0 to the last. A network now makes
    them itself, and nothing is lost where those of the file are left.

    Args:
        report: What ``from_pretrained`` returns with ``output_loading_info``.
    """
    found = {
        name: sorted(map(str, report.get(name) or ()))
        for name in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    }
    found["unexpected_keys"] = [name for name in found["unexpected_keys"] if not name.endswith(_PLACES)]
    return {name: keys for name, keys in found.items() if keys}


def _check_report(folder: Path, report: dict[str, Any]) -> None:
    if wrong := misfits(report):
        raise ModelLoadError(
            "The weights of a checkpoint are not those of its network",
            seen="; ".join(f"{len(v)} {name}, such as {v[0]}" for name, v in wrong.items()),
            allowed="exactly the weights that its config.json describes",
            remedy=f"Copy or download {folder} again, or convert it",
        )


def check_tied(model: Any, files: list[Path]) -> None:
    """Refuse a checkpoint with an output layer of its own where the loaded network uses the embedding instead.

    Raises:
        ModelLoadError: If so.
    """
    embedding = model.get_input_embeddings().weight
    if model.lm_head.weight is not embedding:
        return
    for path in files:
        with opened(path) as file:
            # InternVL's is saved under another name than it has in memory.
            for name in (name for name in file.keys() if name.endswith(_HEAD)):  # noqa: SIM118  (not a mapping)
                saved = file.get_tensor(name).to(embedding.device, embedding.dtype)
                if saved.shape != embedding.shape or not torch.equal(saved, embedding.detach()):
                    raise ModelLoadError(
                        "A checkpoint has an output layer that its own settings would throw away",
                        seen="tie_word_embeddings true, and an lm_head.weight that differs from the embedding",
                        allowed="tied and equal, or not tied",
                        remedy="Set tie_word_embeddings to false in its config.json",
                    )


def _with_adapter(model: Any, folder: Path, digest: Any, *, merge: bool) -> Any:
    """Merge a LoRA adapter whose every weight finds its place, or leave it beside weights of a few bits.

    What it adds to a weight is less than half a step of those, and merging rounds it away.
    """
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ModelLoadError(
            "There is no adapter to load",
            seen=str(folder),
            allowed="a folder with adapter_config.json and adapter_model.safetensors",
        )
    from peft import PeftModel, get_peft_model_state_dict

    with quiet():
        try:
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
        except Exception as error:  # as for a checkpoint
            raise ModelLoadError(
                "An adapter cannot be read", seen=f"{folder}: {type(error).__name__}: {error}"
            ) from error
    with opened(path) as file:
        saved = set(file.keys())
    placed = set(get_peft_model_state_dict(adapted))
    if saved != placed:
        raise ModelLoadError(
            "An adapter is that of another network",
            seen=f"missing {sorted(placed - saved)[:3]}, surplus {sorted(saved - placed)[:3]}",
            allowed="exactly the weights that its adapter_config.json describes",
        )
    for part in (path, folder / "adapter_config.json"):
        digest_file(digest, part)
    if merge:
        return adapted.merge_and_unload()
    digest.update(b"beside the weights")
    return adapted.base_model.model


def _device_map(device: str) -> Any:
    if device == "auto":
        return {"": "cuda" if torch.cuda.is_available() else "cpu"}
    return device if device == "balanced" else {"": device}


def _quantised(how: Quantisation) -> dict[str, Any]:
    if how is Quantisation.NONE:
        return {}
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise ModelLoadError(
            f"Weights cannot be kept as {how} here",
            seen="no bitsandbytes",
            remedy="Install it with: pip install bitsandbytes",
        )
    from transformers import BitsAndBytesConfig

    if how is Quantisation.INT8:
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    }


def digest_file(digest: Any, path: Path) -> None:
    """Feed name and bytes of a file into a hash."""
    digest.update(path.name.encode())
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file of weights; its header is read at once, a tensor when it is asked for.

    Raises:
        ModelLoadError: If it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ModelLoadError(
            "A file of weights cannot be read", seen=f"{path}: {error}", remedy="Copy it again"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's progress bars and reports off a server's log; what matters is checked and raised here."""
    from transformers.utils import logging as library

    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity(logging.ERROR)
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
