"""Many logistic regressions at once: Newton's method on a batch of small problems.

A model has N·H head sites and a vocabulary M span types; their N·H·M probes are independent and of
one size for each span, so that they are solved together, by a handful of batched factorisations.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lipogram.errors import InvalidSetting, NotFinite

RIDGE = 1e-3
"""Of :func:`probe_accuracies`: features then have a mean square of 1, so separable data, whose
unpenalised weights would be infinite, give finite ones, and others change in the third digit."""

_HALVINGS = 30


def fit_probes(
    features: Tensor,
    labels: Tensor,
    *,
    ridge: float = RIDGE,
    tolerance: float = 1e-9,
    iterations: int = 100,
) -> tuple[Tensor, Tensor]:
    """Minimise Σ_i log(1 + e^{−s_i(⟨w, x_i⟩ + b)}) + (ridge/2)·‖w‖² for each of S problems.

    s is ±1; b is not penalised. The same as scikit-learn's `LogisticRegression(C=1/ridge)`. Newton
    steps are halved where they would not descend, each problem by itself.

    Args:
        features: [S, r, d], r rows of each problem.
        labels: [r] bool, the same for all problems; both values must occur.
        ridge: above 0.
        tolerance: a problem is solved once no entry of its gradient exceeds this share of r.
        iterations: of Newton's method, at most.

    Returns:
        w [S, d] and b [S], float64, on the features' device.

    Raises:
        InvalidSetting: shapes that do not fit, one label only, or a ridge not above 0.
        NotFinite: NaN or infinity among the features.
    """
    if features.ndim != 3 or labels.shape != features.shape[1:2] or labels.dtype != torch.bool:
        raise InvalidSetting(
            f"features must be [S, r, d] and labels bool [r], got {list(features.shape)} and "
            f"{labels.dtype} {list(labels.shape)}"
        )
    if not (bool(labels.any()) and bool((~labels).any())):
        raise InvalidSetting("a probe needs rows of both labels")
    if not ridge > 0:
        raise InvalidSetting(f"ridge is {ridge!r}, it must be above 0")
    if not bool(torch.isfinite(features).all()):
        raise NotFinite("the probes' features hold NaN or infinity")
    rows = features.double()
    _, r, d = rows.shape
    if r >= d:
        return _newton(rows, labels, ridge, tolerance, iterations)
    # Fewer rows than features: the best w lies in the rows' span, where ‖w‖ is the same.
    basis, triangle = torch.linalg.qr(rows.mT)
    w, b = _newton(triangle.mT, labels, ridge, tolerance, iterations)
    return torch.einsum("sdr,sr->sd", basis, w), b


def probe_accuracies(
    features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor
) -> Tensor:
    """Share of test rows that a probe fitted on `features` gets right, [S] float64.

    Each problem's features are centred and divided by one number, their root mean square, which
    changes no unpenalised probe and gives `RIDGE` one meaning at all sites.

    Args:
        features: [S, r, d].
        labels: [r] bool.
        test_features: [S, t, d].
        test_labels: [t] bool.

    Raises:
        InvalidSetting, NotFinite: as :func:`fit_probes`.
    """
    rows = features.double()
    centre = rows.mean(1, keepdim=True)
    scale = (rows - centre).square().mean((1, 2), keepdim=True).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    w, b = fit_probes((rows - centre) / scale, labels)
    scores = torch.einsum("std,sd->st", (test_features.double() - centre) / scale, w) + b[:, None]
    return ((scores > 0) == test_labels).double().mean(1)


def _newton(
    rows: Tensor, labels: Tensor, ridge: float, tolerance: float, iterations: int
) -> tuple[Tensor, Tensor]:
    s, r, d = rows.shape
    rows = torch.cat([rows, rows.new_ones(s, r, 1)], 2)
    target = labels.to(rows)
    sign = 2 * target - 1
    penalty = rows.new_full((d + 1,), ridge)
    penalty[-1] = 0

    def loss(at: Tensor) -> Tensor:
        scores = torch.einsum("sri,si->sr", rows, at)
        return -logsigmoid(sign * scores).sum(1) + (penalty * at.square()).sum(1) / 2

    found = rows.new_zeros(s, d + 1)
    value = loss(found)
    for _ in range(iterations):
        chance = torch.einsum("sri,si->sr", rows, found).sigmoid()
        gradient = torch.einsum("sri,sr->si", rows, chance - target) + penalty * found
        open_ = gradient.abs().amax(1) > tolerance * r
        if not bool(open_.any()):
            break
        curvature = torch.einsum("sri,sr,srj->sij", rows, chance * (1 - chance), rows)
        curvature.diagonal(dim1=1, dim2=2).add_(penalty)
        # Far out all chances are 0 or 1 and nothing bends the intercept's direction.
        curvature[:, -1, -1] += 1e-12 * r
        step = torch.linalg.solve(curvature, gradient)
        share = open_.to(rows)
        for _ in range(_HALVINGS):
            trial = loss(found - share[:, None] * step)
            worse = ~(trial <= value) & open_
            if not bool(worse.any()):
                break
            share = torch.where(worse, share / 2, share)
        better = loss(found - share[:, None] * step)
        moved = open_ & (better <= value)
        if not bool(moved.any()):
            break  # at the end of float64
        found = torch.where(moved[:, None], found - share[:, None] * step, found)
        value = torch.where(moved, better, value)
    return found[:, :-1], found[:, -1]
