"""Two cheap attacks on what was forgotten: read it early, or take out a direction that hides it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftunlearn.probes import Probe
from ftunlearn.token_statistics import MAX_TOKENS, token_statistics
from lipogram.errors import InvalidProbes, InvalidSetting
from lipogram.llm.architecture import Architecture, describe
from lipogram.llm.patching import patch
from lipogram.llm.recording import record
from lipogram.llm.text import Batch, Encoded, encode, pad, pad_id, token_batches
from lipogram.llm.wrappers import submodule


def logit_lens(model: Any, tokenizer: Any, probes: Sequence[Probe]) -> NDArray[np.float64]:
    """The answer's probability, read from the residual stream after each block.

    The states go through the final norm and the head as if the blocks after were not there
    (nostalgebraist 2020). A layer that gives the answer more probability than the last one shows
    knowledge that later layers suppress.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        probes: n of them, with answers.

    Returns:
        (layers, n) float64, exp of the mean log-probability of the answer's tokens; the last row is
        the model's own.

    Raises:
        InvalidProbes: a probe without an answer, or none at all.
        InvalidSetting: a model without a head.
    """
    architecture = describe(model)
    rows = _encoded(tokenizer, probes)
    found = np.zeros((architecture.n_layers, len(rows)))
    for places, batch in _batches(model, tokenizer, rows):
        mask = batch.rows
        with torch.inference_mode(), record(model, ["resid_out"], positions=mask) as recording:
            model(**batch.inputs(), logits_to_keep=1, use_cache=False)
        targets = batch.input_ids.roll(-1, dims=1)[mask].unsqueeze(-1)
        lengths = mask.sum(dim=1).tolist()
        for layer in range(architecture.n_layers):
            with torch.inference_mode():
                logits = _read(architecture, recording["resid_out", layer])
                logprobs = logits.float().log_softmax(-1).gather(-1, targets).squeeze(-1)
            for place, part in zip(places, torch.split(logprobs, lengths), strict=True):
                found[layer, place] = float(part.double().mean().exp())
    return found


@dataclass(frozen=True)
class Ablated:
    """What is known with one direction projected out of the residual stream.

    Attributes:
        layers: (k,) where each direction was taken.
        forget: (k, n) probability of the forget probes' answers.
        others: (k, m) that of the other probes: what the ablation breaks.
        before: (n,) of the forget probes without it.
    """

    layers: tuple[int, ...]
    forget: NDArray[np.float64]
    others: NDArray[np.float64]
    before: NDArray[np.float64]


def direction_ablation(
    model: Any,
    tokenizer: Any,
    forget: Sequence[Probe],
    others: Sequence[Probe],
    *,
    layers: Sequence[int] | None = None,
) -> Ablated:
    """Project out what tells forgotten prompts from others, and ask again.

    At each layer the direction u is the difference of the mean states after that block, at the
    prompt's last token, between the two sets of prompts; then every block's output a becomes
    a − (a·u)u at all positions (arXiv 2406.11717, eq. 1 and 4). Unlearning that only adds a
    refusing direction is undone by this. It needs no other model and no training.

    Args:
        model: the unlearned model.
        tokenizer: its tokenizer.
        forget: probes with answers.
        others: probes with answers that were not to be forgotten, of a like form.
        layers: where to take directions; None is every layer.

    Raises:
        InvalidProbes: a probe without an answer, or no probes on one side.
        InvalidSetting: no such layer.
        NotFinite: logits that are NaN or infinite.
    """
    n_layers = describe(model).n_layers
    chosen = tuple(range(n_layers)) if layers is None else tuple(layers)
    if bad := [layer for layer in chosen if not 0 <= layer < n_layers]:
        raise InvalidSetting(f"layer {bad[0]}: the model has layers 0 to {n_layers - 1}")
    sides = [_encoded(tokenizer, probes) for probes in (forget, others)]
    means = [_mean_states(model, tokenizer, rows) for rows in sides]
    found: tuple[list[list[float]], list[list[float]]] = ([], [])
    for layer in chosen:
        with without_direction(model, means[0][layer] - means[1][layer]):
            for values, rows in zip(found, sides, strict=True):
                statistics = token_statistics(model, tokenizer, rows)
                values.append([one.probability for one in statistics])
    before = [one.probability for one in token_statistics(model, tokenizer, sides[0])]
    return Ablated(chosen, np.asarray(found[0]), np.asarray(found[1]), np.asarray(before))


@contextmanager
def without_direction(model: Any, direction: Tensor) -> Iterator[None]:
    """Inside the `with`, no block's output has a part along `direction` [width]; zero changes none.

    Raises:
        PatchMismatch: in the forward pass, a direction of another width.
    """
    norm = direction.norm()
    unit = direction / norm if float(norm) else direction

    def project(activation: Tensor) -> Tensor:
        u = unit.to(device=activation.device, dtype=activation.dtype)
        return activation - (activation @ u).unsqueeze(-1) * u

    with patch(model, {("resid_out", i): project for i in range(describe(model).n_layers)}):
        yield


def _mean_states(model: Any, tokenizer: Any, rows: Sequence[Encoded]) -> list[Tensor]:
    """[width] for each layer: the mean state after it at the last token of the prompts."""
    n_layers = describe(model).n_layers
    sums: list[Tensor | float] = [0.0] * n_layers
    prompts = [Encoded(row.prompt_ids, []) for row in rows]
    for _, batch in _batches(model, tokenizer, prompts):
        last = torch.zeros_like(batch.attention_mask, dtype=torch.bool)
        last[:, -1] = True  # padding is on the left
        with torch.inference_mode(), record(model, ["resid_out"], positions=last) as recording:
            model(**batch.inputs(), logits_to_keep=1, use_cache=False)
        for layer in range(n_layers):
            sums[layer] = sums[layer] + recording["resid_out", layer].float().sum(dim=0)
    return [torch.as_tensor(total) / len(rows) for total in sums]


def _read(architecture: Architecture, states: Tensor) -> Tensor:
    """Logits [rows, vocabulary] of states [rows, width], as the end of the model computes them."""
    model, layout = architecture.causal_lm, architecture.layout
    if architecture.head is None:
        raise InvalidSetting("the model has no head to read states with")
    if architecture.final_norm is not None:
        states = architecture.final_norm(states)
    if layout.project_out and (module := submodule(model.base_model, layout.project_out)):
        states = module(states)
    logits: Tensor = architecture.head(states)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if not cap else cap * torch.tanh(logits / cap)


def _encoded(tokenizer: Any, probes: Sequence[Probe]) -> list[Encoded]:
    if not len(probes):
        raise InvalidProbes("no probes to attack with")
    rows = []
    for probe in probes:
        if probe.answer is None:
            raise InvalidProbes(f"probe {probe.id!r} has no answer to look for")
        rows.append(encode(tokenizer, probe.prompt, probe.answer))
    return rows


def _batches(
    model: Any, tokenizer: Any, rows: Sequence[Encoded]
) -> Iterator[tuple[list[int], Batch]]:
    device = next(model.parameters()).device
    for places in token_batches([len(row) for row in rows], MAX_TOKENS):
        yield places, pad([rows[i] for i in places], pad_id(tokenizer)).to(device)
