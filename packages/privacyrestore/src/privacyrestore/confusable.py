"""Confusable banks: one vector for several spans, so that who restores cannot tell them apart.

Noise alone gives no choice between use and protection: whoever can restore can also decode. A
shared vector gives another one: the server learns that one of a group is there, at any ε, and which
one only as far as some of the group are more frequent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from lipogram.errors import InvalidSetting, MissingAsset
from lipogram.llm import rng
from privacyrestore.restoration_bank import RestorationBank

_ROUNDS = 50


@dataclass(frozen=True, eq=False)
class Anonymity:
    """What sharing vectors hides, whatever the noise.

    Attributes:
        sizes: [M] int64, spans that share each span's vector, itself included.
        effective_sizes: [M] float64, exp of the entropy of the prior within that group.
        best_recall: expected share of spans found without noise by guessing in each group its most
            frequent span, where a query has one span of a group: Σ_g max_{s∈g} p_s / Σ_s p_s.
    """

    sizes: Tensor
    effective_sizes: Tensor
    best_recall: float


def anonymity(bank: RestorationBank, frequencies: Tensor | None = None) -> Anonymity:
    """How well the bank's groups hide their members.

    Args:
        bank: with or without shared vectors.
        frequencies: [M], how often each span occurs, above 0; None for equally often.

    Raises:
        InvalidSetting: frequencies of another number, or not above 0.
    """
    groups = torch.tensor(bank.groups)
    weights = _weights(len(groups), frequencies)
    masses = torch.zeros(len(bank.vectors), dtype=torch.float64).index_add(0, groups, weights)
    share = weights / masses[groups]
    entropy = torch.zeros_like(masses).index_add(0, groups, -share * share.log())
    most = torch.zeros_like(masses).scatter_reduce(0, groups, weights, "amax")
    return Anonymity(
        torch.bincount(groups)[groups],
        entropy.exp()[groups],
        float(most.sum() / weights.sum()),
    )


def confusable_bank(
    bank: RestorationBank, groups: Sequence[int], *, frequencies: Tensor | None = None
) -> RestorationBank:
    """A bank in which the spans of a group share a vector.

    It has the direction of the mean of its members' unit vectors and the mean of their norms, so a
    group of one keeps its own. The bank may be trained on from there.

    Args:
        bank: trained.
        groups: the number of each span's group, M of 0 to G − 1, each used; as
            :func:`cluster_groups` or :func:`named_groups` give them.
        frequencies: [M], weights of the spans in those means; None for equal ones.

    Raises:
        InvalidSetting: other numbers, or vectors that cancel.
    """
    n = len(bank.vocabulary)
    weights = _weights(n, frequencies)
    if len(groups) != n or set(groups) != set(range(len(set(groups)))):
        raise InvalidSetting(f"groups must be {n} numbers from 0 on, and leave none out")
    rows, labels = _rows(bank), torch.tensor(list(groups))
    vectors = []
    for group in range(int(labels.max()) + 1):
        members, own = rows[labels == group], weights[labels == group]
        mean = (own[:, None] * normalize(members, dim=1)).sum(0)
        if float(mean.norm()) < 1e-6 * float(own.sum()):
            raise InvalidSetting(f"the vectors of group {group} cancel")
        length = (own * members.norm(dim=1)).sum() / own.sum()
        vectors.append(mean / mean.norm() * length)
    return bank.with_vectors(
        torch.stack(vectors).view(-1, *bank.vectors.shape[1:]).float(),
        groups=tuple(int(group) for group in groups),
        statement=f"{bank.statement} {n} spans share {len(vectors)} vectors.".strip(),
    )


def cluster_groups(
    bank: RestorationBank,
    n_groups: int | None = None,
    *,
    max_group: int | None = None,
    method: Literal["k-means", "hierarchical"] = "k-means",
    balance: bool = True,
    frequencies: Tensor | None = None,
    seed: int = 0,
) -> list[int]:
    """Groups of spans that are alike by the cosine of their vectors: a number for each span.

    Args:
        bank: trained.
        n_groups: how many groups; or
        max_group: how many spans share a vector at most, in the fewest groups.
        method: spherical k-means, or average linkage (in the order of whose leaves `balance` cuts).
        balance: sizes differ by at most one, so that no span stands alone.
        frequencies: [M], weights of the spans in the centres of k-means; None for equal ones.
        seed: of the first centres of k-means.

    Raises:
        InvalidSetting: not exactly one of the two numbers, one outside its range, or another
            method.
    """
    n = len(bank.vocabulary)
    if (n_groups is None) == (max_group is None):
        raise InvalidSetting("give n_groups or max_group: into how many, or how large, groups")
    if max_group is not None:
        if max_group < 1 or not balance:
            raise InvalidSetting("max_group is at least 1, and goes with balance=True")
        n_groups = math.ceil(n / max_group)
    assert n_groups is not None  # one of the two is given
    if not 1 <= n_groups <= n:
        raise InvalidSetting(f"n_groups is {n_groups}, it must be 1 to {n}")
    if method == "k-means":
        unit = normalize(_rows(bank), dim=1)
        labels = _k_means(unit, n_groups, balance, _weights(n, frequencies), seed)
    elif method == "hierarchical":
        labels = _linked(_rows(bank), n_groups, balance)
    else:
        raise InvalidSetting(f"method {method!r}: k-means or hierarchical")
    first: dict[int, int] = {}
    return [first.setdefault(label, len(first)) for label in labels.tolist()]


def named_groups(bank: RestorationBank, path: str | Path) -> list[int]:
    """Groups that a person has written down, by meaning: a number for each span.

    Args:
        bank: whose vocabulary they are of.
        path: a JSON list of lists of span types; one that is in none stays by itself.

    Raises:
        MissingAsset: no such file.
        InvalidSetting: something else than lists of span types, or one that is in two.
    """
    path = Path(path)
    try:
        held = json.loads(path.read_bytes())
    except OSError as error:
        raise MissingAsset(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidSetting(f"{path} is not JSON") from error
    if not isinstance(held, list) or not all(isinstance(group, list) for group in held):
        raise InvalidSetting(f"{path} must be a list of lists of span types")
    numbers = {name: number for number, name in enumerate(bank.vocabulary)}
    labels: dict[int, int] = {}
    for number, group in enumerate(held):
        for name in group:
            if not isinstance(name, str) or name not in numbers:
                raise InvalidSetting(f"group {number} of {path} names no span type of the bank")
            if numbers[name] in labels:
                raise InvalidSetting(f"a span type of group {number} of {path} is in two groups")
            labels[numbers[name]] = number
    first: dict[int, int] = {}
    return [
        first.setdefault(labels.get(span, -1 - span), len(first)) for span in range(len(numbers))
    ]


def _rows(bank: RestorationBank) -> Tensor:
    """[M, n] float64: the vector of each span."""
    return bank.vectors[list(bank.groups)].flatten(1).double()


def _weights(n: int, frequencies: Tensor | None) -> Tensor:
    if frequencies is None:
        return torch.ones(n, dtype=torch.float64)
    weights = frequencies.double()
    if weights.shape != (n,) or not bool(((weights > 0) & weights.isfinite()).all()):
        raise InvalidSetting(f"frequencies must be {n} finite numbers above 0")
    return weights


def _slots(n: int, n_groups: int) -> NDArray[np.int64]:
    """[n]: group numbers, each as often as its group has members; sizes differ by one at most."""
    return np.sort(np.arange(n) % n_groups)


def _k_means(unit: Tensor, n_groups: int, balance: bool, weights: Tensor, seed: int) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    slots = _slots(len(unit), n_groups)
    centres = _first_centres(unit, n_groups, weights, seed)
    labels = torch.full((len(unit),), -1)
    for _ in range(_ROUNDS):
        likeness = unit @ centres.T
        if balance:
            _, places = linear_sum_assignment(likeness.numpy()[:, slots], maximize=True)
            new = torch.from_numpy(slots[places])
        else:
            new = likeness.argmax(1)
            for group in set(range(n_groups)) - set(new.tolist()):
                sizes = torch.bincount(new, minlength=n_groups)
                own = likeness.gather(1, new[:, None])[:, 0]
                new[own.masked_fill(sizes[new] < 2, torch.inf).argmin()] = group
        if bool((new == labels).all()):
            break
        labels = new
        sums = torch.zeros_like(centres).index_add(0, labels, weights[:, None] * unit)
        centres = normalize(sums, dim=1)
    return labels


def _first_centres(unit: Tensor, n_groups: int, weights: Tensor, seed: int) -> Tensor:
    """K-means++: each further centre is drawn by its squared distance to those there are."""
    draw = rng("confusable bank", seed)
    chosen = [int(torch.multinomial(weights, 1, generator=draw))]
    for _ in range(n_groups - 1):
        distance = (1 - unit @ unit[chosen].T).amin(1).clamp_min(0)
        distance[chosen] = 0
        left = torch.ones(len(unit), dtype=torch.float64)
        left[chosen] = 0
        odds = weights * distance if float(distance.max()) > 1e-12 else left
        chosen.append(int(torch.multinomial(odds, 1, generator=draw)))
    return unit[chosen]


def _linked(rows: Tensor, n_groups: int, balance: bool) -> Tensor:
    from scipy.cluster.hierarchy import fcluster, leaves_list, linkage

    if len(rows) == 1:
        return torch.zeros(1, dtype=torch.int64)
    tree = linkage(rows.numpy(), "average", "cosine", optimal_ordering=True)
    if balance:
        labels = np.empty(len(rows), dtype=np.int64)
        labels[leaves_list(tree)] = _slots(len(rows), n_groups)
    else:
        labels = fcluster(tree, n_groups, "maxclust").astype(np.int64) - 1
    return torch.from_numpy(labels)
