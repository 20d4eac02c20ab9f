"""Judge, policy and learner against the memory of the cards: what each part takes, whether it fits, what would."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from roborl.errors import ConfigError, RoborlError

GIB = 1 << 30
HOST = "cpu"
_CONTEXT_BYTES = GIB // 2


class DoesNotFit(RoborlError):
    """A plan that needs more memory than a card has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLine:
    """One line of a plan.

    Attributes:
        process: Whose it is.
        device: Where it lies: ``cpu`` or ``cuda:N``.
        what: What it is.
        nbytes: How much it takes.
        measured: Whether that was read from files, settings or tensors; else it is estimated.
        how: How it is known.
    """

    process: str
    device: str
    what: str
    nbytes: int
    measured: bool
    how: str


@dataclass(frozen=True, slots=True)
class Process:
    """Makes the parts of one process on one device."""

    name: str
    device: str

    def part(self, what: str, nbytes: int, measured: bool, how: str) -> PlanLine:
        """Return a part."""
        return PlanLine(
            process=self.name, device=self.device, what=what, nbytes=nbytes, measured=measured, how=how
        )

    def measured(self, what: str, nbytes: int, how: str) -> PlanLine:
        """Return a part that is known."""
        return self.part(what, nbytes, True, how)

    def estimated(self, what: str, nbytes: int, how: str) -> PlanLine:
        """Return a part that is not."""
        return self.part(what, nbytes, False, how)

    def context(self) -> tuple[PlanLine, ...]:
        """Return what CUDA takes for itself; nothing where no card is used.

        Source: PyTorch's developers name 300 to 400 MB since CUDA 11.7, which loads kernels as they are needed
            (github.com/pytorch/pytorch, issues 107667 and 109888); cuBLAS takes a workspace beside it.
        """
        if self.device == HOST:
            return ()
        return (self.estimated("CUDA context", _CONTEXT_BYTES, "300 to 400 MB, and a workspace"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A judge that might stand in for one that does not fit.

    Attributes:
        name: Its name and number format, as on a command line.
        parameters: Its size; larger is taken to be better.
        precision: Bits per weight, which decide among judges of one size.
        parts: Its parts.
    """

    name: str
    parameters: int
    precision: float
    parts: tuple[PlanLine, ...]


def used_bytes(parts: Iterable[PlanLine]) -> dict[str, int]:
    """Return how much is used of each device.

    Example:
        >>> used_bytes([PlanLine(process="p", device="cpu", what="w", nbytes=3, measured=True, how="")] * 2)
        {'cpu': 6}
    """
    used: dict[str, int] = {}
    for part in parts:
        used[part.device] = used.get(part.device, 0) + part.nbytes
    return used


def check_devices(parts: Sequence[PlanLine], cards: Mapping[str, int]) -> None:
    """Refuse a plan that puts something on a card whose size nobody stated.

    Raises:
        ConfigError: If so.
    """
    missing = sorted({part.device for part in parts} - {HOST} - set(cards))
    if missing and not cards:
        raise ConfigError(
            "No card was found, and its size was not given",
            seen=f"something planned on {', '.join(missing)}",
            allowed="a GPU that torch sees, or a size in GiB per card",
            remedy="Say how large it is: --card_gib 24",
        )
    if missing:
        raise ConfigError(
            "Something is planned on a card that is not there",
            seen=missing,
            allowed=[HOST, *cards],
            remedy="Name another device, or the sizes of all cards: --card_gib '[24, 24]'",
        )


def over(parts: Iterable[PlanLine], cards: Mapping[str, int]) -> dict[str, int]:
    """Return by how much each card is too small; empty where everything fits."""
    used = used_bytes(parts)
    return {card: used[card] - size for card, size in cards.items() if used.get(card, 0) > size}


def table(parts: Sequence[PlanLine], cards: Mapping[str, int]) -> str:
    """Return a plan for people: a line per part, then a sum per device."""
    rows = [
        (
            part.process,
            part.device,
            part.what,
            f"{part.nbytes / GIB:9.3f}",
            "measured" if part.measured else "estimated",
            part.how,
        )
        for part in parts
    ]
    head = ("process", "device", "what", f"{'GiB':>9}", "known", "how")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(5)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]]).rstrip()
        for row in [head, *rows]
    ]
    for device, used in sorted(used_bytes(parts).items()):
        known = sum(p.nbytes for p in parts if p.device == device and p.measured)
        line = f"{device}: {used / GIB:.2f} GiB, {known / GIB:.2f} of them measured"
        if device in cards:
            room = cards[device] - used
            line += f"; the card has {cards[device] / GIB:.2f}: " + (
                f"{room / GIB:.2f} left" if room >= 0 else f"{-room / GIB:.2f} TOO LITTLE"
            )
        lines.append(line)
    return "\n".join(lines)


def largest_that_fits(
    candidates: Iterable[Candidate], others: Sequence[PlanLine], cards: Mapping[str, int]
) -> Candidate | None:
    """Return the largest candidate that fits beside the other parts, the most precise among equals; None if none does."""
    fitting = [c for c in candidates if not over([*c.parts, *others], cards)]
    return max(fitting, key=lambda c: (c.parameters, c.precision), default=None)


def largest_batch(parts_of: Callable[[int], Sequence[PlanLine]], most: int, cards: Mapping[str, int]) -> int:
    """Return the most questions at once, at most so many, with which everything fits; 0 if not even one does."""
    least, beyond = 0, most + 1
    while beyond - least > 1:
        middle = (least + beyond) // 2
        if over(parts_of(middle), cards):
            beyond = middle
        else:
            least = middle
    return least
