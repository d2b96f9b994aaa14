"""How near an intervention brings the unlearned model to the vanilla one.

With z the logits at the scored rows of one probe, loss° between vanilla and unlearned, loss*
between vanilla and the unlearned model under an intervention, the Knowledge Recovery Score is
KRS = 1 - loss* / loss° (arXiv 2410.06606, section 3.2). It is 1 where the intervention gives the
vanilla model's logits back, 0 where it does nothing, and negative where it does harm.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipogram.errors import InvalidSetting, NotFinite
from lipogram.llm.text import Batch

Protocol = Literal["aligned", "paper"]
PROTOCOLS: tuple[Protocol, ...] = ("aligned", "paper")
LOSSES = ("krs", "krs_centered", "krs_kl")
SCORES = (*LOSSES, "prob", "first_token", "greedy")

# What is measured of one probe in one run: three losses a protocol, then the answer itself.
MEASURES = (
    *(f"{loss}:{protocol}" for protocol in PROTOCOLS for loss in LOSSES),
    "log_prob",
    "first_token",
    "greedy",
)

MIN_GAP = 1e-8
"""Mean square (or nats) below which two models count as equal on a probe."""
MIN_PROBABILITY_GAP = 0.01


@dataclass(frozen=True)
class Rows:
    """The rows of logits that a batch is scored on, n in all.

    Attributes:
        probe: (n,) int64, position of the row's probe in the batch.
        column: (n,) int64, the row's place in the logits that were kept.
        aligned: (n,) bool, rows p-1 ... p+A-2, which predict the A scored tokens.
        paper: (n,) bool, the last A rows, as the paper's notebooks slice them: without the row that
            predicts the first token, with one that predicts a token after the last.
        token: (n,) int64, what an aligned row has to predict; -1 on the others.
        answer: (n,) bool, aligned rows that predict the answer itself.
        first: (n,) bool, the first of them.
        n_probes: probes of the batch.
        n_logits: rows of logits, counted from the end, that the head has to compute.
    """

    probe: Tensor
    column: Tensor
    aligned: Tensor
    paper: Tensor
    token: Tensor
    answer: Tensor
    first: Tensor
    n_probes: int
    n_logits: int

    def of(self, logits: Tensor, vocabulary: int) -> Tensor:
        """The scored rows of kept logits (b, n_logits, v), float32 (n, vocabulary)."""
        return logits[self.probe, self.column, :vocabulary].float()


def scored_rows(batch: Batch, answer_lengths: Tensor) -> Rows:
    """The rows to score of a left-padded batch whose texts end with their scored tokens.

    Args:
        batch: b texts, padded on the left.
        answer_lengths: (b,) int64, how many of the scored tokens are the answer itself.
    """
    scored = batch.answer_mask
    counts = scored.sum(1)
    width = scored.shape[1]
    n_logits = int(counts.max()) + 1
    probe, column, aligned, paper, token, answer, first = [], [], [], [], [], [], []
    for i, count in enumerate(counts.tolist()):
        for k in range(count + 1):
            probe.append(i)
            column.append(n_logits - 1 - count + k)
            aligned.append(k < count)
            paper.append(k > 0)
            token.append(int(batch.input_ids[i, width - count + k]) if k < count else -1)
            answer.append(k < int(answer_lengths[i]))
            first.append(k == 0)
    device = batch.input_ids.device
    return Rows(
        probe=torch.tensor(probe, device=device),
        column=torch.tensor(column, device=device),
        aligned=torch.tensor(aligned, device=device),
        paper=torch.tensor(paper, device=device),
        token=torch.tensor(token, device=device),
        answer=torch.tensor(answer, device=device),
        first=torch.tensor(first, device=device),
        n_probes=len(counts),
        n_logits=n_logits,
    )


class Yardstick:
    """The vanilla model's logits on one batch, against which others are measured.

    Args:
        logits: (b, n_logits, v) of the vanilla model.
        rows: which of them are scored.
        vocabulary: columns that both models have.
    """

    def __init__(self, logits: Tensor, rows: Rows, vocabulary: int):
        self.rows, self.vocabulary = rows, vocabulary
        self._logits = rows.of(logits, vocabulary)
        _check_finite(self._logits)
        self._log_probs = self._logits.log_softmax(-1)
        self._probs = self._log_probs.exp()

    def measure(self, logits: Tensor) -> NDArray[np.float64]:
        """What :data:`MEASURES` names, of another run on the same batch.

        Args:
            logits: (b, n_logits, v).

        Returns:
            (b, 9): mean squared differences of raw and of row-centred logits, KL(vanilla ‖ run) in
            nats, by protocol; mean log-probability of the answer's tokens, probability of the first
            of them, and whether all of them are the most probable ones (0 or 1).

        Raises:
            NotFinite: a logit is NaN or infinite.
        """
        rows = self.rows
        kept = rows.of(logits, self.vocabulary)
        difference = kept - self._logits
        shift = difference.mean(-1).double()
        # float32 is summed in cascades, so a mean over the vocabulary keeps its last digits.
        square = difference.square_().mean(-1).double()
        _check_finite(square)  # no logit can be off without showing here
        # Softmax ignores a constant added to a row; the centred loss does too.
        centred = (square - shift.square()).clamp_min(0)
        log_probs = kept.log_softmax(-1)
        kl = (self._log_probs - log_probs).mul_(self._probs).sum(-1).double().clamp_min(0)
        losses = torch.stack([square, centred, kl], 1)
        columns = [self._mean(losses, getattr(rows, protocol)) for protocol in PROTOCOLS]
        index = rows.token.clamp_min(0)[:, None]
        log_prob = log_probs.gather(1, index)[:, 0].double()
        right = (log_probs.argmax(-1) == rows.token).double()
        columns.append(self._mean(log_prob[:, None], rows.answer))
        columns.append(self._mean(log_prob.exp()[:, None], rows.first))
        columns.append((self._mean(right[:, None], rows.answer) == 1).double())
        return torch.cat(columns, 1).cpu().numpy()

    def _mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """Means over the masked rows of each probe: (n, c) to (b, c)."""
        total = values.new_zeros(self.rows.n_probes, values.shape[1])
        total.index_add_(0, self.rows.probe[mask], values[mask])
        count = torch.bincount(self.rows.probe[mask], minlength=self.rows.n_probes)
        return total / count[:, None]


def _check_finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise NotFinite("the model gave logits that are NaN or infinite: it has diverged")


def recoveries(
    measured: NDArray[np.float64],
    unlearned: NDArray[np.float64],
    vanilla: NDArray[np.float64],
    protocol: Protocol,
) -> dict[str, NDArray[np.float64]]:
    """The recovery scores of an intervention, NaN where a probe's gap is too small to divide by.

    Args:
        measured: (..., b, 9) of :meth:`Yardstick.measure`, under the intervention.
        unlearned: (b, 9), without it.
        vanilla: (b, 9).
        protocol: whose rows the losses are taken from.

    Returns:
        By score, (..., b). `prob` is (p* - p°) / (p_vanilla - p°) with p the geometric mean
        probability of the answer's tokens; `first_token` and `greedy` are the probability of its
        first token and whether it is the greedy answer, as they are.
    """
    column = {name: i for i, name in enumerate(MEASURES)}
    scores = {}
    for loss in LOSSES:
        i = column[f"{loss}:{protocol}"]
        gap = unlearned[:, i]
        defined = np.where(gap >= MIN_GAP, gap, np.nan)
        scores[loss] = 1 - measured[..., i] / defined
    i = column["log_prob"]
    start, end = np.exp(unlearned[:, i]), np.exp(vanilla[:, i])
    gap = np.where(end - start >= MIN_PROBABILITY_GAP, end - start, np.nan)
    scores["prob"] = (np.exp(measured[..., i]) - start) / gap
    for name in ("first_token", "greedy"):
        scores[name] = measured[..., column[name]]
    return scores


def ratio_of_sums(
    measured: NDArray[np.float64], unlearned: NDArray[np.float64], protocol: Protocol
) -> dict[str, NDArray[np.float64]]:
    """1 - Σ loss* / Σ loss° over the probes, which one probe with a tiny gap cannot move.

    Args:
        measured: (..., b, 9).
        unlearned: (b, 9).
        protocol: whose rows the losses are taken from.
    """
    scores = {}
    for loss in LOSSES:
        i = MEASURES.index(f"{loss}:{protocol}")
        total = unlearned[:, i].sum()
        gap = total if total >= MIN_GAP * len(unlearned) else np.nan
        scores[loss] = 1 - measured[..., i].sum(-1) / gap
    return scores


def krs(
    vanilla_logits: Tensor,
    unlearned_logits: Tensor,
    patched_logits: Tensor,
    mask: Tensor,
    kind: Literal["krs", "krs_centered", "krs_kl"] = "krs",
) -> Tensor:
    """Knowledge Recovery Score of each probe (arXiv 2410.06606, section 3.2).

    Args:
        vanilla_logits: (b, t, v).
        unlearned_logits: (b, t, v).
        patched_logits: (b, t, v), of the unlearned model under an intervention.
        mask: (b, t) bool, the scored rows.
        kind: mean squared error of raw logits, of logits less their row's mean, or
            KL(vanilla ‖ ·).

    Returns:
        (b,) float64; NaN where the two models agree to within `MIN_GAP`, or no row is scored.

    Raises:
        InvalidSetting: an unknown kind, or shapes that differ.
    """
    if kind not in LOSSES:
        raise InvalidSetting(f"kind {kind!r} is none of {', '.join(LOSSES)}")
    shapes = {tuple(z.shape) for z in (vanilla_logits, unlearned_logits, patched_logits)}
    if len(shapes) > 1 or mask.shape != vanilla_logits.shape[:2]:
        raise InvalidSetting(f"logits of shapes {sorted(shapes)} and a mask {tuple(mask.shape)}")

    def loss(logits: Tensor) -> Tensor:
        z, reference = logits.double(), vanilla_logits.double()
        if kind == "krs_kl":
            log_p = reference.log_softmax(-1)
            rows = (log_p.exp() * (log_p - z.log_softmax(-1))).sum(-1)
        else:
            difference = z - reference
            if kind == "krs_centered":
                difference = difference - difference.mean(-1, keepdim=True)
            rows = difference.square().mean(-1)
        return rows.masked_fill(~mask, 0).sum(1) / mask.sum(1)

    gap = loss(unlearned_logits)
    return torch.where(gap >= MIN_GAP, 1 - loss(patched_logits) / gap, torch.nan)
