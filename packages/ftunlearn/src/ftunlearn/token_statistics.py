"""What a model thinks of each token of given answers, in one teacher-forced pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lipogram.errors import NotFinite
from lipogram.llm.text import Encoded, pad, pad_id, token_batches

MAX_TOKENS = 1024


@dataclass(frozen=True)
class TokenStatistics:
    """One answer of n scored tokens y_1 ... y_n.

    Attributes:
        logprobs: (n,) float64, log p(y_t | before).
        greedy: (n,) bool, whether y_t is the most probable token.
        standardised: (n,) float64, (log p(y_t) − μ_t)/σ_t with μ and σ the mean and the standard
            deviation of log p(z) over z ~ p(· | before) (arXiv 2404.02936, eq. 4).
    """

    logprobs: NDArray[np.float64]
    greedy: NDArray[np.bool_]
    standardised: NDArray[np.float64]

    @property
    def probability(self) -> float:
        """Exp of the mean log-probability of the tokens."""
        return float(np.exp(self.logprobs.mean()))


def token_statistics(
    model: Any, tokenizer: Any, rows: Sequence[Encoded], *, max_tokens: int = MAX_TOKENS
) -> list[TokenStatistics]:
    """Run `model` on prompts with their answers.

    Args:
        model: a causal language model.
        tokenizer: for its padding token.
        rows: prompts and answers. An answer token that nothing precedes is not scored.
        max_tokens: padded tokens of a batch, at most.

    Returns:
        In the order of `rows`; computed in float32.

    Raises:
        NotFinite: logits that are NaN or infinite.
    """
    found: list[TokenStatistics] = [_NOTHING] * len(rows)
    device = next(model.parameters()).device
    for places in token_batches([len(row) for row in rows], max_tokens):
        batch = pad([rows[i] for i in places], pad_id(tokenizer)).to(device)
        if not batch.n_logits:
            continue
        with torch.inference_mode():
            logits = model(**batch.inputs(), logits_to_keep=batch.n_logits, use_cache=False).logits
            for i, row_logits, row_ids, row_mask in zip(
                places, logits, batch.input_ids, batch.rows, strict=True
            ):
                scored = row_mask[-batch.n_logits :]
                targets = row_ids.roll(-1)[-batch.n_logits :][scored]
                found[i] = _of_rows(row_logits[scored], targets)
    return found


def _of_rows(logits: torch.Tensor, targets: torch.Tensor) -> TokenStatistics:
    if not bool(torch.isfinite(logits).all()):
        raise NotFinite("the model's logits are NaN or infinite")
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    probabilities = logprobs.exp()
    mean = (probabilities * logprobs).sum(-1)
    variance = (probabilities * (logprobs - mean.unsqueeze(-1)).square()).sum(-1)
    standardised = (chosen - mean) / variance.clamp(min=1e-12).sqrt()
    return TokenStatistics(
        chosen.double().cpu().numpy(),
        (logprobs.argmax(-1) == targets).cpu().numpy(),
        standardised.double().cpu().numpy(),
    )


_NOTHING = TokenStatistics(np.zeros(0), np.zeros(0, dtype=np.bool_), np.zeros(0))
