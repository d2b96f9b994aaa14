"""Log-probabilities of given texts under a causal language model."""

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from lipogram.errors import InvalidProbes, InvalidSetting, NotFinite
from lipogram.llm.memory import is_out_of_memory
from lipogram.llm.text import Batch, Encoded, context_length, encode, pad, pad_id, token_batches

MAX_TOKENS = 2048


@overload
def answer_logprobs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str | Sequence[int]],
    *,
    reduction: Literal["sum", "mean"] = "sum",
    max_tokens: int = MAX_TOKENS,
) -> list[float]: ...
@overload
def answer_logprobs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str | Sequence[int]],
    *,
    reduction: Literal["tokens"],
    max_tokens: int = MAX_TOKENS,
) -> list[list[float]]: ...
def answer_logprobs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str | Sequence[int]],
    *,
    reduction: Literal["sum", "mean", "tokens"] = "sum",
    max_tokens: int = MAX_TOKENS,
) -> list[float] | list[list[float]]:
    """Log-probabilities log p(answer | prompt), in nats, by teacher forcing.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompts: n texts.
        answers: n texts, with their leading blanks, or token ids.
        reduction: Σ over the answer's tokens, their mean, or each of them.
        max_tokens: padded tokens of a batch; halved when memory runs out.

    Returns:
        n values in the order of the prompts.

    Raises:
        InvalidSetting: another reduction, or prompts and answers of different numbers.
        InvalidProbes: an answer without a token, one that nothing precedes, or a text that exceeds
            the model's context, by row; nothing is truncated.
        NotFinite: logits that are NaN.
    """
    if reduction not in ("sum", "mean", "tokens"):
        raise InvalidSetting(f"reduction {reduction!r} is none of sum, mean, tokens")
    if len(prompts) != len(answers):
        raise InvalidSetting(f"{len(prompts)} prompts and {len(answers)} answers")
    rows = [encode(tokenizer, *pair) for pair in zip(prompts, answers, strict=True)]
    longest = context_length(model)
    for i, row in enumerate(rows):
        if not row.answer_ids:
            raise InvalidProbes(f"answer {i} has no tokens")
        if not row.prompt_ids:
            raise InvalidProbes(f"prompt {i} has no tokens: nothing predicts the answer's first")
        if longest is not None and len(row) > longest:
            raise InvalidProbes(f"row {i} has {len(row)} tokens, the model's context is {longest}")
    found = _scored(model, rows, pad_id(tokenizer), max_tokens)
    if reduction == "tokens":
        return found
    return [sum(row) / (len(row) if reduction == "mean" else 1) for row in found]


def multiple_choice(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    normalize: Literal["sum", "mean"] = "sum",
    max_tokens: int = MAX_TOKENS,
) -> list[Tensor]:
    """Probability of each option after its prompt, over the options.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompts: n texts.
        options: of each prompt, two or more.
        normalize: compare Σ log p, or its mean over an option's tokens.
        max_tokens: as :func:`answer_logprobs`.

    Returns:
        n tensors (options,) float64 that sum to 1.

    Raises:
        InvalidProbes: a prompt with fewer than two options; and as :func:`answer_logprobs`.
    """
    for i, choices in enumerate(options):
        if len(choices) < 2:
            raise InvalidProbes(f"prompt {i} has {len(choices)} options, it needs two")
    counts = [len(choices) for choices in options]
    asked = [p for p, count in zip(prompts, counts, strict=True) for _ in range(count)]
    flat = [option for choices in options for option in choices]
    scores = torch.tensor(
        answer_logprobs(model, tokenizer, asked, flat, reduction=normalize, max_tokens=max_tokens),
        dtype=torch.float64,
    )
    return [part.softmax(0) for part in scores.split(counts)]


def perplexity(
    model: Any, tokenizer: Any, texts: Sequence[str], *, max_tokens: int = MAX_TOKENS
) -> float:
    """The exp of the mean negative log-probability of all tokens but each text's first.

    Raises:
        InvalidProbes: a text of fewer than two tokens, or as :func:`answer_logprobs`.
    """
    rows = []
    for i, text in enumerate(texts):
        ids = encode(tokenizer, text, []).prompt_ids
        if len(ids) < 2:
            raise InvalidProbes(f"text {i} has {len(ids)} tokens, perplexity needs two")
        rows.append(Encoded(ids[:1], ids[1:]))
    found = _scored(model, rows, pad_id(tokenizer), max_tokens)
    total = sum(sum(row) for row in found)
    return float(torch.tensor(-total / sum(len(row) for row in found)).exp())


def token_logprobs(logits: Tensor, batch: Batch) -> Tensor:
    """Log-probability of each scored token: (s,) float32, row after row.

    Args:
        logits: (b, k, v), of the last k columns of the batch, k >= `batch.n_logits`.
        batch: whose answer tokens are scored.
    """
    rows = batch.rows[:, -logits.shape[1] :]
    log_probs = logits[rows].float().log_softmax(-1)
    return log_probs.gather(1, batch.input_ids[batch.answer_mask][:, None])[:, 0]


def _scored(
    model: Any, rows: Sequence[Encoded], padding: int, max_tokens: int
) -> list[list[float]]:
    """Log-probabilities of each row's answer tokens, by row."""
    device = next(model.parameters()).device
    queue = token_batches([len(row) for row in rows], max_tokens)
    found: dict[int, list[float]] = {}
    while queue:
        places = queue.pop(0)
        batch = pad([rows[i] for i in places], padding).to(device)
        try:
            with torch.inference_mode():
                logits = model(
                    **batch.inputs(), use_cache=False, logits_to_keep=batch.n_logits
                ).logits
                scores = token_logprobs(logits, batch).double()
        except (RuntimeError, MemoryError) as error:
            if len(places) == 1 or not is_out_of_memory(error):
                raise
            queue[:0] = [places[::2], places[1::2]]
            continue
        if not bool(torch.isfinite(scores).all()):
            raise NotFinite("the model gave log-probabilities that are NaN or infinite")
        parts = scores.cpu().split([len(rows[i].answer_ids) for i in places])
        found |= {i: part.tolist() for i, part in zip(places, parts, strict=True)}
    return [found[i] for i in range(len(rows))]
