"""``features.json``: what the lists of an example stand for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from roborl.errors import DatasetError

_MOST_NUMBERS = 1 << 32

type Kind = Literal["tensor", "image", "text", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One feature that holds values itself.

    Attributes:
        kind: What it holds.
        shape: Of one value, without the sequences that it is in; None where it differs.
        dtype: Numpy's name of the type, "string" for text.
        encoding: How a tensor's or picture's bytes are packed: empty, "bytes", "zlib", "jpeg" or "png".
        depth: How many sequences it is in: 1 for what each step has, 0 for what an episode has.
        name: What TFDS calls its class.
    """

    kind: Kind
    shape: tuple[int | None, ...]
    dtype: str
    encoding: str
    depth: int
    name: str

    @property
    def is_picture(self) -> bool:
        """Whether each step has one picture in colour here, packed or as plain numbers."""
        colour = len(self.shape) == 3 and self.shape[2] == 3 and self.dtype == "uint8"
        return colour and self.depth == 1 and self.kind in ("image", "tensor")

    @property
    def width(self) -> int | None:
        """How many numbers a value has, None where it holds something else or they differ."""
        numbers = self.kind == "tensor" and self.dtype != "string"
        return math.prod(n or 0 for n in self.shape) if numbers and None not in self.shape else None


def read_features(path: Path) -> dict[str, Leaf]:
    """Return the features of a dataset by name, nested ones as ``steps/observation/image``.

    Both forms are read: ``pythonClassName`` with a field for each class, and the older ``type`` with ``content``.

    Raises:
        DatasetError: If it cannot be read, or is no dictionary of features.
    """
    try:
        leaves = dict(_leaves(json.loads(path.read_bytes()), "", 0))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(
            "The features of a dataset cannot be read",
            seen=f"{path}: {type(error).__name__}: {error}",
            allowed="features.json as TFDS 4 writes it",
            remedy="Fetch the file again",
        ) from error
    if not leaves or "" in leaves:
        raise DatasetError(
            "The dataset has no dictionary of features",
            seen=path,
            allowed="steps, with observation and action",
        )
    return leaves


def _leaves(node: Mapping[str, Any], path: str, depth: int) -> Iterator[tuple[str, Leaf]]:
    name, content = _opened(node)
    match name:
        case "FeaturesDict":
            inner = content.get("features", {}) if "pythonClassName" in node else content
            for key, child in inner.items():
                yield from _leaves(child, f"{path}/{key}" if path else str(key), depth)
        case "Sequence" | "Dataset" | "Video":
            if "feature" in content:
                yield from _leaves(content["feature"], path, depth + 1)
            else:  # a video says of its pictures what each of them would
                shape = _shape(content.get("shape"))
                yield path, _leaf("Image", {**content, "shape": shape[1:]}, depth + 1)
        case _:
            yield path, _leaf(name, content, depth)


def _opened(node: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the class of a feature, without its module, and what is said about it."""
    if "type" in node:
        return str(node["type"]).rsplit(".", 1)[-1], dict(node["content"] or {})
    name = str(node["pythonClassName"]).rsplit(".", 1)[-1]
    said = [value for key, value in node.items() if key not in ("pythonClassName", "description")]
    return name, dict(next((value for value in said if isinstance(value, Mapping)), {}))


def _leaf(name: str, content: Mapping[str, Any], depth: int) -> Leaf:
    kind: Kind
    shape, dtype, encoding = _shape(content.get("shape")), str(content.get("dtype", "")), ""
    match name:
        case "Tensor" | "Scalar":
            kind, encoding = "tensor", str(content.get("encoding") or "none").lower()
        case "Image":
            kind = "image"
            dtype = dtype or "uint8"
            encoding = str(content.get("encodingFormat") or content.get("encoding_format") or "")
        case "Text":
            kind, dtype, shape = "text", "string", ()
        case "ClassLabel":
            kind, dtype, shape = "tensor", "int64", ()
        case "BBoxFeature":
            kind, dtype, shape = "tensor", "float32", (4,)
        case _:
            kind = "unknown"
    if kind == "tensor" and dtype in ("string", "object", "str"):
        kind, dtype = ("text", "string") if not shape else ("unknown", "string")
    elif kind == "tensor" and not _is_plain(dtype):
        kind = "unknown"
    if math.prod(n or 1 for n in shape) > _MOST_NUMBERS:
        raise ValueError(f"a shape of {shape}")
    return Leaf(
        kind=kind,
        shape=shape,
        dtype=dtype,
        encoding="" if encoding == "none" else encoding,
        depth=depth,
        name=name,
    )


def _is_plain(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "biuf"
    except TypeError:  # one of TensorFlow's own
        return False


def _shape(said: Any) -> tuple[int | None, ...]:
    """Return a shape in either form: a list, or the words of its dimensions with -1 for an unknown one."""
    dimensions = said.get("dimensions", ()) if isinstance(said, Mapping) else said or ()
    return tuple(None if n is None or int(n) < 0 else int(n) for n in dimensions)
