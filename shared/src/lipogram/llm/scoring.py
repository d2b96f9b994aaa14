"""Log-probabilities of given texts under a causal language model."""

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from lipogram.errors import InvalidProbes, InvalidSetting, NotFinite, OverBudget
from lipogram.llm.forward import evaluating, last_logits
from lipogram.llm.memory import is_out_of_memory
from lipogram.llm.text import Batch, Encoded, context_length, encode, pad, pad_id, token_batches

MAX_TOKENS = 2048


@overload
def answer_logprobs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str | Sequence[int]],
    answers: Sequence[str | Sequence[int]],
    *,
    reduction: Literal["sum", "mean"] = "sum",
    max_tokens: int = MAX_TOKENS,
    add_special_tokens: bool = True,
) -> list[float]: ...
@overload
def answer_logprobs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str | Sequence[int]],
    answers: Sequence[str | Sequence[int]],
    *,
    reduction: Literal["tokens"],
    max_tokens: int = MAX_TOKENS,
    add_special_tokens: bool = True,
) -> list[list[float]]: ...
def answer_logprobs(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str | Sequence[int]],
    answers: Sequence[str | Sequence[int]],
    *,
    reduction: Literal["sum", "mean", "tokens"] = "sum",
    max_tokens: int = MAX_TOKENS,
    add_special_tokens: bool = True,
) -> list[float] | list[list[float]]:
    """Log-probabilities log p(answer | prompt), in nats, by teacher forcing.

    Args:
        model: a causal language model; it is put into evaluation mode meanwhile.
        tokenizer: its tokenizer.
        prompts: n texts, or token ids.
        answers: n texts, with their leading blanks, or token ids.
        reduction: Σ over the answer's tokens, their mean, or each of them.
        max_tokens: padded tokens of a batch; halved, for the rest of the call, when memory runs
            out.
        add_special_tokens: False for prompts that a chat template wrote.

    Returns:
        n values in the order of the prompts.

    Raises:
        InvalidSetting: another reduction, prompts and answers of different numbers, or one text
            where a list of them belongs.
        InvalidProbes: an answer without a token, one that nothing precedes, or a text that exceeds
            the model's context, by row; nothing is truncated.
        NotFinite: an answer whose log-probability is NaN or infinite.
        OverBudget: a single row for which memory does not suffice.
    """
    if reduction not in ("sum", "mean", "tokens"):
        raise InvalidSetting(f"reduction {reduction!r} is none of sum, mean, tokens")
    if isinstance(prompts, str) or isinstance(answers, str):
        raise InvalidSetting("prompts and answers are lists of texts, not one text")
    if len(prompts) != len(answers):
        raise InvalidSetting(f"{len(prompts)} prompts and {len(answers)} answers")
    rows = [
        encode(tokenizer, prompt, answer, add_special_tokens=add_special_tokens)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    for i, row in enumerate(rows):
        if not row.answer_ids:
            raise InvalidProbes(f"answer {i} has no tokens")
        if not row.prompt_ids:
            raise InvalidProbes(f"prompt {i} has no tokens: nothing predicts the answer's first")
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
    normalize: Literal["sum", "mean", "unconditional"] = "sum",
    unconditional: str = "Answer:",
    max_tokens: int = MAX_TOKENS,
    add_special_tokens: bool = True,
) -> list[Tensor]:
    """Probability of each option after its prompt, over the options; the choice is its argmax.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        prompts: n texts.
        options: of each prompt, two or more, with their leading blanks.
        normalize: compare Σ log p(option | prompt); or its mean over an option's tokens; or Σ log
            p(option | prompt) − Σ log p(option | `unconditional`) (arXiv 2005.14165, section 2.4).
        unconditional: a prompt that says nothing of the answer.
        max_tokens: as :func:`answer_logprobs`.
        add_special_tokens: as :func:`answer_logprobs`.

    Returns:
        n tensors (options,) float64 that sum to 1.

    Raises:
        InvalidSetting: another normalisation, or prompts and options of different numbers.
        InvalidProbes: a prompt with fewer than two options; and as :func:`answer_logprobs`, where
            rows count the options of all prompts.
    """
    if normalize not in ("sum", "mean", "unconditional"):
        raise InvalidSetting(f"normalize {normalize!r} is none of sum, mean, unconditional")
    if len(prompts) != len(options):
        raise InvalidSetting(f"{len(prompts)} prompts and options of {len(options)}")
    for i, choices in enumerate(options):
        if isinstance(choices, str) or len(choices) < 2:
            raise InvalidProbes(f"prompt {i} needs a list of two options or more, not {choices!r}")
    counts = [len(choices) for choices in options]
    flat = [option for choices in options for option in choices]

    def score(asked: Sequence[str]) -> Tensor:
        found = answer_logprobs(
            model,
            tokenizer,
            [prompt for prompt, count in zip(asked, counts, strict=True) for _ in range(count)],
            flat,
            reduction="mean" if normalize == "mean" else "sum",
            max_tokens=max_tokens,
            add_special_tokens=add_special_tokens,
        )
        return torch.tensor(found, dtype=torch.float64)

    scores = score(prompts)
    if normalize == "unconditional":
        scores -= score([unconditional] * len(prompts))
    return [part.softmax(0) for part in scores.split(counts)]


def perplexity(
    model: Any, tokenizer: Any, texts: Sequence[str], *, max_tokens: int = MAX_TOKENS
) -> float:
    """The exp of the mean negative log-probability of all tokens but each text's first.

    Raises:
        InvalidProbes: no texts, a text of fewer than two tokens, or one that exceeds the model's
            context.
        NotFinite: as :func:`answer_logprobs`.
    """
    if not texts or isinstance(texts, str):
        raise InvalidProbes("perplexity needs a list of at least one text")
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
        batch: whose answer tokens are scored; those that nothing precedes are not.
    """
    k = logits.shape[1]
    rows = batch.rows[:, -k:]
    following = batch.input_ids.roll(-1, 1)[:, -k:][rows]
    return logits[rows].float().log_softmax(-1).gather(1, following[:, None])[:, 0]


def _scored(
    model: Any, rows: Sequence[Encoded], padding: int, max_tokens: int
) -> list[list[float]]:
    """Log-probabilities of each row's answer tokens, by row; every prompt and answer has tokens."""
    longest = context_length(model)
    for i, row in enumerate(rows):
        if longest is not None and len(row) > longest:
            raise InvalidProbes(f"row {i} has {len(row)} tokens, the model's context is {longest}")
    device = next(model.parameters()).device
    lengths = [len(row) for row in rows]
    queue = token_batches(lengths, max_tokens)
    found: dict[int, list[float]] = {}
    while queue:
        places = queue[0]
        batch = pad([rows[i] for i in places], padding).to(device)
        try:
            with evaluating(model):
                logits, _ = last_logits(model, batch.inputs(), batch.n_logits, use_cache=False)
                scores = token_logprobs(logits, batch).double().cpu()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(places) == 1:
                raise OverBudget(
                    f"row {places[0]}, {len(rows[places[0]])} tokens, does not fit into memory "
                    "even by itself"
                ) from error
            left = [i for group in queue for i in group]
            max_tokens = batch.input_ids.numel() // 2
            groups = token_batches([lengths[i] for i in left], max_tokens)
            queue = [[left[i] for i in group] for group in groups]
            continue
        del queue[0]
        for i, part in zip(
            places, scores.split([len(rows[i].answer_ids) for i in places]), strict=True
        ):
            if not bool(part.isfinite().all()):
                raise NotFinite(f"row {i}: the model gave log-probabilities that are not finite")
            found[i] = part.tolist()
    return [found[i] for i in range(len(rows))]
