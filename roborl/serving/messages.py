"""One message of any link: a kind, plain fields and arrays, and opaque payloads behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roborl.codec import Part, decode, encode
from roborl.errors import WireError

# How often each side of a link is heard at least, and how long a silence means that something is wrong.
BEAT_S = 0.2
SILENCE_S = 0.9

_MOST_CHARACTERS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What came over a link.

    Attributes:
        kind: What it is about.
        fields: Its values; read them with :meth:`take`, for they are what the peer chose to send.
        parts: All its byte parts; a payload is the last.
    """

    kind: str
    fields: Mapping[str, Any]
    parts: Sequence[Part]

    def take[T](self, name: str, kind: type[T]) -> T:
        """Return a field of exactly this type.

        Raises:
            WireError: If it is missing or of another type.
        """
        value = self.fields.get(name)
        if type(value) is not kind:
            raise WireError(
                f"Field {name!r} of a {self.kind!r} message is wrong",
                seen=type(value).__name__,
                allowed=kind.__name__,
            )
        return value

    def count(self, name: str) -> int:
        """Return a field that is an integer in [0, 2**63).

        Raises:
            WireError: If it is not.
        """
        value = self.take(name, int)
        if not 0 <= value < 1 << 63:
            raise WireError(f"Field {name!r} of a {self.kind!r} message is out of range", seen=value)
        return value

    def payload(self) -> Part:
        """Return the opaque last part.

        Raises:
            WireError: If there is none.
        """
        if len(self.parts) < 2:
            raise WireError(f"A {self.kind!r} message has no payload", seen="1 part", allowed="2 parts")
        return self.parts[-1]


def write_message(kind: str, fields: Mapping[str, Any], payload: Part | None = None) -> list[Part]:
    """Return the parts of a message.

    Raises:
        WireError: If a field cannot be sent.
    """
    parts = encode({"kind": kind, **fields})
    if payload is not None:
        parts.append(payload)
    return parts


def read_message(parts: Sequence[Part]) -> Message:
    """Undo :func:`write_message`.

    Raises:
        WireError: If the parts are no message. No other error leaves this function, whatever the bytes.
    """
    fields = decode(parts)
    kind = fields.pop("kind", None)
    if not isinstance(kind, str):
        raise WireError("A message does not say its kind", seen=type(kind).__name__)
    return Message(kind=kind, fields=fields, parts=parts)


def sendable(text: str) -> str:
    r"""Return words of others as they can be sent: cut where they are very long, and "?" for what is half a character.

    Example:
        >>> sendable("done \ud83d"), len(sendable("x" * 1_000_000))
        ('done ?', 65536)
    """
    return text[:_MOST_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
