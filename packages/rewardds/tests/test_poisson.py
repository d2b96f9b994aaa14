import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting
from lipogram.secure_noise import secure_stream
from rewardds.poisson import physical_batches, sample


def test_every_record_falls_by_a_coin_of_its_own():
    stream, n, rate, steps = secure_stream(0), 40, 0.2, 4000
    taken = np.zeros((steps, n))
    for step in range(steps):
        taken[step, sample(stream, n, rate)] = 1
    deviation = np.sqrt(rate * (1 - rate))
    assert np.abs(taken.mean(0) - rate).max() < 5 * deviation / np.sqrt(steps)
    sizes = taken.sum(1)
    assert sizes.var() == pytest.approx(n * rate * (1 - rate), rel=0.12)  # no fixed size
    together = np.corrcoef(taken.T) - np.eye(n)
    assert np.abs(together).max() < 6 / np.sqrt(steps)
    assert np.abs((taken[1:] * taken[:-1]).mean() - rate**2) < 0.01  # nor a shuffled epoch


def test_rates_at_the_ends():
    assert sample(secure_stream(), 5, 0.0) == []
    assert sample(secure_stream(), 3, 1.0) == [0, 1, 2]
    with pytest.raises(InvalidSetting, match=r"1\.5"):
        sample(secure_stream(), 3, 1.5)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 7))
def test_batches_are_the_sample_once_and_alike_in_length(lengths, size):
    places = [place for place in range(len(lengths)) if place % 3]
    batches = physical_batches(places, lengths, size)
    assert sorted(place for batch in batches for place in batch) == places
    assert all(1 <= len(batch) <= size for batch in batches)
    found = [lengths[place] for batch in batches for place in batch]
    assert found == sorted(found, reverse=True)
