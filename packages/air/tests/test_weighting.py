"""Weights of the classes: each rule against its formula."""

import numpy as np
import pytest

from air.weighting import class_weights, normalisation
from lipogram.errors import InvalidSetting

SIZES = np.array([500.0, 20.0, 1.0, 0.0])


def test_balanced_gives_every_class_the_same_total() -> None:
    np.testing.assert_allclose((class_weights(SIZES) * SIZES)[:3], 1.0)


@pytest.mark.parametrize("beta", [0, 0.5, 1, 2.0])
def test_a_number_is_the_exponent(beta: float) -> None:
    np.testing.assert_allclose(class_weights(SIZES, beta)[:3], SIZES[:3] ** -beta)


def test_beta_one_is_air_and_beta_zero_plain_ridge() -> None:
    np.testing.assert_array_equal(class_weights(SIZES, 1), class_weights(SIZES, "balanced"))
    np.testing.assert_array_equal(class_weights(SIZES, 0), class_weights(SIZES, "none"))


def test_effective_number_of_samples() -> None:
    expected = (1 - 0.999) / (1 - 0.999 ** SIZES[:3])
    np.testing.assert_allclose(class_weights(SIZES, "effective:0.999")[:3], expected, rtol=1e-10)


def test_a_mapping_and_a_function() -> None:
    names = ["a", "b", "c", "d"]
    np.testing.assert_array_equal(
        class_weights(SIZES, {"a": 1.0, "b": 2.0, "c": 3.0}, classes=names), [1, 2, 3, 0]
    )
    np.testing.assert_array_equal(class_weights(SIZES, lambda n: n), [500, 20, 1, 0])


def test_a_class_without_rows_weighs_nothing() -> None:
    for rule in ("balanced", "none", 0.3, "effective:0.9"):
        assert class_weights(SIZES, rule)[3] == 0


def test_min_count_limits_what_a_stray_row_weighs() -> None:
    assert class_weights(SIZES, min_count=10)[2] == pytest.approx(0.1)


@pytest.mark.parametrize(
    "rule",
    ["balance", "effective:", "effective:1", "effective:x", float("nan"), float("inf"), True, None],
)
def test_rules_that_make_no_sense(rule: object) -> None:
    with pytest.raises(InvalidSetting, match="class_weight"):
        class_weights(SIZES, rule)  # type: ignore[arg-type]


def test_a_mapping_without_a_class_that_has_rows() -> None:
    with pytest.raises(InvalidSetting, match="'b'"):
        class_weights(SIZES[:2], {"a": 1.0}, classes=["a", "b"])


@pytest.mark.parametrize("bad", [lambda n: -n, lambda n: n * np.nan, lambda n: n[:1]])
def test_a_function_with_a_bad_answer(bad: object) -> None:
    with pytest.raises(InvalidSetting, match="4 classes"):
        class_weights(SIZES, bad)  # type: ignore[arg-type]


def test_normalisation_makes_the_mean_weight_one() -> None:
    weights = class_weights(SIZES)
    assert (weights * normalisation(weights, [0, 1, 2, 3]))[:3].mean() == pytest.approx(1)
    # the authors' code divides by every slot up to the largest label
    assert normalisation(weights, [0, 1, 2, 9], "slots") == pytest.approx(10 / weights.sum())
    assert normalisation(weights, [], "none") == 1


@pytest.mark.parametrize("labels", [["a", "b", "c", "d"], [-1, 0, 1, 2]])
def test_slots_need_labels_that_count_slots(labels: list[object]) -> None:
    with pytest.raises(InvalidSetting, match="slots"):
        normalisation(class_weights(SIZES), labels, "slots")  # type: ignore[arg-type]
