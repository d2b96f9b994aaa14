"""The reverse patch: does the vanilla model still know, with the unlearned model's states in it?

S2_l is how much the answer's mean log-probability under the vanilla model falls when the residual
stream after block l is replaced, at the scored positions only, by the unlearned model's; S1_l is
the same with the states of a model that does not know. Depth = Σ_K S1_l clip(S2_l / S1_l, 0, 1) /
Σ_K S1_l over the knowledge layers K = {l : S1_l > τ} is the Unlearning Depth Score of
arXiv 2605.24614; 0 where nothing that carries the knowledge has changed, 1 where all of it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftunlearn.answers import Answered, ProbeBatch, batched, scored_logits
from ftunlearn.pair import ModelPair
from ftunlearn.scores import MEASURES, Rows, Yardstick, scored_rows
from lipogram.llm.patching import patch
from lipogram.llm.recording import record
from lipogram.llm.running import run_from

KNOWLEDGE = 0.05
"""τ, in nats: a block counts as carrying the knowledge if S1 exceeds it."""


@dataclass(frozen=True)
class Reverse:
    """Drops of the answer's mean log-probability, in nats.

    Attributes:
        source: what S1 was taken with: a reference model, or the vanilla model's own states on
            another probe of the same kind.
        s1: (l, n) drop with states that cannot know the answer; NaN for excluded probes.
        s2: (l, n) drop with the unlearned model's states.
    """

    source: Literal["reference", "surrogate"]
    s1: NDArray[np.float64]
    s2: NDArray[np.float64]

    def depth(self, probes: Sequence[int] | NDArray[np.int64] | None = None) -> float:
        """The depth over some probes, or all; NaN where no block carries the knowledge."""
        columns = slice(None) if probes is None else list(probes)
        return depth(_mean(self.s1[:, columns]), _mean(self.s2[:, columns]))

    @property
    def knowledge_layers(self) -> list[int]:
        """K: the blocks whose mean S1 exceeds τ."""
        return [int(layer) for layer in np.flatnonzero(_mean(self.s1) > KNOWLEDGE)]


def depth(s1: NDArray[np.float64], s2: NDArray[np.float64]) -> float:
    """Depth from mean drops, each (l,)."""
    known = s1 > KNOWLEDGE
    if not known.any():
        return float("nan")
    share = np.clip(s2[known] / s1[known], 0, 1)
    return float((s1[known] * share).sum() / s1[known].sum())


def _mean(drops: NDArray[np.float64]) -> NDArray[np.float64]:
    measured = drops[:, ~np.isnan(drops).any(0)]
    return measured.mean(1) if measured.shape[1] else np.full(len(drops), np.nan)


def reverse(
    pair: ModelPair,
    answered: Sequence[Answered],
    *,
    max_tokens: int,
    tick: Callable[[], None] = lambda: None,
) -> Reverse:
    """Measure S1 and S2 at every block.

    Args:
        pair: with a reference model, S1 is taken with it; without one, with the vanilla model's own
            states on another probe whose answer differs.
        answered: n probes; excluded ones are left out.
        max_tokens: padded tokens of a batch.
        tick: called once a block and batch.
    """
    n_layers = pair.n_layers
    drops = {name: np.full((n_layers, len(answered)), np.nan) for name in ("s1", "s2")}
    places = [i for i, item in enumerate(answered) if item.excluded is None]
    others = _mismatched(answered, places)
    for group in batched(answered, pair, max_tokens=max_tokens, positions=places):
        rows = scored_rows(group.batch, group.answer_lengths)
        with torch.inference_mode():
            plain, own = _states(pair, "vanilla", group, rows)
            yardstick = Yardstick(plain, rows, pair.vocabulary)
            _, unlearned = _states(pair, "unlearned", group, rows)
            if pair.reference is not None:
                _, ignorant = _states(pair, "reference", group, rows)
            else:
                ignorant = _borrowed(pair, answered, group, others)
            before = yardstick.measure(plain)[:, MEASURES.index("log_prob")]
            for layer in range(n_layers):
                for name, states in (("s2", unlearned), ("s1", ignorant)):
                    after = _patched(pair, group, rows, own, states, layer, yardstick)
                    drops[name][layer, list(group.positions)] = before - after
                tick()
    source: Literal["reference", "surrogate"] = (
        "surrogate" if pair.reference is None else "reference"
    )
    return Reverse(source, drops["s1"], drops["s2"])


def _states(
    pair: ModelPair, role: str, group: ProbeBatch, rows: Rows
) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the residual stream before block 0 and after each block: l + 1 of (b, t, d)."""
    sites = [("resid_in", 0), *(("resid_out", layer) for layer in range(pair.n_layers))]

    def run(model: Any) -> tuple[Tensor, list[Tensor]]:
        with record(model, sites) as states:
            logits = scored_logits(model, group, rows)
        return logits, [states[site] for site in sites]

    if role == "vanilla":
        with pair.as_vanilla() as model:
            return run(model)
    return run(getattr(pair, role))


def _patched(
    pair: ModelPair,
    group: ProbeBatch,
    rows: Rows,
    own: list[Tensor],
    states: list[Tensor],
    layer: int,
    yardstick: Yardstick,
) -> NDArray[np.float64]:
    """(b,) mean log-probability of the answers with foreign states after one block."""
    with (
        pair.as_vanilla() as model,
        run_from(model, layer, own[layer]),
        patch(
            model, {("resid_out", layer): states[layer + 1]}, positions=_answer_rows(group, rows)
        ),
    ):
        logits = scored_logits(model, group, rows)
    return yardstick.measure(logits)[:, MEASURES.index("log_prob")]


def _answer_rows(group: ProbeBatch, rows: Rows) -> Tensor:
    """(b, t) bool, the tokens whose states predict the answer."""
    mask = torch.zeros_like(group.batch.answer_mask)
    start = mask.shape[1] - rows.n_logits
    mask[rows.probe[rows.answer], start + rows.column[rows.answer]] = True
    return mask


def _mismatched(answered: Sequence[Answered], places: list[int]) -> dict[int, int]:
    """For each probe one with another answer, of like length and group where there is one."""
    others = {}
    for n, i in enumerate(places):
        item = answered[i]
        turned = places[n + 1 :] + places[:n]
        differing = [
            j
            for j in turned
            if answered[j].text.answer_ids[: answered[j].n_answer]
            != item.text.answer_ids[: item.n_answer]
        ]
        others[i] = min(
            differing,
            key=lambda j: (
                answered[j].probe.group != item.probe.group,
                abs(answered[j].n_answer - item.n_answer),
            ),
            default=i,
        )
    return others


def _borrowed(
    pair: ModelPair, answered: Sequence[Answered], group: ProbeBatch, others: dict[int, int]
) -> list[Tensor]:
    """The vanilla model's states on the mismatched probes, at the places of this group's answers.

    Row k of a probe's answer gets row k of the other's; where that is shorter, its last.
    """
    wanted = [others[i] for i in group.positions]
    budget = len(wanted) * max(answered[j].length for j in wanted)
    (donors,) = batched(answered, pair, max_tokens=budget, positions=sorted(set(wanted)))
    rows = scored_rows(donors.batch, donors.answer_lengths)
    _, states = _states(pair, "vanilla", donors, rows)
    width, from_width = group.batch.input_ids.shape[1], donors.batch.input_ids.shape[1]
    targets = [torch.zeros(*group.batch.input_ids.shape, s.shape[-1]).to(s) for s in states]
    for b, (i, j) in enumerate(zip(group.positions, wanted, strict=True)):
        donor = donors.positions.index(j)
        for k in range(answered[i].n_answer):
            to = width - len(answered[i].text.answer_ids) - 1 + k
            place = min(k, answered[j].n_answer - 1)
            source = from_width - len(answered[j].text.answer_ids) - 1 + place
            for target, state in zip(targets, states, strict=True):
                target[b, to] = state[donor, source]
    return targets
