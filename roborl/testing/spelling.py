"""A small random network taught to write replies that can be read: what its text says depends on the pictures, and means nothing.

A random network says nothing that can be read. So its last layer, which turns hidden states into words, is taught to
spell replies; all the rest stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from roborl.rewards.judges.queries import VlmQuery

_STEPS, _RATE = 100, 0.3


def teach_to_spell(judge: Any, lessons: Sequence[tuple[VlmQuery, str]]) -> None:
    """Teach a network's last layer to write some reply to each of some questions, token by token; blocks for seconds.

    Asked about other pictures, it writes replies of the same form.

    Args:
        judge: A :class:`~roborl.rewards.judges.transformers_judge.TransformersJudge`; its network is changed in place.
        lessons: Questions with their replies, each to the stop of its question or, where it has none, to its end.
    """
    import torch

    model, tokenizer = judge.network.model, judge.network.processor.tokenizer
    states: list[Any] = []
    tokens: list[int] = []
    hook = model.lm_head.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0].float()))
    for query, text in lessons:
        reply = tokenizer(text)["input_ids"]
        wanted = reply if text.endswith(query.stop) else [*reply, tokenizer.eos_token_id]
        for written in range(len(wanted)):
            start = tokenizer.decode(reply[:written])
            judge.answer([replace(query, reply_start=start, max_tokens=1, stop=())])
        tokens += wanted
    hook.remove()
    head = torch.zeros_like(model.lm_head.weight, dtype=torch.float32, requires_grad=True)
    steps = torch.optim.Adam([head], lr=_RATE)
    for _ in range(_STEPS):
        steps.zero_grad()
        loss = torch.nn.functional.cross_entropy(torch.cat(states) @ head.T, torch.tensor(tokens))
        loss.backward()  # type: ignore[no-untyped-call]
        steps.step()
    with torch.no_grad():
        model.lm_head.weight.copy_(head)
