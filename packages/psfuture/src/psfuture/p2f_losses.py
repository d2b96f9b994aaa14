"""What a model loses on sentences that it was not trained on, whole and cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from psfuture.p2f_batches import IGNORED, P2FCollator, PairTokenizer, examples_of, token_batches
from psfuture.units import Unit

TOKENS = 1500
"""Target tokens measured at once."""


def held_out_losses(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[tuple[str, str]],
    *,
    prefix_eos: bool = True,
    unit: Unit = "word",
    seed: int = 0,
) -> dict[str, float | None]:
    """Mean cross-entropy of the targets, nats a token: "full" sentences, and "prefix"es of them.

    Each sentence is cut once, after j ~ U{1..n} words; the draw depends on `seed` and its place
    alone, so models are measured on the same prefixes.

    Args:
        model: of transformers, or a :class:`~psfuture.bergamot_training.BergamotForTraining`; set
            to evaluation mode.
        tokenizer: as :class:`~psfuture.p2f_batches.P2FCollator` takes it.
        pairs: sentences and their translations; None is what no pair loses.
        prefix_eos: whether prefixes are closed with the end of sentence.
        unit: of j.
        seed: of the cuts.
    """
    if not pairs:
        return {"full": None, "prefix": None}
    collator = P2FCollator(tokenizer, prefix_eos=prefix_eos, unit=unit, seed=seed)
    ids: PairTokenizer = collator.tokenizer
    lengths = [len(ids.target_ids(target)) for _, target in pairs]
    device = next(model.parameters()).device
    sums, count = {"full": 0.0, "prefix": 0.0}, 0
    model.eval()
    for batch in token_batches(examples_of(pairs), lengths, TOKENS, 0):
        inputs = {name: value.to(device) for name, value in collator([batch]).items()}
        tokens = int(inputs["labels"].ne(IGNORED).sum())
        for name, prefix in (("full", ""), ("prefix", "prefix_")):
            with torch.inference_mode():
                loss = model(
                    input_ids=inputs[f"{prefix}input_ids"],
                    attention_mask=inputs[f"{prefix}attention_mask"],
                    labels=inputs["labels"],
                ).loss
            sums[name] += float(loss) * tokens
        count += tokens
    return {name: total / count for name, total in sums.items()}
