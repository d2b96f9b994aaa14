"""What each probe is scored on: the answer, and the vanilla model's own words after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ftunlearn.pair import ModelPair
from ftunlearn.probes import Probe
from ftunlearn.scores import MEASURES, Rows, Yardstick, scored_rows
from lipogram.errors import InvalidProbes, InvalidSetting, NothingMeasurable
from lipogram.llm.forward import last_logits
from lipogram.llm.generation import generate
from lipogram.llm.text import Batch, Encoded, encode, pad, pad_id, token_batches

LEAST_KNOWN = 0.05
"""Answer probability below which the vanilla model does not know, unless the answer is greedy."""


@dataclass(frozen=True)
class Answered:
    """A probe with the text that both models are run on.

    Attributes:
        probe: what was asked.
        text: the prompt's tokens and the scored ones: the answer, and what the vanilla model says
            after it, greedily.
        n_answer: scored tokens that are the answer itself (A, where the probe brought none).
        excluded: why the probe is not measured, or None.
    """

    probe: Probe
    text: Encoded
    n_answer: int
    excluded: str | None = None

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.text)


@dataclass(frozen=True)
class ProbeBatch:
    """Probes that run together.

    Attributes:
        positions: places of the probes in the whole list.
        batch: their texts, padded on the left.
        answer_lengths: (b,) int64, tokens of each answer.
    """

    positions: tuple[int, ...]
    batch: Batch
    answer_lengths: torch.Tensor


def answer(
    pair: ModelPair, probes: Sequence[Probe], *, n_new_tokens: int = 30
) -> tuple[list[Answered], list[str]]:
    """Let the vanilla model speak: its greedy words after each prompt, or after the answer given.

    Args:
        pair: whose vanilla model.
        probes: what to ask.
        n_new_tokens: scored tokens of each, at most (30 in arXiv 2410.06606).

    Returns:
        Those that can be run, and a line for each that cannot (too long for the models).

    Raises:
        InvalidSetting: n_new_tokens < 1.
        InvalidProbes: none of them can be run.
    """
    if n_new_tokens < 1:
        raise InvalidSetting(f"n_new_tokens must be >= 1, got {n_new_tokens}")
    tokenizer, problems, asked = pair.tokenizer, [], []
    longest = getattr(pair.unlearned.config, "max_position_embeddings", None) or 1 << 30
    for probe in probes:
        text = encode(tokenizer, probe.prompt, [] if probe.answer is None else probe.answer)
        length = len(text.prompt_ids) + max(n_new_tokens, len(text.answer_ids))
        if length > longest:
            problems.append(f"{probe.id}: {length} tokens, the models take {longest}")
        else:
            asked.append((probe, text))
    if not asked:
        raise InvalidProbes(f"no probe can be run: {'; '.join(problems) or 'there are none'}")
    with pair.as_vanilla() as model:
        said = generate(
            model,
            tokenizer,
            [[*text.prompt_ids, *text.answer_ids] for _, text in asked],
            max_new_tokens=n_new_tokens,
        )
    answered = []
    for (probe, text), words in zip(asked, said, strict=True):
        room = max(0, n_new_tokens - len(text.answer_ids))
        scored = [*text.answer_ids, *words.ids[:room]]
        answered.append(
            Answered(probe, Encoded(text.prompt_ids, scored), len(text.answer_ids) or len(scored))
        )
    return answered, problems


def batched(
    answered: Sequence[Answered], pair: ModelPair, *, max_tokens: int, positions: Sequence[int] = ()
) -> list[ProbeBatch]:
    """Probes of like length together, under a budget of tokens.

    Args:
        answered: all of them.
        pair: for its padding token and its device.
        max_tokens: padded tokens of a batch, at most.
        positions: those to take; all if none is given.
    """
    chosen = list(positions) or list(range(len(answered)))
    groups = token_batches([answered[i].length for i in chosen], max_tokens)
    batches = []
    for group in groups:
        places = tuple(chosen[i] for i in group)
        batch = pad([answered[i].text for i in places], pad_id(pair.tokenizer)).to(pair.device)
        lengths = torch.tensor([answered[i].n_answer for i in places])
        batches.append(ProbeBatch(places, batch, lengths))
    return batches


def scored_logits(model: Any, group: ProbeBatch, rows: Rows) -> torch.Tensor:
    """(b, n_logits, v): the last logits of a batch, which hold all its scored rows."""
    logits, _ = last_logits(model, group.batch.inputs(), rows.n_logits, use_cache=False)
    return logits


def baselines(
    pair: ModelPair, answered: Sequence[Answered], *, max_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both models on every probe.

    Returns:
        vanilla and unlearned, each (n, 9) float64 of :data:`ftunlearn.scores.MEASURES`.

    Raises:
        NotFinite: a model's logits are NaN or infinite.
    """
    vanilla = np.zeros((len(answered), len(MEASURES)))
    unlearned = vanilla.copy()
    for group in batched(answered, pair, max_tokens=max_tokens):
        rows = scored_rows(group.batch, group.answer_lengths)
        with torch.inference_mode():
            with pair.as_vanilla() as model:
                logits = scored_logits(model, group, rows)
            yardstick = Yardstick(logits, rows, pair.vocabulary)
            vanilla[list(group.positions)] = yardstick.measure(logits)
            logits = scored_logits(pair.unlearned, group, rows)
            unlearned[list(group.positions)] = yardstick.measure(logits)
    return vanilla, unlearned


def excluded(answered: Sequence[Answered], vanilla: np.ndarray) -> list[Answered]:
    """The same probes, those that the vanilla model does not know marked as excluded.

    Args:
        answered: n probes.
        vanilla: (n, 9), the vanilla model on them.

    Raises:
        NothingMeasurable: it knows none of them.
    """
    p = np.exp(vanilla[:, MEASURES.index("log_prob")])
    greedy = vanilla[:, MEASURES.index("greedy")]
    marked = []
    for item, probability, is_greedy in zip(answered, p, greedy, strict=True):
        unknown = probability < LEAST_KNOWN and not is_greedy
        reason = f"the vanilla model does not know it (p = {probability:.3g})" if unknown else None
        marked.append(Answered(item.probe, item.text, item.n_answer, reason))
    if all(item.excluded for item in marked):
        reasons = "; ".join(f"{item.probe.id}: {item.excluded}" for item in marked[:5])
        raise NothingMeasurable(f"all {len(marked)} probes are excluded: {reasons}")
    return marked
