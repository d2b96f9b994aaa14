"""What a study trains and tests on: a network and labelled samples, from wherever they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipogram.analytic.labels import Label
from lipogram.analytic.sample_labels import sample_labels
from lipogram.errors import InvalidFeatures, InvalidLabels


class Samples(Protocol):
    """A tensor (n, …), or a torch Dataset of samples or of (sample, …) tuples."""

    def __len__(self) -> int:
        """How many."""

    def __getitem__(self, position: Any, /) -> Any:
        """The sample at a position."""


@dataclass(frozen=True, eq=False)
class StudyData:
    """A network to train, and what it is trained and tested on.

    Attributes:
        name: what tables and the run's settings call it; name the data as well as the network.
        network: makes an untrained (or pretrained) network from a seed; samples (b, …) to features
            (b, d).
        train: samples as the network takes them, un-augmented; a tensor or a torch Dataset.
        train_labels: (n,) integers or strings.
        test, test_labels: the same, (m,).
        class_names: what a label is called in a table; () for the labels themselves.
        augmented: what the network is trained on instead of ``train``, of the same length: a
            Dataset that draws anew each time. None trains on ``train``.
        augment: changes a batch of training samples at random, (b, …) and a generator to (b, …);
            None for no change.

    Raises:
        InvalidFeatures: no sample, or not one label a sample.
        InvalidLabels: labels of another kind, or tested classes that are never trained.
    """

    name: str
    network: Callable[[int], nn.Module]
    train: Samples
    train_labels: NDArray[Any]
    test: Samples
    test_labels: NDArray[Any]
    class_names: tuple[str, ...] = ()
    augmented: Samples | None = None
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be studied."""
        known = sample_labels(self.train_labels)
        tested = sample_labels(self.test_labels, like=known)
        for name, samples, labels in (
            ("training", self.train, known),
            ("test", self.test, tested),
            ("augmented", self.augmented, known),
        ):
            if samples is not None and len(samples) != len(labels):
                raise InvalidFeatures(f"{len(samples)} {name} samples, {len(labels)} labels")
        strange = set(tested.tolist()) - set(known.tolist())
        if strange:
            raise InvalidLabels(
                f"class {sorted(strange)[0]!r} is tested, but there is no training sample of it"
            )
        object.__setattr__(self, "train_labels", known)
        object.__setattr__(self, "test_labels", tested)

    def called(self, label: Label) -> str:
        """What a table calls a class."""
        if self.class_names and isinstance(label, int) and 0 <= label < len(self.class_names):
            return self.class_names[label]
        return str(label)


def taken(samples: Samples, rows: NDArray[Any]) -> Tensor:
    """The samples at positions (b,) as one tensor (b, …)."""
    if isinstance(samples, Tensor):
        return samples[torch.from_numpy(np.asarray(rows, dtype=np.int64))]
    each = [samples[int(row)] for row in rows]
    return torch.stack([torch.as_tensor(s[0] if isinstance(s, tuple | list) else s) for s in each])


@torch.inference_mode()
def features_under(
    network: nn.Module,
    samples: Samples,
    rows: NDArray[Any],
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Features (n, d) float32 on the CPU of the samples at positions (n,), network in eval mode.

    Raises:
        InvalidFeatures: no position, or features that are no matrix.
    """
    if not len(rows):
        raise InvalidFeatures("there is no sample to look at")
    was_training = network.training
    network.eval()
    parts = []
    for start in range(0, len(rows), batch_size):
        batch = taken(samples, rows[start : start + batch_size]).to(device)
        parts.append(network(batch).float().cpu())
    network.train(was_training)
    features = torch.cat(parts)
    if features.ndim != 2:
        raise InvalidFeatures(
            f"the network gives {tuple(features.shape)}, features must be a matrix (n, d): does it "
            "still end in its classifier or a map?"
        )
    return features


def seeded(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    """A maker of networks whose initial weights follow from a seed and from nothing else.

    The global generator is left as it was.
    """

    def made(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make()

    return made


def digits_data(network: Callable[[int], nn.Module], seed: int = 0) -> StudyData:
    """Scikit-learn's handwritten digits, 8 × 8 pixels in [0, 1] as rows of 64; a fifth is tested.

    Args:
        network: see :class:`StudyData`; the samples are (b, 64).
        seed: of the split, which keeps the classes' shares.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        pixels.astype(np.float32) / 16, labels, test_size=0.2, random_state=seed, stratify=labels
    )
    return StudyData(
        "digits",
        network,
        torch.from_numpy(x),
        y,
        torch.from_numpy(x_test),
        y_test,
        tuple(map(str, range(10))),
    )
