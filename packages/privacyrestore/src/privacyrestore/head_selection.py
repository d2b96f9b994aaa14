"""The heads at which a span's absence shows, and the directions in which it does.

Source: PrivacyRestore (arXiv 2406.01394), section 4.1; unlike the authors' code, probes are tested
on pairs that they were not fitted on, both halves of a pair on the same side of the split.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lipogram.errors import (
    CorruptState,
    InvalidProbes,
    InvalidSetting,
    NotFinite,
    NothingMeasurable,
)
from lipogram.files import write_atomically
from lipogram.llm import describe, encode, pad, record, rng
from lipogram.llm.forward import evaluating, last_logits
from lipogram.llm.text import context_length, pad_id
from lipogram.progress import bar
from privacyrestore.batched_probes import probe_accuracies
from privacyrestore.restoration_bank import ModelIdentity, RestorationBank

SHARE_OF_HEADS = 0.17
MIN_PAIRS = 5
"""Pairs of a span below which no fifth of them can be kept for testing."""

_BYTES = 2**31  # of activations held at a time; more layers are recorded in a second pass


@dataclass(frozen=True)
class SpanPair:
    """A text and what is left of it once its spans are removed.

    Attributes:
        question: q.
        question_removed: q⁻.
        span_ids: indices into the vocabulary of what was removed; at least one.
    """

    question: str
    question_removed: str
    span_ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class HeadSelection:
    """The common head sites of a vocabulary.

    Attributes:
        sites: K sites (layer, query head), in ascending order.
        directions: [M, K, D] float32: mean activation with the span minus that without.
        accuracies: [M, N·H] float64 of the probes on held-out pairs; NaN for a span without enough.
        mean_ranks: [N·H] float64, 0 the best: mean over spans of a site's rank by accuracy.
        n_heads: H; site (l, h) is column l·H + h.
    """

    sites: tuple[tuple[int, int], ...]
    directions: Tensor
    accuracies: Tensor
    mean_ranks: Tensor
    n_heads: int

    @property
    def unranked(self) -> tuple[int, ...]:
        """Spans with fewer than `MIN_PAIRS` pairs: they have a direction, but no vote."""
        return tuple(torch.nonzero(self.accuracies.isnan().any(1)).flatten().tolist())

    def bank(
        self, vocabulary: Sequence[str], model: ModelIdentity, **settings: Any
    ) -> RestorationBank:
        """The untrained bank: every direction scaled to length 1 at each site.

        Args:
            vocabulary: M span types.
            model: see :func:`~privacyrestore.restoration_bank.identify`.
            settings: further ones of :class:`~privacyrestore.restoration_bank.RestorationBank`.

        Raises:
            InvalidSetting: a vocabulary of another size; and as the bank.
        """
        if len(vocabulary) != len(self.directions):
            raise InvalidSetting(
                f"the selection is of {len(self.directions)} spans, the vocabulary names "
                f"{len(vocabulary)}"
            )
        unit = torch.nn.functional.normalize(self.directions, dim=-1)
        return RestorationBank.build(unit, self.sites, vocabulary, model, **settings)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        head = json.dumps({"sites": self.sites, "n_heads": self.n_heads})
        write_atomically(Path(path), save(tensors, {"selection": head}))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            CorruptState: no such file, or one that contradicts itself.
        """
        try:
            with safe_open(path, "pt") as file:
                head = json.loads(file.metadata()["selection"])
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
            sites = tuple((int(layer), int(head)) for layer, head in head["sites"])
            found = cls(sites, **tensors, n_heads=int(head["n_heads"]))
            m, k, _ = found.directions.shape
            n = len(found.mean_ranks)
            if k != len(sites) or found.accuracies.shape != (m, n) or n % found.n_heads:
                raise ValueError("its parts do not fit each other")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CorruptState(f"{path} holds no selection of heads: {error}") from error
        return found


_TENSORS = ("directions", "accuracies", "mean_ranks")


def select_heads(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[SpanPair],
    n_spans: int,
    k: int | None = None,
    *,
    seed: int = 0,
    batch_size: int = 16,
) -> HeadSelection:
    """Find the K head sites whose input to the output projection tells q from q⁻ best.

    Recorded at the last token, of the bare text without a chat template. Each span's pairs are
    split 80 : 20 by a seed of its own; a site's rank is its place by accuracy on the 20, equal
    accuracies sharing their mean place. Chosen are the sites of lowest mean rank over the spans,
    of equal ones the earlier.

    Args:
        model: a causal language model; it is put into evaluation mode meanwhile.
        tokenizer: its tokenizer.
        pairs: of any spans; one of several spans counts for each.
        n_spans: M, the size of the vocabulary.
        k: K; None for 0.17·N·H.
        seed: of the splits.
        batch_size: texts a forward pass.

    Raises:
        InvalidSetting: k outside 1 to N·H, a span outside the vocabulary, or one without any pair.
        InvalidProbes: a text without a token, or longer than the model's context.
        NothingMeasurable: no span has `MIN_PAIRS` pairs.
        NotFinite: activations that are NaN or infinite.
    """
    architecture = describe(model)
    total = architecture.n_layers * architecture.n_heads
    k = max(1, round(SHARE_OF_HEADS * total)) if k is None else k
    if not 1 <= k <= total:
        raise InvalidSetting(f"k is {k}; the model has {total} head sites")
    members = pairs_by_span(pairs, n_spans)
    if all(len(rows) < MIN_PAIRS for rows in members):
        raise NothingMeasurable(f"no span has {MIN_PAIRS} pairs: heads cannot be compared")
    texts = [p.question for p in pairs] + [p.question_removed for p in pairs]
    ids = _token_ids(model, tokenizer, texts)
    per_layer = len(texts) * architecture.n_heads * architecture.head_dim * 4
    device = next(model.parameters()).device
    device = device if device.type == "cuda" else torch.device("cpu")  # others lack float64
    at_once = min(architecture.n_layers, max(1, _BYTES // per_layer))
    groups = [
        range(start, min(start + at_once, architecture.n_layers))
        for start in range(0, architecture.n_layers, at_once)
    ]
    directions, accuracies = [], []
    with bar("heads", len(groups) * (len(texts) + n_spans)) as advance:
        for layers in groups:
            heads = _last_heads(
                model, ids, pad_id(tokenizer), layers, architecture.n_heads, batch_size, advance
            )
            if not bool(torch.isfinite(heads).all()):
                raise NotFinite("the model's activations hold NaN or infinity")
            probed = []
            for span, rows in enumerate(members):
                with_span = heads[rows].to(device)
                without = heads[[len(pairs) + row for row in rows]].to(device)
                probed.append(probe_span(with_span, without, span, seed))
                advance(1)
            directions.append(torch.stack([direction for direction, _ in probed]))
            accuracies.append(torch.stack([accuracy for _, accuracy in probed]))
    return chosen_sites(torch.cat(directions, 1), torch.cat(accuracies, 1), k, architecture.n_heads)


def pairs_by_span(pairs: Sequence[SpanPair], n_spans: int) -> list[list[int]]:
    """For each span the numbers of its pairs.

    Raises:
        InvalidSetting: a span outside the vocabulary, or one without a pair.
    """
    members: list[list[int]] = [[] for _ in range(n_spans)]
    for number, pair in enumerate(pairs):
        for span in dict.fromkeys(pair.span_ids):
            if not 0 <= span < n_spans:
                raise InvalidSetting(f"pair {number} names span {span}; there are {n_spans}")
            members[span].append(number)
    if bare := [span for span, rows in enumerate(members) if not rows]:
        raise InvalidSetting(
            f"{len(bare)} of {n_spans} spans occur in no pair (the first is span {bare[0]}): give "
            "a pair for each, or leave them out of the vocabulary"
        )
    return members


def probe_span(with_span: Tensor, without: Tensor, span: int, seed: int) -> tuple[Tensor, Tensor]:
    """A span's direction [S, D] float32 and accuracy [S] float64 at each of S sites.

    Args:
        with_span: [p, S, D] activations of its p texts.
        without: [p, S, D] of the same texts once it is removed.
        span: its number, for the split.
        seed: of the split.
    """
    direction = (with_span.double().mean(0) - without.double().mean(0)).float().cpu()
    count = len(with_span)
    if count < MIN_PAIRS:
        return direction, torch.full((with_span.shape[1],), torch.nan, dtype=torch.float64)
    order = torch.randperm(count, generator=rng(f"probe split {span}", seed))
    cut = max(1, round(0.2 * count))
    sides = []
    for rows in (order[cut:], order[:cut]):
        features = torch.cat([with_span[rows], without[rows]]).transpose(0, 1)
        labels = torch.arange(2 * len(rows), device=features.device) < len(rows)
        sides += [features, labels]
    return direction, probe_accuracies(*sides).cpu()


def chosen_sites(directions: Tensor, accuracies: Tensor, k: int, n_heads: int) -> HeadSelection:
    """Keep the k sites of lowest mean rank.

    Args:
        directions: [M, N·H, D].
        accuracies: [M, N·H], rows of NaN for spans that have no say.
        k: sites to keep.
        n_heads: H.
    """
    voting = accuracies[~accuracies.isnan().any(1)]
    ranks = torch.zeros_like(voting)
    for own, row in zip(ranks, voting, strict=True):
        higher, equal = row[None] > row[:, None], row[None] == row[:, None]
        own += higher.sum(1) + (equal.sum(1) - 1) / 2
    ranks = ranks.mean(0)
    kept = torch.sort(ranks, stable=True).indices[:k].sort().values
    sites = tuple((int(at) // n_heads, int(at) % n_heads) for at in kept)
    return HeadSelection(sites, directions[:, kept], accuracies, ranks, n_heads)


def _token_ids(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[Any]:
    longest = context_length(model)
    rows = [encode(tokenizer, text, []) for text in texts]
    for number, row in enumerate(rows):
        if not 0 < len(row) <= (longest or len(row)):
            half = "question_removed" if number >= len(texts) // 2 else "question"
            raise InvalidProbes(
                f"{half} of pair {number % (len(texts) // 2)} has {len(row)} tokens; it must have "
                f"at least one and fit the model's context of {longest}"
            )
    return rows


def _last_heads(
    model: Any,
    rows: Sequence[Any],
    padding: int,
    layers: range,
    n_heads: int,
    batch_size: int,
    advance: Any,
) -> Tensor:
    """[texts, layers·H, D] float32 on the CPU: each head at each text's last token."""
    device = next(model.parameters()).device
    found: Tensor | None = None
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        batch = pad([rows[i] for i in some], padding).to(device)  # on the left: all end together
        last = torch.zeros_like(batch.answer_mask)
        last[:, -1] = True
        sites = [("head_in", layer) for layer in layers]
        kept = record(model, sites, positions=last, device="cpu", dtype=torch.float32)
        with evaluating(model), kept as held:
            last_logits(model, batch.inputs(), 1, use_cache=False)
        heads = torch.cat([held[site].unflatten(-1, (n_heads, -1)) for site in sites], 1)
        found = heads.new_empty(len(rows), *heads.shape[1:]) if found is None else found
        found[some] = heads
        advance(len(some))
    assert found is not None
    return found
