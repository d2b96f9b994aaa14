"""Fixed random feature maps between the backbone and the ridge: ``x = φ(z B)``.

A buffer is defined by its settings and seed alone, so two machines that name the same settings
build the same map; its fingerprint proves it.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lipogram.analytic.blas import matmul
from lipogram.analytic.buffer_module import GaussianMap, RandomMap
from lipogram.analytic.settings import one_of, positive, whole
from lipogram.errors import InvalidFeatures, InvalidSetting

Initialisation = Literal["uniform_fan_in", "normal", "orthogonal"]
# In place on the fresh product: more memory would cost more than the activation does.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "gelu": nn.functional.gelu,
    "tanh": torch.tanh_,
    "identity": nn.Identity(),
}
LARGEST_MAP = 2**27  # numbers in B: 1 GiB, and what a state file may make its reader draw


class RandomBuffer:
    """Random projection and activation, ``x = φ(z B)`` with ``B`` (d_in, d_out) drawn once.

    ``uniform_fan_in`` draws U(−1/√d_in, 1/√d_in), the initialisation of the analytic continual
    learning family (Zhuang et al., ACIL, NeurIPS 2022); ``normal`` draws N(0, 1) as RanPAC does
    (McDonnell et al., NeurIPS 2023). A γ is not portable between the two: the features differ by a
    factor 3·d_in in power.

    Args:
        in_features: width d_in of the incoming features.
        out_features: width d_out of the map.
        init: distribution of B; ``orthogonal`` has orthonormal rows or columns.
        activation: ``"relu"``, ``"gelu"``, ``"tanh"`` or ``"identity"``.
        scale: factor on B.
        seed: seed of the draw; the same on every device.

    Raises:
        InvalidSetting: a width below 1, more than 2²⁷ numbers in B, an unknown name, a scale that
            is not finite and positive, or a seed that is no integer of at least 0.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        init: Initialisation = "uniform_fan_in",
        activation: str = "relu",
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.in_features = whole("in_features", in_features)
        self.out_features = whole("out_features", out_features)
        if self.in_features * self.out_features > LARGEST_MAP:
            raise InvalidSetting(
                f"a map from {in_features} to {out_features} features has more than "
                f"{LARGEST_MAP:,} weights: take fewer"
            )
        self.init = one_of("init", init, get_args(Initialisation))
        self.activation = one_of("activation", activation, ACTIVATIONS)
        self.scale, self.seed = positive("scale", scale), whole("seed", seed, least=0)
        self.weight = _draw(self.in_features, self.out_features, self.init, self.seed)
        self.weight.mul_(self.scale)

    def __call__(self, features: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
        """Map features (n, d_in) to (n, d_out) float64 on their device."""
        check_width(features, self.in_features)
        weight = self.weight.to(features.device)
        return ACTIVATIONS[self.activation](matmul(features.to(torch.float64), weight))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights as little-endian float32 and of the activation's name."""
        return _fingerprint(self.activation, self.weight)

    def settings(self) -> dict[str, Any]:
        """What :func:`buffer_from_settings` needs to build this buffer again, as JSON values."""
        return {
            "kind": "random",
            "in_features": self.in_features,
            "out_features": self.out_features,
            "init": self.init,
            "activation": self.activation,
            "scale": self.scale,
            "seed": self.seed,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Nothing: settings and seed say it all."""
        return {}

    def as_module(self) -> nn.Module:
        """The map as a float32 module for export."""
        return RandomMap(self.weight.float(), self.activation)


class GaussianKernelBuffer:
    """Gaussian kernel features ``x_j = exp(−‖z − μ_j‖² / (2σ²))``.

    Source: Zhuang et al., GKEAL, CVPR 2023.

    Args:
        centres: (m, d_in), rows of the first task as a rule; see :meth:`from_rows`.
        sigma: width σ > 0, in units of the features; 5 to 15 for pooled backbone features.

    Raises:
        InvalidSetting: σ is not finite and positive, or the centres are no finite matrix.
    """

    def __init__(self, centres: Tensor, *, sigma: float = 10.0) -> None:
        self.sigma = positive("sigma", sigma)
        if centres.ndim != 2 or not centres.numel() or not bool(torch.isfinite(centres).all()):
            raise InvalidSetting("centres must be a finite matrix with at least one row")
        self.centres = centres.detach().to("cpu", torch.float64).clone()
        self.out_features, self.in_features = self.centres.shape

    @classmethod
    def from_rows(
        cls, rows: Float[Tensor, "n i"], out_features: int, *, sigma: float = 10.0, seed: int = 0
    ) -> "GaussianKernelBuffer":
        """Centres drawn without replacement from all the rows (n, d_in).

        Raises:
            InvalidSetting: more centres than rows, or none.
        """
        if not 1 <= out_features <= rows.shape[0]:
            raise InvalidSetting(
                f"{out_features} centres from {rows.shape[0]} rows: give at least as many rows"
            )
        order = torch.randperm(rows.shape[0], generator=torch.Generator().manual_seed(seed))
        return cls(rows[order[:out_features].to(rows.device)], sigma=sigma)

    def __call__(self, features: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
        """Map features (n, d_in) to (n, m) float64 on their device."""
        check_width(features, self.in_features)
        z, mu = features.to(torch.float64), self.centres.to(features.device)
        squared = z.square().sum(1)[:, None] + mu.square().sum(1) - 2 * matmul(z, mu.T.contiguous())
        return torch.exp(squared.clamp(min=0) / (-2 * self.sigma**2))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the centres as little-endian float32 and of σ."""
        return _fingerprint(f"gaussian {self.sigma!r}", self.centres)

    def settings(self) -> dict[str, Any]:
        """What :func:`buffer_from_settings` needs beside :meth:`tensors`, as JSON values."""
        return {"kind": "gaussian", "sigma": self.sigma}

    def tensors(self) -> dict[str, Tensor]:
        """The centres, (m, d_in) float64."""
        return {"centres": self.centres}

    def as_module(self) -> nn.Module:
        """The map as a float32 module for export."""
        return GaussianMap(self.centres.float(), self.sigma)


Buffer = RandomBuffer | GaussianKernelBuffer


def buffer_from_settings(settings: dict[str, Any], tensors: dict[str, Tensor]) -> Buffer:
    """The buffer whose ``settings()`` and ``tensors()`` are given."""
    kind, rest = settings["kind"], {k: v for k, v in settings.items() if k != "kind"}
    if kind == "random":
        return RandomBuffer(rest.pop("in_features"), rest.pop("out_features"), **rest)
    if kind == "gaussian":
        return GaussianKernelBuffer(tensors["centres"], **rest)
    raise InvalidSetting(f"unknown buffer kind {kind!r}: random or gaussian")


def check_width(features: Tensor, expected: int) -> None:
    """Raise InvalidFeatures unless features is a matrix of the expected width."""
    if features.ndim != 2 or features.shape[1] != expected:
        raise InvalidFeatures(
            f"features have shape {tuple(features.shape)}, this map takes (n, {expected})"
        )


def _draw(rows: int, columns: int, init: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if init == "uniform_fan_in":
        unit = torch.rand(rows, columns, dtype=torch.float64, generator=generator)
        return unit.mul_(2).sub_(1).div_(rows**0.5)
    gaussian: Tensor = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    if init == "normal":
        return gaussian
    tall = gaussian if rows >= columns else gaussian.T
    q, r = torch.linalg.qr(tall)
    q = q * r.diagonal().sign()  # the sign makes the draw uniform over the orthogonal group
    made: Tensor = q if rows >= columns else q.T
    return made.contiguous()


def _fingerprint(description: str, values: Tensor) -> str:
    digest = hashlib.sha256(f"{description} {tuple(values.shape)} ".encode())
    digest.update(values.numpy().astype("<f4").tobytes())
    return digest.hexdigest()
