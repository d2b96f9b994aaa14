"""Which rows share a forward pass."""

from __future__ import annotations

from collections.abc import Sequence


def length_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Rows of like lengths together, each batch padded to `budget` tokens at most.

    Args:
        lengths: tokens of each row.
        budget: rows times longest row of a batch; a longer row is a batch of its own.

    Returns:
        Row numbers, each once; shortest rows first.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batches and (len(batches[-1]) + 1) * lengths[row] <= budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def replay_groups(lengths: Sequence[int], per_pass: float) -> list[list[int]]:
    """Rows that take their next token in one pass.

    The places of a cache are its positions, so rows of different lengths share a pass from the
    shortest row's end on: the others' last tokens are replayed. The cost of a group is one pass and
    the tokens that it runs over; the sum over groups is the least there is.

    Args:
        lengths: tokens that each row's cache holds.
        per_pass: what a pass costs beside its tokens, in tokens.

    Returns:
        Row numbers, each once and rising in a group; groups of rising lengths.
    """
    distinct = sorted(set(lengths))
    rows_of = {length: [r for r, n in enumerate(lengths) if n == length] for length in distinct}
    best, cut = [0.0], [0]  # of the first i lengths: least cost, and where the last group starts
    for stop in range(1, len(distinct) + 1):
        costs, rows = {}, 0
        for start in range(stop - 1, -1, -1):
            rows += len(rows_of[distinct[start]])
            width = distinct[stop - 1] - distinct[start] + 1
            costs[start] = best[start] + per_pass + rows * width
        chosen = min(costs, key=costs.__getitem__)
        best.append(costs[chosen])
        cut.append(chosen)
    groups: list[list[int]] = []
    stop = len(distinct)
    while stop:
        span = distinct[cut[stop] : stop]
        groups.insert(0, sorted(row for length in span for row in rows_of[length]))
        stop = cut[stop]
    return groups
