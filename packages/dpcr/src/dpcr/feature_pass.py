"""One pass over samples, through one network or through two, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dpcr.randomness import drawn_from, generator_of
from dpcr.sample_batches import SampleBatches
from dpcr.study_data import Samples
from lipogram.errors import InvalidFeatures

Augment = Callable[[Tensor, torch.Generator], Tensor]
BATCH = 256  # samples to a forward pass without gradients
Show = Callable[[NDArray[np.int64], list[Tensor]], None]


@torch.no_grad()
def show_features(
    networks: Sequence[nn.Module],
    samples: Samples,
    show: Show,
    *,
    rows: NDArray[np.int64] | None = None,
    batch_size: int = BATCH,
    workers: int = 0,
    device: torch.device | str = "cpu",
    augment: Augment | None = None,
    numbers: tuple[int, ...] = (0,),
) -> None:
    """Look at samples in their order, each batch through every network.

    Args:
        networks: samples (b, …) to features (b, d), on the device; they are put in eval mode.
        samples: a tensor or a Dataset.
        show: told the positions (b,) of a batch and its features, one (b, d) a network.
        rows: (n,) positions to look at; None for all.
        batch_size: samples to a batch.
        workers: processes that read a Dataset.
        device: where the networks are.
        augment: changes a batch at random; the networks see the same change.
        numbers: what random choices follow from.

    Raises:
        InvalidFeatures: a network makes no matrix (b, d), or NaN or infinity; samples are named.
    """
    rows = np.arange(len(samples)) if rows is None else rows
    positions = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    for network in networks:
        network.eval()
    with drawn_from(*numbers, device=device):
        generator = generator_of(*numbers)
        loader: Any = DataLoader(
            SampleBatches(samples, positions),
            batch_size=None,
            num_workers=0 if isinstance(samples, Tensor) else workers,
            generator=generator_of(*numbers),
        )
        for batch, where in zip(loader, positions, strict=True):
            x = batch.to(device)
            if augment is not None:
                x = augment(x, generator)
            show(where, [_checked(network(x), where) for network in networks])


def features_of(network: nn.Module, samples: Samples, **options: Any) -> Tensor:
    """Features (n, d) on the CPU; the options are those of :func:`show_features`.

    Raises:
        InvalidFeatures: no sample, and see there.
    """
    parts: list[Tensor] = []
    show_features([network], samples, lambda where, each: parts.append(each[0].cpu()), **options)
    if not parts:
        raise InvalidFeatures("there is no sample to look at")
    return torch.cat(parts)


def _checked(features: Any, where: NDArray[np.int64]) -> Tensor:
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(where):
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InvalidFeatures(
            f"the network gives {shape} for {len(where)} samples, features must be a matrix "
            "(n, d): does it still end in its classifier or a map?"
        )
    bad = torch.nonzero(~torch.isfinite(features).all(1))
    if bad.numel():
        raise InvalidFeatures(
            f"features of sample {where[int(bad[0])]} (in the batch of samples {where[0]} to "
            f"{where[-1]}) are NaN or infinite"
        )
    return features
