import copy
import gc
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipogram.analytic.gram import (
    DenseGram,
    FactorGram,
    MemmapGram,
    PackedGram,
    empty_gram,
    from_lower,
    from_tensor,
)
from lipogram.analytic.gram_store import GramStore
from lipogram.errors import InvalidSetting, OverBudget

STORAGES = ["dense", "packed", "memmap", "factor"]
D = 5


def random_rows(n, d=D, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def filled(storage, *counts, d=D):
    gram = empty_gram(d, storage)
    for seed, n in enumerate(counts):
        gram.add_rows(random_rows(n, d, seed))
    return gram


def product(*counts, d=D):
    rows = torch.cat([random_rows(n, d, seed) for seed, n in enumerate(counts)])
    return rows.T @ rows


def close(a, b, rtol=1e-12):
    return torch.allclose(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


@pytest.mark.parametrize("storage", STORAGES)
@settings(max_examples=25)
@given(st.lists(st.integers(0, 12), max_size=6))
def test_every_storage_holds_the_product_of_its_rows(storage, counts):
    gram = filled(storage, *counts)
    expected = product(*counts) if counts else torch.zeros(D, D, dtype=torch.float64)
    assert close(gram.full(), expected)
    assert close(gram.diagonal(), expected.diagonal())
    assert close(gram.lower().tril(), expected.tril())


@pytest.mark.parametrize("mine", STORAGES)
@pytest.mark.parametrize("theirs", STORAGES)
@pytest.mark.parametrize("n", [0, 2, 40])  # none, fewer than d, and more than a factor keeps
def test_storages_add_and_subtract_each_other(mine, theirs, n):
    gram, other = filled(mine, 7), empty_gram(D, theirs)
    other.add_rows(random_rows(n, seed=9))
    second = random_rows(n, seed=9)
    expected = product(7) + second.T @ second
    gram.add(other)
    assert close(gram.full(), expected)
    gram.subtract(other)
    assert close(gram.full(), product(7), 1e-11)
    gram.add(other, 2.5)
    assert close(gram.full(), product(7) + 2.5 * second.T @ second, 1e-11)
    assert close(other.full(), second.T @ second)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_copy_is_independent(storage):
    gram = filled(storage, 3)
    before = gram.full()
    twin = gram.copy()
    assert type(twin) is type(gram)
    twin.add_rows(random_rows(2, seed=5))
    assert torch.equal(gram.full(), before)
    assert not close(twin.full(), before)


@pytest.mark.parametrize("storage", STORAGES)
def test_the_rows_are_the_callers_again(storage):
    rows = random_rows(3)
    gram = empty_gram(D, storage)
    gram.add_rows(rows)
    before = gram.full()
    rows.zero_()
    assert torch.equal(gram.full(), before)


@pytest.mark.parametrize("storage", STORAGES)
def test_transport_is_the_product_of_the_moved_rows(storage):
    operator = random_rows(D, 3, seed=8)
    moved = filled(storage, 7).transport(operator)
    rows = random_rows(7) @ operator
    assert moved.storage == storage
    assert moved.n_features == 3
    assert close(moved.full(), rows.T @ rows)


@pytest.mark.parametrize("storage", STORAGES)
def test_tensor_and_lower_round_trips(storage):
    gram = filled(storage, 7)
    assert torch.equal(from_tensor(gram.tensor(), D, storage).full(), gram.full())
    assert close(from_lower(gram.lower(), storage).full(), gram.full())
    assert gram.nbytes == gram.tensor().numel() * 8


def test_bytes_of_each_storage():
    assert filled("dense", 7).nbytes == 8 * D * D
    assert filled("packed", 7).nbytes == filled("memmap", 7).nbytes == 4 * D * (D + 1)
    assert filled("factor", 7).nbytes == 8 * D * 7


def test_a_factor_is_compressed_beyond_twice_its_width():
    gram = empty_gram(D, "factor")
    for seed in range(60):
        gram.add_rows(random_rows(1, seed=seed))
        assert gram.rows <= 2 * D
    rows = torch.cat([random_rows(1, seed=seed) for seed in range(60)])
    gram.compress()
    assert gram.rows == D
    assert close(gram.full(), rows.T @ rows)


def test_a_factor_forgets_rows_to_the_last_bit():
    gram, gone = filled("factor", 4), empty_gram(D, "factor")
    before = gram.tensor().clone()
    gone.add_rows(random_rows(3, seed=5) * 1e8)
    gram.add(gone)
    gram.subtract(gone)
    assert torch.equal(gram.tensor(), before)


def test_a_factor_with_a_repeated_row_forgets_it_once():
    row = random_rows(1)
    gram, gone = empty_gram(D, "factor"), empty_gram(D, "factor")
    gram.add_rows(torch.cat([row, row, row]))
    gone.add_rows(torch.cat([row, row]))
    gram.subtract(gone)
    assert torch.equal(gram.tensor(), row)


def test_the_root_of_a_singular_matrix():
    rows = random_rows(2)
    gram = from_lower(rows.T @ rows, "factor")
    assert gram.rows == 2
    assert close(gram.full(), rows.T @ rows)
    nothing = from_lower(torch.zeros(D, D, dtype=torch.float64), "factor")
    assert nothing.rows == 0
    assert torch.equal(nothing.full(), torch.zeros(D, D, dtype=torch.float64))


@pytest.mark.skipif(os.name == "nt", reason="Windows shows open temporary files")
def test_files_of_memory_mapped_storage_leave_no_name(tmp_path):
    gram = MemmapGram(D, tmp_path)
    gram.add_rows(random_rows(7))
    copies = [gram.copy(), gram.transport(random_rows(D, 3)), copy.deepcopy(gram)]
    assert copies[1].folder == tmp_path
    assert not list(tmp_path.iterdir())
    before = gram.full()
    del gram
    gc.collect()
    assert torch.equal(copies[0].full(), before)
    assert torch.equal(copies[2].full(), before)


def test_a_memory_mapped_gram_travels_as_numbers():
    gram = filled("memmap", 7)
    twin = copy.deepcopy(gram)  # the same protocol that carries it to another process
    assert type(twin) is PackedGram
    assert torch.equal(twin.full(), gram.full())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no posix_fallocate")
def test_a_full_disk_is_an_error_at_once(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        MemmapGram(D, tmp_path)


def fed(store, counts):
    for slot, n in enumerate(counts):
        store.reserve([slot])
        store.add_rows(slot, random_rows(n, store.n_features, slot))
        store.settle([slot])
    return store


def test_auto_keeps_rows_until_half_the_width_then_packs():
    store = fed(GramStore(10), [4, 5])
    assert isinstance(store.grams[0], FactorGram)
    assert type(store.grams[1]) is PackedGram
    assert store.nbytes == 8 * 10 * 4 + 4 * 10 * 11


def test_auto_beyond_the_budget_goes_to_the_folder(tmp_path):
    packed = 4 * 10 * 11
    # Room for the rows of a third class while it is converted, not for its matrix beside two.
    store = fed(GramStore(10, memory_budget=2 * packed + 500, folder=tmp_path), [5, 5, 6, 6, 1])
    kinds = [type(store.grams[slot]) for slot in range(5)]
    assert kinds[0] is PackedGram
    assert MemmapGram in kinds
    memory = sum(g.nbytes for g in store.grams.values() if not isinstance(g, MemmapGram))
    assert memory <= 2 * packed + 500


@pytest.mark.parametrize("first", ["factor", "packed"])
@pytest.mark.parametrize("second", [*STORAGES])
def test_auto_takes_any_storage_in_and_settles(first, second):
    store = fed(GramStore(D), [2 if first == "factor" else 7])
    assert store.grams[0].storage == first
    other = filled(second, 3)
    before = other.full()
    rows = torch.cat([random_rows(2 if first == "factor" else 7, seed=0), random_rows(3, seed=0)])
    store.add(0, other)
    store.add(1, other)
    assert close(store.grams[0].full(), rows.T @ rows)
    assert close(store.grams[1].full(), before)
    store.grams[1].add_rows(random_rows(1))
    assert torch.equal(other.full(), before)
    assert {g.storage for g in store.grams.values()} <= {"packed", "factor"}


@pytest.mark.parametrize("storage", ["auto", *STORAGES])
@pytest.mark.parametrize("accumulate", ["float64", "float32"])
def test_weighted_sums_agree_for_all_storages(storage, accumulate):
    counts, weights = [1, 3, 30], {0: 2.0, 1: 0.5, 2: 0.25, 7: 9.0}
    store = fed(GramStore(D, storage=storage, accumulate=accumulate), counts)
    lower = torch.zeros(D, D, dtype=torch.float64)
    store.weighted_into(lower, weights)
    rows = [random_rows(n, seed=slot) for slot, n in enumerate(counts)]
    expected = sum(weights[slot] * x.T @ x for slot, x in enumerate(rows))
    assert close(lower.tril(), expected.tril(), 1e-12 if accumulate == "float64" else 1e-6)


def test_many_factors_enter_by_several_products(monkeypatch):
    monkeypatch.setattr("lipogram.analytic.gram_store.STACK_ROWS", 4)
    store = fed(GramStore(D, storage="factor"), [3] * 7)
    lower = torch.zeros(D, D, dtype=torch.float64)
    store.weighted_into(lower, dict.fromkeys(range(7), 2.0))
    expected = sum(2 * random_rows(3, seed=s).T @ random_rows(3, seed=s) for s in range(7))
    assert close(lower.tril(), expected.tril())


def test_deleting_a_slot_moves_the_later_ones():
    store = fed(GramStore(D), [1, 2, 3])
    second, third = store.grams[0], store.grams[2]
    store.delete(1)
    assert store.grams == {0: second, 1: third}


@pytest.mark.parametrize(
    ("storage", "needed"),
    [
        ("dense", 2 * 8 * 100),
        ("packed", 2 * 4 * 110),
        ("factor", 8 * 10 * (3 + 20)),
        ("auto", 8 * 10 * 3 + 4 * 110),
        ("memmap", 0),
    ],
)
def test_the_budget_names_the_bytes(storage, needed):
    store = GramStore(10, storage=storage, memory_budget=needed)
    store.check_budget([3, 1000])
    if needed:
        store.memory_budget -= 1
        with pytest.raises(OverBudget, match=f"{needed:,} bytes, the budget is {needed - 1:,}"):
            store.check_budget([3, 1000])
        store.memory_budget = needed
        with pytest.raises(OverBudget):
            store.check_budget([3, 1000], folded=True)


def test_settings_that_cannot_be():
    for impossible in (
        {"storage": "sparse"},
        {"accumulate": "float16"},
        {"storage": "packed", "device": "meta"},
        {"storage": "memmap", "device": "meta"},
    ):
        with pytest.raises(InvalidSetting):
            GramStore(3, **impossible)
    assert isinstance(empty_gram(3, "dense"), DenseGram)
    with pytest.raises(AssertionError):
        empty_gram(3, "sparse")
