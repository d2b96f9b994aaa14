"""MC1 and MC2: how a model ranks a question's options (PrivacyRestore, arXiv 2406.01394).

With S_o the summed log-probability of an option's tokens after the question:

- MC1 = 1 where S_gold > S_o for every other option, else 0; a tie is 0.
- MC2 = e^{S_gold} / Σ_o e^{S_o}.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipogram.errors import InvalidProbes, InvalidSetting, NotFinite
from lipogram.llm import answer_logprobs
from lipogram.llm.scoring import MAX_TOKENS
from privacyrestore.recovery_scores import Interval, bootstrap_mean


@dataclass(frozen=True, eq=False)
class MultipleChoice:
    """Scores of n questions.

    Attributes:
        mc1: [n] float64, 0 or 1.
        mc2: [n] float64 in [0, 1].
        mc1_mean, mc2_mean: means with 95 % bootstrap intervals over questions.
    """

    mc1: Tensor
    mc2: Tensor
    mc1_mean: Interval
    mc2_mean: Interval


def mc_of(
    scores: Tensor | Sequence[Sequence[float] | Tensor],
    gold: Sequence[int] | Tensor,
    *,
    seed: int = 0,
) -> MultipleChoice:
    """MC1 and MC2 of given scores.

    Args:
        scores: S, in nats: [n, options], or n rows of two scores or more, of any lengths; as
            :func:`~privacyrestore.evaluation.option_scores` gives them for restored questions.
        gold: [n] places of the right options.
        seed: of the bootstrap.

    Raises:
        InvalidProbes: no questions, a row of fewer than two options, or a right option that is not
            among them; by row.
        InvalidSetting: scores and `gold` of different numbers.
        NotFinite: a score that is NaN or infinite; by row.
    """
    rows = [torch.as_tensor(row, dtype=torch.float64).detach().cpu() for row in scores]
    places = [int(place) for place in gold]
    _check_gold([row.numel() if row.ndim == 1 else 0 for row in rows], places)
    for number, row in enumerate(rows):
        if not bool(row.isfinite().all()):
            raise NotFinite(f"row {number} has scores that are not finite")
    table = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-torch.inf)
    at = torch.tensor(places)[:, None]
    best = table.gather(1, at)[:, 0]
    mc1 = (best > table.scatter(1, at, -torch.inf).amax(1)).double()
    mc2 = (best - table.logsumexp(1)).exp()
    return MultipleChoice(mc1, mc2, bootstrap_mean(mc1, seed=seed), bootstrap_mean(mc2, seed=seed))


def mc_scores(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    gold: Sequence[int],
    *,
    ending: str = ".",
    add_special_tokens: bool = True,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
) -> MultipleChoice:
    """MC1 and MC2 of a model as it is; prompts of different vectors go through `option_scores`.

    Args:
        model: a causal language model.
        tokenizer: of it.
        prompts: n texts.
        options: of each prompt, two or more, with their leading blanks.
        gold: n places of the right options.
        ending: put after each option before it is scored, a full stop in the paper's code: it tells
            an option from one that begins with the same words.
        add_special_tokens: False for prompts that a chat template wrote.
        max_tokens: padded tokens of a batch.
        seed: of the bootstrap.

    Raises:
        InvalidProbes, InvalidSetting: as :func:`mc_of`, before the model is run; as
            `lipogram.llm.answer_logprobs`, whose rows count the options of all prompts.
        NotFinite, OverBudget: as there.
    """
    if isinstance(prompts, str) or len(prompts) != len(options):
        raise InvalidSetting(f"{len(prompts)} prompts and options of {len(options)}: one list each")
    for number, choices in enumerate(options):
        if isinstance(choices, str):
            raise InvalidProbes(f"row {number} has one text where a list of options belongs")
    counts = [len(choices) for choices in options]
    _check_gold(counts, gold)
    found = answer_logprobs(
        model,
        tokenizer,
        [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)],
        [option + ending for choices in options for option in choices],
        max_tokens=max_tokens,
        add_special_tokens=add_special_tokens,
    )
    return mc_of(torch.tensor(found, dtype=torch.float64).split(counts), gold, seed=seed)


def _check_gold(counts: Sequence[int], gold: Sequence[int]) -> None:
    """Refuse right options that are none of a row's.

    Args:
        counts: options of each row.
        gold: the right one's place.

    Raises:
        InvalidProbes, InvalidSetting: as :func:`mc_of`.
    """
    if len(counts) != len(gold):
        raise InvalidSetting(f"{len(counts)} questions and {len(gold)} right options")
    if not counts:
        raise InvalidProbes("there are no questions to score")
    for number, (count, place) in enumerate(zip(counts, gold, strict=True)):
        if count < 2:
            raise InvalidProbes(f"row {number} needs two options or more in one list")
        if not 0 <= place < count:
            raise InvalidProbes(
                f"row {number}: the right option is {place}, it must be 0 to {count - 1}"
            )
