"""Every intervention at every window of layers, each run from the first block that it touches.

Nothing before the window differs between the unlearned model and the unlearned model under the
intervention, so a run may start at the window's first block, from the recorded input of that block;
its logits are those of the full run bit for bit. Each measurement is kept as soon as it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ftunlearn.answers import Answered, ProbeBatch, batched, scored_logits
from ftunlearn.components import Component, window
from ftunlearn.pair import ModelPair
from ftunlearn.scores import MEASURES, Yardstick, scored_rows
from lipogram.llm.memory import is_out_of_memory
from lipogram.llm.patching import patch
from lipogram.llm.recording import record
from lipogram.llm.running import run_from

WHOLE = -1
"""The place of an intervention in all layers at once."""


@dataclass(frozen=True)
class Job:
    """One intervention at one place.

    Attributes:
        component: what is replaced.
        centre: the window's middle, or `WHOLE`.
        layers: blocks of the window; None, with `WHOLE`, is everything.
    """

    component: Component
    centre: int
    layers: range | None


@dataclass(frozen=True)
class Sweep:
    """What was measured.

    Attributes:
        jobs: interventions and places, j of them.
        measured: (j, n, 9) float64 of :data:`ftunlearn.scores.MEASURES`; NaN for a probe that was
            left out.
    """

    jobs: tuple[Job, ...]
    measured: NDArray[np.float64]

    def of(self, component: str) -> tuple[list[int], NDArray[np.float64]]:
        """Centres (w) and measurements (w, n, 9) of a component's windows."""
        chosen = [
            i
            for i, job in enumerate(self.jobs)
            if job.component.name == component and job.centre != WHOLE
        ]
        return [self.jobs[i].centre for i in chosen], self.measured[chosen]

    def whole(self, component: str) -> NDArray[np.float64]:
        """(n, 9), the component in all layers."""
        (index,) = (
            i
            for i, job in enumerate(self.jobs)
            if job.component.name == component and job.centre == WHOLE
        )
        return self.measured[index]


Keep = Callable[[Job, tuple[int, ...], NDArray[np.float64]], None]
"""Told of each finished measurement: the job, the probes' places, (b, 9)."""


def plan(
    components: Iterable[Component],
    whole: Iterable[Component],
    *,
    n_layers: int,
    size: int = 5,
    stride: int = 1,
) -> tuple[Job, ...]:
    """Every component at every `stride`-th window, then those in all layers at once."""
    jobs = [
        Job(component, centre, window(centre, size, n_layers))
        for component in components
        for centre in range(0, n_layers, stride)
    ]
    return (*jobs, *(Job(component, WHOLE, None) for component in whole))


def sweep(
    pair: ModelPair,
    answered: Sequence[Answered],
    jobs: Sequence[Job],
    *,
    max_tokens: int,
    positions: str = "all",
    done: dict[tuple[str, int], dict[int, list[float]]] | None = None,
    keep: Keep = lambda job, places, values: None,
    tick: Callable[[], None] = lambda: None,
) -> Sweep:
    """Measure every job on every probe that is not excluded.

    Args:
        pair: vanilla and unlearned.
        answered: n probes.
        jobs: of :func:`plan`.
        max_tokens: padded tokens of a batch; halved when memory runs out.
        positions: which tokens' activations are replaced: all, those of the prompt, or those of the
            answer.
        done: by component and centre, the measurements of probes that an interrupted sweep left.
        keep: told of each finished measurement.
        tick: called once a job and batch.

    Raises:
        NotFinite: logits that are NaN or infinite.
    """
    measured = np.full((len(jobs), len(answered), len(MEASURES)), np.nan)
    for j, job in enumerate(jobs):
        for place, held in (done or {}).get((job.component.name, job.centre), {}).items():
            measured[j, place] = held
    places = [i for i, item in enumerate(answered) if item.excluded is None]
    queue = batched(answered, pair, max_tokens=max_tokens, positions=places)
    queue = _share(queue)
    while queue:
        group = queue.pop(0)
        missing = [
            j for j in range(len(jobs)) if np.isnan(measured[j, list(group.positions)]).any()
        ]
        if not missing:
            for _ in jobs:
                tick()
            continue
        try:
            for j, values in _measure(pair, group, jobs, missing, positions):
                measured[j, list(group.positions)] = values
                keep(jobs[j], group.positions, values)
                tick()
        except (RuntimeError, MemoryError) as error:
            if len(group.positions) == 1 or not is_out_of_memory(error):
                raise
            half = max(1, group.batch.input_ids.numel() // 2)
            queue[:0] = batched(answered, pair, max_tokens=half, positions=group.positions)
    return Sweep(tuple(jobs), _gathered(measured))


def _measure(
    pair: ModelPair, group: ProbeBatch, jobs: Sequence[Job], missing: list[int], positions: str
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    rows = scored_rows(group.batch, group.answer_lengths)
    sites = {site for j in missing for site in jobs[j].component.sites}
    everywhere = range(pair.n_layers)
    with torch.inference_mode():
        with (
            pair.as_vanilla() as model,
            record(model, [(site, layer) for site in sites for layer in everywhere]) as states,
        ):
            yardstick = Yardstick(scored_logits(model, group, rows), rows, pair.vocabulary)
        with record(pair.unlearned, [("resid_in", layer) for layer in everywhere]) as starts:
            plain = scored_logits(pair.unlearned, group, rows)
        mask = _replaced(group, positions)
        for j in missing:
            job = jobs[j]
            if job.component.is_nothing:
                yield j, yardstick.measure(plain)
                continue
            first = 0 if job.layers is None else job.layers[0]
            layers = everywhere if job.layers is None else job.layers
            places = [(site, layer) for site in job.component.sites for layer in layers]
            values = {place: states[place] for place in places}
            groups = job.component.groups
            with ExitStack() as changes:
                if groups:
                    changes.enter_context(pair.restored(groups, job.layers))
                if first > 0:
                    changes.enter_context(
                        run_from(pair.unlearned, first, starts["resid_in", first])
                    )
                if values:
                    changes.enter_context(patch(pair.unlearned, values, positions=mask))
                logits = scored_logits(pair.unlearned, group, rows)
            yield j, yardstick.measure(logits)


def _replaced(group: ProbeBatch, positions: str) -> Tensor | None:
    if positions == "all":
        return None
    answer = group.batch.answer_mask
    return answer if positions == "answer" else ~answer


def _share(queue: list[Any]) -> list[Any]:
    """This process's part of the batches, where several work together."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return queue
    return queue[torch.distributed.get_rank() :: torch.distributed.get_world_size()]


def _gathered(measured: NDArray[np.float64]) -> NDArray[np.float64]:
    """What all processes measured: each probe was measured by one of them."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return measured
    present = torch.from_numpy(~np.isnan(measured)).double()
    values = torch.from_numpy(np.nan_to_num(measured))
    for tensor in (present, values):
        torch.distributed.all_reduce(tensor)
    return np.where(present.numpy() > 0, values.numpy() / np.maximum(present.numpy(), 1), np.nan)
