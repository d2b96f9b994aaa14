"""Blurry streams: some classes come once, the others leak between tasks."""

import numpy as np
from numpy.typing import ArrayLike

from lipogram.analytic.sample_labels import sample_labels
from lipogram.analytic.scenarios.task import Indices, Task, tasks_of
from lipogram.errors import InvalidSetting


def si_blurry(
    labels: ArrayLike,
    *,
    tasks: int = 5,
    disjoint: float = 0.5,
    blurry: float = 0.1,
    seed: int = 0,
    stochastic: bool = True,
    parity: bool = False,
) -> list[Task]:
    """Generalized class-incremental stream with blurry task boundaries.

    A share `disjoint` of the classes, drawn at random, belongs to one task each. Every other class
    is blurry: it has a home task, but a share `blurry` of the blurry samples is pooled, shuffled
    and dealt over the tasks. Stochastic: the numbers of classes and of pooled samples per task are
    drawn too, so a task may be small or even empty. Otherwise they are equal, and what the number
    of tasks does not divide goes to the last ones. Every sample appears exactly once.

    Args:
        labels: (n,) integers or strings.
        tasks: T, at least 1.
        disjoint: share of the classes that are disjoint, 0 to 1; rounded down to whole classes.
        blurry: share of the blurry samples that is pooled, 0 to 1.
        seed: of everything drawn.
        stochastic: draw the sizes (Si-Blurry) rather than divide equally (i-Blurry).
        parity: do as the published generator: leave out classes that T does not divide and, if not
            stochastic, pooled samples that T does not divide; pool the first samples of each task
            in the order given, not random ones.

    Raises:
        InvalidLabels: labels that are neither integers nor strings, or none.
        InvalidSetting: `tasks` < 1 or a share outside 0..1.

    Reference: Moon et al., "Online Class Incremental Learning on Stochastic Blurry Task Boundary
    via Mask and Visual Prompt Tuning", arXiv 2308.09303; the fixed form is Koh et al., "Online
    Continual Learning on Class Incremental Blurry Task Configuration with Anytime Inference",
    arXiv 2110.10031.
    """
    array = sample_labels(labels)
    if tasks < 1:
        raise InvalidSetting(f"tasks must be at least 1, got {tasks}")
    for name, share in (("disjoint", disjoint), ("blurry", blurry)):
        if not 0 <= share <= 1:
            raise InvalidSetting(f"{name} must be a share between 0 and 1, got {share}")
    rng = np.random.default_rng(seed)
    classes, position = np.unique(array, return_inverse=True)
    drawn = rng.permutation(len(classes))
    n_disjoint = _portion(len(classes), disjoint)
    n_disjoint -= n_disjoint % tasks if parity else 0
    n_blurry = len(classes) - n_disjoint
    n_blurry -= n_blurry % tasks if parity else 0

    def rows(members: Indices) -> list[Indices]:
        """Each task's samples of the classes `members`, which are divided between the tasks."""
        parts = _split(members, tasks, stochastic, rng)
        found = [np.flatnonzero(np.isin(position, part)) for part in parts]
        return found if parity else [rng.permutation(part) for part in found]

    once = rows(drawn[:n_disjoint])
    home = rows(drawn[n_disjoint : n_disjoint + n_blurry])
    if stochastic:
        pooled = _portion(sum(map(len, home)), blurry)
        shares = list(map(len, _split(np.arange(pooled), tasks, stochastic, rng)))
    else:
        shares = [_portion(len(part), blurry) for part in home]
    pool = np.concatenate([part[:share] for part, share in zip(home, shares, strict=True)])
    pool = rng.permutation(pool)
    if stochastic:
        dealt = np.split(pool, np.cumsum(shares)[:-1])
    else:
        lost = len(pool) % tasks if parity else 0
        dealt = _split(pool[: len(pool) - lost], tasks, stochastic, rng)
    chunks = [
        rng.permutation(np.concatenate([single, part[share:], extra]))
        for single, part, share, extra in zip(once, home, shares, dealt, strict=True)
    ]
    return tasks_of(chunks, array)


def _portion(total: int, share: float) -> int:
    # 0.29 * 100 is 28.999…96: the margin keeps whole percentages whole.
    return int(total * share + 1e-9)


def _split(
    members: Indices, parts: int, stochastic: bool, rng: np.random.Generator
) -> list[Indices]:
    """`members` in runs: cut at random places, or equal with the remainder in the last runs."""
    if stochastic and len(members):
        return np.split(members, np.sort(rng.integers(0, len(members), parts - 1)))
    small, larger = divmod(len(members), parts)
    sizes = [small] * (parts - larger) + [small + 1] * larger
    return np.split(members, np.cumsum(sizes)[:-1])
