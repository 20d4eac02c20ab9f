"""One record as an episode: what each step holds, by name, decoded when it is asked for."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from roborl.data.rlds.features import Leaf
from roborl.data.rlds.wire import Values, parse_example
from roborl.errors import DatasetError
from roborl.types import Image

STEPS = "steps/"
_FLAGS = ("is_first", "is_last", "is_terminal")


def _is_letter(code: int) -> bool:
    """Whether a number is a code point that text can hold: no zero, and no half of a pair."""
    return 0 < code < 0xD800 or 0xDFFF < code < 0x110000


class RldsEpisode:
    """The steps of one record.

    Args:
        record: Its bytes, which it keeps.
        features: What they stand for.
        name: What it is called in messages.

    Attributes:
        count: How many steps it has: N, and so many observations.

    Raises:
        DatasetError: If the bytes are no example, or do not say how many steps it has.
    """

    def __init__(self, record: bytes, features: Mapping[str, Leaf], name: str) -> None:
        self._features, self._name = features, name
        try:
            self._values = parse_example(record)
        except DatasetError as error:
            raise DatasetError(
                error.problem, seen=f"{name}: {error.seen}", allowed=error.allowed, remedy=error.remedy
            ) from error
        self.count = self._count()

    def has(self, path: str) -> bool:
        """Whether there is such a feature and the record holds it."""
        return path in self._features and path in self._values

    def is_text(self, path: str) -> bool:
        """Whether what the record holds there is text."""
        return self._features[path].kind == "text"

    def numbers(self, path: str) -> NDArray[Any]:
        """Return numbers: (N, ...) of what each step has, the shape alone of what the episode has.

        Raises:
            DatasetError: If the record does not hold them.
        """
        leaf, values = self._found(path)
        if leaf.kind != "tensor":
            self._wrong(path, f"a {leaf.name}", "numbers")
        if leaf.depth > 1:
            self._wrong(path, "a sequence within each step", "one value for each step")
        dtype, rows = np.dtype(leaf.dtype), (self.count,) if leaf.depth else ()
        form = (*rows, *(-1 if n is None else n for n in leaf.shape))
        if leaf.encoding:
            return self._packed(path, leaf, values).reshape(form)
        if isinstance(values, list):
            if values:
                self._wrong(path, "bytes", "numbers")
            values = np.zeros(0, np.int64)
        if values.size and (dtype.kind == "f") != (values.dtype.kind == "f"):
            self._wrong(path, f"numbers as {values.dtype}", dtype)
        if leaf.shape.count(None) > 1:
            self._wrong(path, f"shape {leaf.shape}", "at most one unknown dimension")
        known = math.prod([*rows, *(n for n in leaf.shape if n is not None)])
        if len(values) != known if None not in leaf.shape else known == 0 or len(values) % known:
            self._wrong(path, f"{len(values)} numbers", f"{(*rows, *leaf.shape)} of them")
        # TFDS stores 64 bits without a sign as such with one.
        cast = values.view(np.uint64) if dtype == np.uint64 and values.dtype == np.int64 else values
        return cast.astype(dtype, copy=False).reshape(form)

    def texts(self, path: str) -> list[str]:
        """Return text, one for each step, or a single one of what the episode has.

        Numbers are taken for code points, with zeros behind them.

        Raises:
            DatasetError: If the record does not hold any.
        """
        leaf, values = self._found(path)
        if leaf.kind == "tensor" and np.dtype(leaf.dtype).kind in "iu" and len(leaf.shape) == 1:
            rows = np.atleast_2d(self.numbers(path))
            return ["".join(chr(c) for c in row if _is_letter(c)) for row in rows.tolist()]
        if leaf.kind != "text" or not isinstance(values, list):
            self._wrong(path, f"a {leaf.name}", "text")
        if leaf.depth > 1 or len(values) != (self.count if leaf.depth else 1):
            self._wrong(path, f"{len(values)} texts", self.count if leaf.depth else 1)
        return [value.decode(errors="replace") for value in values]

    def pictures(self, path: str, indices: Sequence[int]) -> dict[int, Image]:
        """Decode pictures of some steps, uint8 RGB (h, w, 3) each, of the caller's own.

        Raises:
            DatasetError: If the record does not hold them, or one cannot be decoded.
        """
        leaf, values = self._found(path)
        if not leaf.is_picture:
            self._wrong(path, f"{leaf.name} {leaf.shape} {leaf.dtype}", "pictures in colour, uint8 (h, w, 3)")
        if leaf.kind == "tensor":
            whole = self.numbers(path)
            return {i: np.array(whole[i], np.uint8) for i in indices}
        if not isinstance(values, list) or len(values) != self.count:
            self._wrong(path, f"{len(values)} pictures", self.count)
        return {i: self._decoded(path, i, leaf, values[i]) for i in indices}

    def _decoded(self, path: str, index: int, leaf: Leaf, data: bytes) -> Image:
        try:
            # As TensorFlow does: a camera's note on which way is up is not followed.
            bgr = cv2.imdecode(
                np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
            )
        except cv2.error:
            bgr = None
        if bgr is None:
            self._wrong(path, f"picture {index}, {len(data)} bytes that cannot be decoded", "JPEG or PNG")
        if any(want is not None and want != got for want, got in zip(leaf.shape, bgr.shape, strict=True)):
            self._wrong(path, f"picture {index} of {bgr.shape}", leaf.shape)
        return np.ascontiguousarray(bgr[..., ::-1], np.uint8)

    def _packed(self, path: str, leaf: Leaf, values: Values) -> NDArray[Any]:
        dtype, rows = np.dtype(leaf.dtype), self.count if leaf.depth else 1
        if None in leaf.shape:
            self._wrong(path, f"{leaf.encoding} of shape {leaf.shape}", "a shape that is known")
        size = math.prod(n or 0 for n in leaf.shape) * dtype.itemsize
        if not isinstance(values, list) or len(values) != rows:
            self._wrong(path, f"{len(values)} values", rows)
        unpacked = []
        for value in values:
            try:
                # No more than there should be: a few bytes can stand for gigabytes.
                plain = zlib.decompressobj().decompress(value, size + 1) if leaf.encoding == "zlib" else value
            except zlib.error as error:
                self._wrong(path, f"zlib: {error}", "what zlib packed")
            if len(plain) != size:
                self._wrong(path, f"{len(plain)} bytes or more", f"{size} bytes")
            unpacked.append(np.frombuffer(plain, dtype))
        return np.concatenate(unpacked) if unpacked else np.zeros(0, dtype)

    def _count(self) -> int:
        """Return how many steps there are, by what each step has one of."""
        flags = [STEPS + name for name in _FLAGS]
        for path in (*flags, *self._features):
            leaf = self._features.get(path)
            if leaf is None or path not in self._values or leaf.depth != 1 or not path.startswith(STEPS):
                continue
            single = leaf.kind in ("image", "text") or bool(leaf.encoding)
            width = 1 if single else leaf.width
            if width:
                whole, rest = divmod(len(self._values[path]), width)
                if rest:
                    self._wrong(path, f"{len(self._values[path])} numbers", f"{width} for each step")
                return whole
        raise DatasetError(
            "A record does not say how many steps it has",
            seen=f"{self._name}: {sorted(self._values)[:8]}",
            allowed="steps with is_first, an action or pictures, as in RLDS",
        )

    def _found(self, path: str) -> tuple[Leaf, Values]:
        leaf = self._features.get(path)
        if leaf is None or path not in self._values:
            raise DatasetError(
                f"An episode has no {path}",
                seen=self._name,
                allowed=sorted(self._features if leaf is None else self._values),
                remedy="Name what the dataset has: instruction, image",
            )
        return leaf, self._values[path]

    def _wrong(self, path: str, seen: object, allowed: object) -> NoReturn:
        raise DatasetError(
            f"{path} of an episode is not what features.json says",
            seen=f"{seen} in {self._name}",
            allowed=allowed,
            remedy="Fetch features.json and the shard again, of one version",
        )
