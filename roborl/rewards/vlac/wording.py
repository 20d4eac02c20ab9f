"""The words around the critic's pictures: those of its training from the user's own copy, else our own.

The order of pictures and the tags are the contract of the published checkpoints; the sentences between them are read
from the code that was published with them, by name and without running it, or from a file. Our own say the same in
other words, for checkpoints trained with them and for tests.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from roborl.errors import ConfigError
from roborl.rewards.judges.queries import Part
from roborl.rewards.prompts import PromptConfig
from roborl.types import Image

MARK, TASK, STEPS, PERCENT = "<image>", "{task}", "{steps}", "{percent}"
"""Marks of a picture, of the instruction, of a trajectory's pictures, and of how much of it lies behind each."""

# Pictures and slots of each text; the instruction may stand several times.
_FORMS: dict[str, tuple[int, tuple[str, ...]]] = {
    "system": (0, ()),
    "pair": (2, (TASK,)),
    "trajectory": (0, (TASK, STEPS)),
    "step": (1, (PERCENT,)),
    "start": (1, ()),
    "done": (0, (TASK,)),
    "done_goal": (2, (TASK,)),
}
_MODEL_SOURCE, _DATA_SOURCE = "model_utils.py", "data_processing_vlm.py"
# Of the texts read from InternRobotics/VLAC at 71acb22.
_KNOWN = "5a537955dd76dfd5457208b7676a389b63742d9a51cdb8320aced03cb23486f2"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VlacWording:
    """The texts of all questions, with their marks and slots.

    Attributes:
        system: Who the network is.
        pair: Which share of the way lies between two pictures, the earlier one first.
        trajectory: Around the pictures of a reference.
        step: One of them.
        start: The first picture of the episode.
        done: Whether the task is done in a picture, which stands before these words.
        done_goal: Whether it is, in the second of two pictures; the first is the goal.
        origin: ``own``; ``known`` or ``found`` where it was read from the user's copy, and is what was published or not.
    """

    system: str
    pair: str
    trajectory: str
    step: str
    start: str
    done: str
    done_goal: str
    origin: str = "own"

    def __post_init__(self) -> None:
        for name, (pictures, slots) in _FORMS.items():
            text = getattr(self, name)
            found = isinstance(text, str) and tuple(s for s in (TASK, STEPS, PERCENT) if s in text)
            if found != slots or text.count(MARK) != pictures:
                raise ConfigError(
                    f"The critic's wording of {name} is not whole",
                    seen=repr(text)[:80],
                    allowed=f"a text with {pictures} marks {MARK}, the slots {list(slots)} and no others",
                )

    @property
    def sha256(self) -> str:
        """Hash of all texts: a single character changes what a network hears."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()

    def as_json(self) -> str:
        """Return all texts by name, as a file of words holds them."""
        texts = {name: text for name, text in asdict(self).items() if name != "origin"}
        return json.dumps(texts, sort_keys=True)

    def context(self, count: int) -> str:
        """Return the words before a pair where ``count`` pictures of a reference are shown, marks for them and the start.

        The first picture of a reference stands at 0 %, the last at 100 %; of a single one, the goal, only that is known.
        """
        shares = [100 * place // (count - 1) for place in range(count)] if count > 1 else [100]
        steps = "".join(self.step.replace(PERCENT, str(share)) for share in shares)
        return self.trajectory.replace(STEPS, steps) + self.start


OUR_WORDING = VlacWording(
    system="You look at pictures of a robot at work and tell how things lie in space and how far a task has come.",
    pair=(
        "Image-1: <image>\nImage-2: <image>\n"
        "Both pictures show the same task under way. Which of them is nearer to its end? Answer with a sign and a whole "
        "number: + if it is image 2, - if it is image 1. The number says how much of what remained to be done lies between "
        "them, in percent. It belongs after <score>. <task> {task} </task> <score>"
    ),
    trajectory="<trajectory> <task> {task} </task>:{steps}</trajectory>",
    step=" {percent}% <image>\n",
    start="0% <image>\nSo began the attempt from which the next two pictures come.\n",
    done="Does the picture show the task finished? Write 1 if so and 0 if not. <task> {task} </task> <done>",
    done_goal=(
        "<goal> <task> {task} </task>: <image>\n<goal>\n<image>\n"
        "Measured by the goal, is the task finished in the last picture? Write 1 if so and 0 if not. "
        "<task> {task} </task> <done>"
    ),
)
"""All texts in our own words."""


def weave(text: str, pictures: Sequence[Image], task: str) -> tuple[Part, ...]:
    """Return words and pictures in the order of the marks; pictures without a mark stand first.

    The instruction is put in last, so that a mark in it stays words.
    """
    words = [part.replace(TASK, task) for part in text.split(MARK)]
    first = max(len(pictures) - len(words) + 1, 0)
    parts: list[Part] = [*pictures[:first], words[0]]
    for picture, following in zip(pictures[first:], words[1:], strict=True):
        parts += [picture, following]
    return tuple(part for part in parts if not isinstance(part, str) or part)


def load_wording(config: PromptConfig, folder: Path | None = None) -> VlacWording:
    """Return the wording that the settings name, else the published one beside the checkpoint, else with a warning our own.

    Args:
        config: ``file`` is the published ``model_utils.py``, with ``data_processing_vlm.py`` beside it or in one folder
            that is named instead, or a JSON file with the texts of :class:`VlacWording`.
        folder: The checkpoint's folder, where both sources are looked for if no file is named; None where there is
            none. Their words count only where their hash is known or insisted on.

    Raises:
        ConfigError: If a file cannot be read or lacks a text, or the texts do not have the hash insisted on.
    """
    if config.file:
        place = Path(config.file)
        wording = _from_json(place) if place.suffix == ".json" else _from_sources(place)
    elif (beside := _beside(folder, config.sha256 or _KNOWN)) is not None:
        wording = beside
    else:
        log.warning(
            "vlac is asked in roborl's own words, to which a published checkpoint answers less well than to those it was"
            " trained on. Put its evo_vlac/utils/model_utils.py and data_processing_vlm.py beside the checkpoint, or name"
            " a copy as prompt.file in the model's settings"
        )
        wording = OUR_WORDING
    if wording.sha256 == _KNOWN:
        wording = replace(wording, origin="known")
    elif config.file:
        log.warning(
            "the critic's words in %s are not the published ones (sha256 %s): expect other scores from a published"
            " checkpoint",
            config.file,
            wording.sha256[:12],
        )
    if config.sha256 and wording.sha256 != config.sha256:
        raise ConfigError(
            "The critic's wording does not have the hash that is insisted on",
            seen=wording.sha256,
            allowed=config.sha256,
            remedy="Name the file that has it as prompt.file in the model's settings",
        )
    return wording


def _beside(folder: Path | None, wanted: str) -> VlacWording | None:
    """Return the words in the sources beside a checkpoint; None where there are none, or none of this hash."""
    if folder is None:
        return None
    try:
        wording = _from_sources(folder)
    except ConfigError:
        return None
    return wording if wording.sha256 == wanted else None


def _from_json(path: Path) -> VlacWording:
    try:
        described = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            "A file of words cannot be read", seen=f"{path}: {type(error).__name__}: {error}"
        ) from error
    names = [part.name for part in fields(VlacWording) if part.name != "origin"]
    if not isinstance(described, dict) or sorted(described) != sorted(names):
        raise ConfigError(
            "A file of words has other texts than the critic's",
            seen=sorted(described) if isinstance(described, dict) else type(described).__name__,
            allowed=names,
        )
    return VlacWording(**described, origin="found")


def _from_sources(place: Path) -> VlacWording:
    """Read the published sources; what the first sets, the second overrides, as when they run."""
    folder = place if place.is_dir() else place.parent
    texts: dict[str, str] = {}
    for path in (folder / _DATA_SOURCE, folder / _MODEL_SOURCE if place.is_dir() else place):
        texts |= _named_strings(path)
    wanted = ("v3", "v3_think", "task_done", "context_task_done", "system_prompt")
    absent = [name for name in wanted if name not in texts]
    if absent or not texts["v3_think"].endswith(texts["v3"]):
        raise ConfigError(
            "The source named does not set the critic's words",
            seen=f"{place}: missing {absent}"
            if absent
            else f"{place}: two questions that do not belong together",
            allowed=f"strings by the names {list(wanted)}",
            remedy=f"Name {_MODEL_SOURCE} of the code that was published with the checkpoint",
        )
    slotted = {name: texts[name].replace("{}", TASK) for name in wanted}
    return VlacWording(
        system=slotted["system_prompt"],
        pair=slotted["v3"],
        trajectory=OUR_WORDING.trajectory,
        step=OUR_WORDING.step,
        start=slotted["v3_think"].removesuffix(slotted["v3"]),
        done=slotted["task_done"],
        done_goal=slotted["context_task_done"],
        origin="found",
    )


def _named_strings(path: Path) -> dict[str, str]:
    """Return the strings that a Python source puts into its mapping of questions, and the system turn, by name."""
    try:
        tree = ast.parse(path.read_text())
    except (OSError, ValueError, SyntaxError, RecursionError) as error:
        raise ConfigError(
            "A source with the critic's words cannot be read", seen=f"{path}: {type(error).__name__}: {error}"
        ) from error
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            match target, node.value:
                case ast.Attribute(attr="prompt_templete"), ast.Dict(keys=keys, values=values):
                    found |= dict(_strings(zip(keys, values, strict=True)))
                case ast.Subscript(value=ast.Attribute(attr="prompt_templete"), slice=key), value:
                    found |= dict(_strings([(key, value)]))
                case ast.Attribute(attr="system_prompt" as name), value:
                    found |= dict(_strings([(ast.Constant(name), value)]))
    return found


def _strings(pairs: Iterable[tuple[ast.expr | None, ast.expr]]) -> Iterator[tuple[str, str]]:
    for key, value in pairs:
        match key, value:
            case ast.Constant(value=str() as name), ast.Constant(value=str() as text):
                yield name, text
