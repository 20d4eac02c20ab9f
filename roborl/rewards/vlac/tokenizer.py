"""The tokenizer of a published VLAC checkpoint as a fast one, from the vocabulary file that lies beside the weights.

The file is a SentencePiece model, a small protobuf: its pieces with their scores, and two switches of the normaliser.
It is read here without the library, since nothing else of it is wanted. The ids that the checkpoint's own list of
added tokens names take the place of what the vocabulary has there.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from roborl.errors import ModelLoadError

START_OF_TURN, END_OF_TURN = "<|im_start|>", "<|im_end|>"
START_OF_IMAGE, END_OF_IMAGE, CONTEXT_TOKEN = "<img>", "</img>", "<IMG_CONTEXT>"
NO_VIDEO_TOKEN = "<quad>"
"""A token of the vocabulary that no question holds, where the processor insists on one for videos."""

# A newline follows each picture, beside whatever the question itself has there: so the network was trained.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_NORMAL, _UNKNOWN, _CONTROL, _USER = 1, 2, 3, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What a SentencePiece model file holds.

    Attributes:
        pieces: Text, score and kind of each, by id.
        prefix_space: Whether a space is put before every text.
    """

    pieces: tuple[tuple[str, float, int], ...]
    prefix_space: bool


def read_vocabulary(data: bytes) -> Vocabulary:
    """Read a SentencePiece model of the BPE kind.

    Raises:
        ModelLoadError: If it is no such file, of another kind, or rewrites texts before it cuts them.
    """
    pieces: list[tuple[str, float, int]] = []
    kind, prefix_space, squeezes, rules = 1, True, True, b""
    try:
        for number, value in _fields(data):
            if number == 1:
                piece = dict(_fields(_bytes(value)))
                text, score = _bytes(piece[1]).decode(), struct.unpack("<f", _bytes(piece[2]))[0]
                pieces.append((text, score, int(piece.get(3, _NORMAL))))
            elif number == 2:
                kind = int(dict(_fields(_bytes(value))).get(3, kind))
            elif number == 3:
                switches = dict(_fields(_bytes(value)))
                rules = _bytes(switches.get(2, b""))
                prefix_space = bool(switches.get(3, True))
                squeezes = bool(switches.get(4, True))
    except (IndexError, KeyError, ValueError, TypeError, struct.error) as error:
        raise ModelLoadError(
            "The vocabulary of the checkpoint cannot be read",
            seen=f"{len(data)} bytes, {type(error).__name__} at piece {len(pieces)}",
            allowed="a SentencePiece model",
        ) from error
    if kind != 2 or rules or squeezes or not pieces:
        raise ModelLoadError(
            "The vocabulary of the checkpoint is of another kind",
            seen=f"kind {kind}, {len(pieces)} pieces, {len(rules)} bytes of rules, squeezes spaces: {squeezes}",
            allowed="byte-pair pieces, and texts taken as they are",
        )
    return Vocabulary(pieces=tuple(pieces), prefix_space=prefix_space)


def convert_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a published checkpoint, a ``PreTrainedTokenizerFast``: its ``tokenizer.json`` where there is one, else converted.

    Raises:
        ModelLoadError: If there is no vocabulary, or a token that the network was trained with is not in it.
    """
    added = _added_tokens(folder)
    if (folder / "tokenizer.json").is_file():
        fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    elif (folder / "tokenizer.model").is_file():
        fast = _fast(read_vocabulary((folder / "tokenizer.model").read_bytes()), added)
    else:
        raise ModelLoadError(
            "There is no vocabulary beside the weights",
            seen=sorted(path.name for path in folder.iterdir()),
            allowed="tokenizer.model or tokenizer.json",
        )
    wanted = (START_OF_TURN, END_OF_TURN, START_OF_IMAGE, END_OF_IMAGE, CONTEXT_TOKEN, NO_VIDEO_TOKEN)
    absent = [token for token in wanted if fast.token_to_id(token) is None]
    moved = [text for number, text in added.items() if fast.token_to_id(text) != number]
    if absent or moved:
        raise ModelLoadError(
            "The vocabulary lacks tokens that the network was trained with",
            seen=f"missing {absent}, at another id {moved[:4]}",
            allowed="every one of them, at the id that the checkpoint names",
        )
    wrapped: Any = PreTrainedTokenizerFast
    return wrapped(
        tokenizer_object=fast,
        bos_token="<s>",
        eos_token=END_OF_TURN,
        unk_token="<unk>",
        pad_token="</s>",
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "start_image_token": START_OF_IMAGE,
            "end_image_token": END_OF_IMAGE,
            "context_image_token": CONTEXT_TOKEN,
            "video_token": NO_VIDEO_TOKEN,
        },
    )


def _added_tokens(folder: Path) -> dict[int, str]:
    """Return the tokens that the checkpoint adds to its vocabulary or puts in the place of others, by id."""
    added: dict[int, str] = {}
    for name in ("added_tokens.json", "tokenizer_config.json"):
        try:
            described = json.loads((folder / name).read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ModelLoadError(f"{name} cannot be read", seen=f"{type(error).__name__}: {error}") from error
        if name == "added_tokens.json":
            added |= {int(number): text for text, number in described.items()}
        else:
            decoder = described.get("added_tokens_decoder", {})
            added |= {int(number): token["content"] for number, token in decoder.items()}
    return added


def _fast(vocabulary: Vocabulary, added: Mapping[int, str]) -> Tokenizer:
    names = [text for text, _, _ in vocabulary.pieces]
    whole = {text for text, _, kind in vocabulary.pieces if kind in (_UNKNOWN, _CONTROL, _USER)}
    for number, text in sorted(added.items()):
        if number > len(names):
            raise ModelLoadError(
                "The added tokens leave a gap in the vocabulary",
                seen=f"{text} at {number}",
                allowed=len(names),
            )
        names[number : number + 1] = [text]
        whole.add(text)
    ids = {text: number for number, text in enumerate(names)}
    if len(ids) != len(names):
        raise ModelLoadError("A token stands twice in the vocabulary", seen=len(names) - len(ids))
    merges: list[tuple[float, int, int, str, str]] = []
    for text, score, kind in vocabulary.pieces:
        if kind != _NORMAL or text not in ids:
            continue
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ids and right in ids and not {left, right} & whole:
                merges.append((-score, ids[left], ids[right], left, right))
    fast = Tokenizer(
        BPE(
            vocab=ids,
            merges=[(left, right) for *_, left, right in sorted(merges)],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(Regex(" "), "▁")
    fast.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if vocabulary.prefix_space else spaces
    )
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(content=" ", left=1)] if vocabulary.prefix_space else [])
    )
    fast.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in names if text in whole]
    )
    return fast


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield number and value of each field of a protobuf message; fixed-size values as their bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, form = key >> 3, key & 7
        if form == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if form == 2:
            size, at = _varint(data, at)
        elif form in (1, 5):
            size = 8 if form == 1 else 4
        else:
            raise ValueError(f"field {number} of form {form}")
        if at + size > len(data):
            raise IndexError(at + size)
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without an end")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise TypeError(f"a number where bytes were expected: {value}")
    return value
