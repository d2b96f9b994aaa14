"""Curves from known utilities, against interpolation by hand and a bootstrap written out."""

import numpy as np
import pytest
import torch

from lipogram.errors import InvalidProbes, InvalidSetting
from privacyrestore.auditing import audit
from privacyrestore.mechanisms import Exact, Full, Gaussian, Subspace
from privacyrestore.span_attacks import RECOVERY_ATTACKS
from privacyrestore.utility_curve import (
    CurvePoint,
    at_equal_recovery,
    plot_curve,
    utility_recovery_curve,
)

from .banks import loose_identity, random_bank

M = 16
BANK = random_bank(loose_identity(), [(0, 0), (1, 1), (2, 2)], M)


def drawn_sets(n, seed=0):
    draw = np.random.default_rng(seed)
    return [tuple(int(i) for i in draw.choice(M, 3, replace=False)) for _ in range(n)]


def likeness(sets):
    """A utility: the cosine of what is restored with what should be."""
    signals = torch.stack([BANK.signal(spans) for spans in sets]).float()
    return lambda meta: torch.nn.functional.cosine_similarity(meta, signals, dim=1)


def point(recalls, utilities):
    recalls, utilities = np.asarray(recalls, float), np.asarray(utilities, float)
    return CurvePoint(
        "subspace",
        1.0,
        2.0,
        float(utilities.mean()),
        (0.0, 1.0),
        float(np.nanmean(recalls)),
        (0.0, 1.0),
        "dictionary",
        utilities,
        recalls,
    )


def test_use_and_recovery_grow_together_and_the_subspace_gives_more_use_at_equal_epsilon():
    sets = drawn_sets(120)
    mechanisms = [kind(e) for kind in (Subspace, Full) for e in (5.0, 20.0, 80.0)]
    found = utility_recovery_curve(BANK, mechanisms, likeness(sets), sets)
    assert [p.mechanism for p in found] == ["subspace"] * 3 + ["full"] * 3
    for curve in (found[:3], found[3:]):
        assert [p.epsilon for p in curve] == [5.0, 20.0, 80.0]
        assert [p.local_epsilon for p in curve] == [2 * e for e in (5.0, 20.0, 80.0)]
        for of in ("utility", "recovery"):
            values = [getattr(p, of) for p in curve]
            assert values == sorted(values)
    for ours, theirs in zip(found[:3], found[3:], strict=True):
        assert ours.utility > theirs.utility
    for p in found:
        assert p.utility_interval[0] <= p.utility <= p.utility_interval[1]
        assert p.attack in RECOVERY_ATTACKS


def test_recovery_is_that_of_the_audit_on_the_same_messages():
    sets = drawn_sets(60)
    for mechanism in (Subspace(25.0), Gaussian(20.0, 1e-4), Exact(unsafe=True)):
        (found,) = utility_recovery_curve(BANK, [mechanism], likeness(sets), sets, seed=3)
        report = audit(BANK, mechanism, sets, attacks=RECOVERY_ATTACKS[:-1], seed=3)
        assert found.recovery == pytest.approx(report.recovery.value)
        assert found.attack == report.strongest
    assert found.utility == pytest.approx(1.0, abs=1e-6)


def test_rows_reach_the_evaluation_as_the_server_restores_them():
    sets = [*drawn_sets(5), ()]
    seen = []

    def evaluate(meta):
        seen.append(meta)
        return torch.ones(6)

    (found,) = utility_recovery_curve(BANK, [Exact(unsafe=True)], evaluate, sets)
    expected = torch.stack([BANK.signal(spans) for spans in sets]).float()
    torch.testing.assert_close(seen[0], expected)
    assert np.isnan(found.recalls[-1])
    assert found.recovery == 1.0


def test_curves_are_read_between_their_points():
    a = [point([0, 0, 0, 0], [1, 1, 1, 1]), point([1, 1, 1, 1], [3, 3, 3, 3])]
    b = [point([1, 0, 1, 0], [1, 2, 1, 2]), point([1, 1, 1, 1], [2, 2, 2, 2])]
    low, middle, high = at_equal_recovery(a, b, [0.25, 0.75, 1.0])
    assert (low.a, low.b, low.difference) == (1.5, None, None)
    assert (middle.a, middle.b) == (2.5, 1.75)
    assert high.difference.value == pytest.approx(1.0)
    assert high.difference.low == high.difference.high == pytest.approx(1.0)


def test_the_interval_is_a_paired_bootstrap():
    draw = np.random.default_rng(0)
    n = 80
    hard = draw.normal(size=n)  # in common: what pairing takes out
    curves = [
        [
            point(np.full(n, 0.2), hard + shift + 0.1 * draw.normal(size=n)),
            point(np.full(n, 0.8), hard + 1 + shift + 0.1 * draw.normal(size=n)),
        ]
        for shift in (0.3, 0.0)
    ]
    (found,) = at_equal_recovery(*curves, [0.5])
    a, b = (sum(p.utilities for p in curve) / 2 for curve in curves)
    assert found.difference.value == pytest.approx((a - b).mean())
    width = 2 * 1.96 * (a - b).std() / np.sqrt(n)
    assert found.difference.high - found.difference.low == pytest.approx(width, rel=0.1)
    assert found.difference.low > 0.2
    other = at_equal_recovery(*curves[::-1], [0.5])[0].difference
    assert other.value == pytest.approx(-found.difference.value)


def test_what_cannot_be_compared_is_refused():
    sets = drawn_sets(4)
    with pytest.raises(InvalidSetting):
        utility_recovery_curve(BANK, [], likeness(sets), sets)
    with pytest.raises(InvalidSetting):
        utility_recovery_curve(
            BANK, [Full(1.0)], likeness(sets), sets, attacks=["likelihood, size unknown"]
        )
    for wrong in (torch.ones(3), torch.full((4,), torch.nan)):
        with pytest.raises(InvalidSetting, match="evaluate"):
            utility_recovery_curve(BANK, [Full(1.0)], lambda _, bad=wrong: bad, sets)
    with pytest.raises(InvalidProbes):
        utility_recovery_curve(BANK, [Full(1.0)], lambda _: torch.ones(2), [(1,), ()])
    with pytest.raises(InvalidSetting):
        at_equal_recovery([], [point([1], [1])], [0.5])
    with pytest.raises(InvalidSetting):
        at_equal_recovery([point([1, 1], [1, 1])], [point([1], [1])], [0.5])


def test_a_figure_of_curves(tmp_path):
    sets = drawn_sets(20)
    curves = {
        "subspace $x": utility_recovery_curve(
            BANK, [Subspace(5.0), Subspace(50.0)], likeness(sets), sets
        ),
        "none": utility_recovery_curve(BANK, [Exact(unsafe=True)], likeness(sets), sets),
    }
    for name in ("curve.svg", "curve.png"):
        plot_curve(curves, tmp_path / name, chance=3 / M)
        assert 1000 < (tmp_path / name).stat().st_size < 200_000
    first = (tmp_path / "curve.svg").read_bytes()
    plot_curve(curves, tmp_path / "curve.svg", chance=3 / M)
    assert (tmp_path / "curve.svg").read_bytes() == first
    for bad in ({}, {"none": []}):
        with pytest.raises(InvalidSetting):
            plot_curve(bad, tmp_path / "none.svg")
    with pytest.raises(InvalidSetting):
        plot_curve(curves, tmp_path / "curve.txt")
    assert not (tmp_path / "curve.txt").exists()
