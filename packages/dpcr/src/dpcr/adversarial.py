"""Drift of a class whose images are gone, from present images bent until they look like it.

Adversarial drift compensation (Goswami et al., "Resurrecting Old Classes with New Data for
Exemplar-Free Continual Learning", CVPR 2024, arXiv 2405.19074): the present images that lie nearest
to an old prototype are moved, by gradient steps in pixels, towards it in the old network's feature
space; what the new network makes of them tells where the class went.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpcr.task_context import Images, Network
from lipogram.analytic.settings import positive, whole
from lipogram.errors import InvalidFeatures


@dataclass(frozen=True)
class Attack:
    """How present images are bent.

    Attributes:
        samples: present images to a prototype, the nearest ones; 100 is the authors'.
        steps: gradient steps; 3 is the authors'.
        step: length of a step for one image, as a share of its norm when every pixel deviates by
            one standard deviation. The authors' 25 for 100 normalised CIFAR images together is
            2.5 an image, whose norm is 55: 0.045.

    Raises:
        InvalidSetting: a setting outside its values.
    """

    samples: int = 100
    steps: int = 3
    step: float = 0.045

    def __post_init__(self) -> None:
        whole("samples", self.samples)
        whole("steps", self.steps)
        positive("step", self.step)


@dataclass(frozen=True, eq=False)
class Drift:
    """Where prototypes went.

    Attributes:
        by_class: (k, d) float64, what to add to each prototype.
        hits: images of each attack that ended nearest to their prototype, (k,).
        tries: images to an attack.
    """

    by_class: Tensor
    hits: list[int]
    tries: int


def adversarial_drift(
    prototypes: Tensor,
    old_features: Tensor,
    images: Images,
    old_network: Network,
    new_network: Network,
    attack: Attack | None = None,
) -> Drift:
    r"""Mean drift :math:`f_t(x) - f_{t-1}(x)` of the images bent towards each prototype.

    A step is :math:`x \leftarrow x - s\sqrt m\, g/\|g\|` with g the gradient of
    :math:`\frac1m\sum\|f_{t-1}(x) - p\|^2` over the m images together; pixels stay in the range
    that the chosen images of all classes have. Only images that end nearer to their own prototype
    than to any other count; where there is none, all of them do (the released code takes the drift
    of the class before then).

    Args:
        prototypes: (k, d) of the old classes in the old network's space.
        old_features: (n, d) of the present images under the old network.
        images: the images at positions (m,), on the networks' device.
        old_network: images (m, …) to features (m, d), differentiable.
        new_network: the same after training, of the same width.
        attack: settings.

    Raises:
        InvalidFeatures: no present image, or networks of different widths.
    """
    attack = attack or Attack()
    if not len(old_features):
        raise InvalidFeatures("adversarial drift needs images of the present task, there are none")
    ordered = torch.cdist(prototypes.double(), old_features.double()).argsort(dim=1, stable=True)
    chosen = ordered[:, : attack.samples].cpu().numpy()
    found = [images(row).float() for row in chosen]
    low, high = min(float(x.min()) for x in found), max(float(x.max()) for x in found)
    pixels = torch.stack([x.std() for x in found]).mean()
    targets = prototypes.to(found[0])
    drifts, hits = [], []
    for c, x in enumerate(found):
        length = attack.step * float(pixels) * (x[0].numel() * len(x)) ** 0.5
        for _ in range(attack.steps):
            x = (x - length * _direction(x, old_network, targets[c])).clamp(low, high)
        with torch.no_grad():
            before, after = old_network(x), new_network(x)
        if before.shape != after.shape:
            raise InvalidFeatures(
                f"adversarial drift is a difference of features, but the networks' widths are "
                f"{before.shape[1]} and {after.shape[1]}"
            )
        hit = torch.cdist(before, targets).argmin(1) == c
        kept = hit if bool(hit.any()) else torch.ones_like(hit)
        drifts.append((after - before)[kept].double().mean(0))
        hits.append(int(hit.sum()))
    return Drift(torch.stack(drifts).to(prototypes.device), hits, chosen.shape[1])


def _direction(x: Tensor, network: Network, target: Tensor) -> Tensor:
    """The unit gradient of the squared distance to a prototype; 0 where it vanishes."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        loss = (network(x) - target).square().mean()
        (gradient,) = torch.autograd.grad(loss, x)
    norm = gradient.norm()
    return gradient / norm if float(norm) > 0 else torch.zeros_like(gradient)
