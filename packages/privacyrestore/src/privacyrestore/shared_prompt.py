"""Several answers scored after one prompt that is computed once, gradients included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lipogram.llm import pad
from lipogram.llm.forward import last_logits
from lipogram.llm.scoring import token_logprobs
from lipogram.llm.text import Encoded
from privacyrestore.training_rows import SharedPrompt


def answer_logps(model: Any, rows: Sequence[SharedPrompt], padding: int) -> tuple[Tensor, Tensor]:
    """Σ log p of each answer's tokens, [b, A] float32, and their number, [b, A] int64.

    With one answer a row, prompt and answer are one forward pass. With several, the prompts are one
    and the answers after them, on the keys and values of the first repeated, another: row i of the
    first is rows i·A to i·A + A − 1 of the second, which is how
    :class:`~privacyrestore.restoration.Restoration` follows. Gradients flow through both.

    Args:
        model: a causal language model.
        rows: b of them, each with A answers.
        padding: token id to fill with.
    """
    n_answers = len(rows[0].tails)
    if n_answers == 1:
        scores, owner = _joint(model, rows, padding)
    else:
        scores, owner = _shared(model, rows, padding)
    sums = scores.new_zeros(len(rows) * n_answers).index_add(0, owner, scores)
    counts = torch.bincount(owner, minlength=len(sums))
    return sums.view(-1, n_answers), counts.view(-1, n_answers)


def _joint(model: Any, rows: Sequence[SharedPrompt], padding: int) -> tuple[Tensor, Tensor]:
    whole = [
        Encoded([*row.prompt_ids, *tail.prompt_ids], tail.answer_ids)
        for row in rows
        for tail in row.tails
    ]
    batch = pad(whole, padding).to(_device(model))
    logits, _ = last_logits(model, batch.inputs(), batch.n_logits, use_cache=False)
    return token_logprobs(logits, batch), batch.rows.nonzero()[:, 0]


def _shared(model: Any, rows: Sequence[SharedPrompt], padding: int) -> tuple[Tensor, Tensor]:
    device, n_answers = _device(model), len(rows[0].tails)
    prompts = pad([Encoded(row.prompt_ids, []) for row in rows], padding).to(device)
    tails = pad([tail for row in rows for tail in row.tails], padding, side="right").to(device)
    logits, output = last_logits(model, prompts.inputs(), 1, use_cache=True)
    # The prompt's last token predicts each tail's first.
    begins = tails.answer_mask[:, 0]
    first = logits[:, -1].float().log_softmax(-1).repeat_interleave(n_answers, 0)
    scores = first.gather(1, tails.input_ids[:, :1])[begins, 0]
    owner = begins.nonzero()[:, 0]
    if tails.input_ids.shape[1] == 1:
        return scores, owner
    cache = output.past_key_values
    cache.batch_repeat_interleave(n_answers)
    seen = prompts.attention_mask.repeat_interleave(n_answers, 0)
    start = prompts.position_ids[:, -1:].repeat_interleave(n_answers, 0) + 1
    inputs = {
        "input_ids": tails.input_ids[:, :-1],
        "attention_mask": torch.cat([seen, tails.attention_mask[:, :-1]], 1),
        "position_ids": start + tails.position_ids[:, :-1],
    }
    width = tails.input_ids.shape[1] - 1
    logits, _ = last_logits(model, inputs, width, past_key_values=cache, use_cache=True)
    scored = tails.answer_mask[:, 1:]
    following = tails.input_ids[:, 1:][scored]
    rest = logits[scored].float().log_softmax(-1).gather(1, following[:, None])[:, 0]
    return torch.cat([scores, rest]), torch.cat([owner, scored.nonzero()[:, 0]])


def _device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device
