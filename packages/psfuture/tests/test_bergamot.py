"""Marian models as a backend; all are random and tiny, built here, against a slow reading."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lipogram.errors import InvalidSetting
from psfuture import bergamot
from psfuture.bergamot import BergamotBackend
from psfuture.bergamot_network import POSITIONS
from psfuture.marian_file import read_marian

from .marian_models import KINDS, VOCABULARY, SlowModel, options_of, write_model

Row = tuple[list[int], list[int]]  # source, target


class Model:
    """A backend, and the slow model of the same weights."""

    def __init__(self, folder: Path, kind: str):
        self.slow = SlowModel(write_model(folder, kind), options_of(kind))
        self.folder, self.backend = folder, BergamotBackend.load(folder)

    def begin(self, rows: list[Row]) -> tuple[Any, torch.Tensor]:
        return self.backend.begin(self.backend.encode([s for s, _ in rows]), [t for _, t in rows])

    def check(self, state: Any, logits: torch.Tensor, rows: list[Row]) -> None:
        """Logits and attention are those of each row alone."""
        assert logits.shape == (len(rows), VOCABULARY)
        assert logits.dtype == torch.float32
        looked = self.backend.attention(state)
        assert looked.shape == (len(rows), max(len(source) for source, _ in rows))
        torch.testing.assert_close(looked.sum(1), torch.ones(len(rows)))
        for row, (source, target) in enumerate(rows):
            wanted, attention = self.slow.run(source, target)
            wanted[self.backend.unknown] = -np.inf
            np.testing.assert_allclose(logits[row].numpy(), wanted, rtol=0, atol=1e-5)
            np.testing.assert_allclose(looked[row, : len(source)], attention, rtol=0, atol=1e-6)
            assert not looked[row, len(source) :].any()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    return {kind: Model(tmp_path_factory.mktemp("model"), kind) for kind in KINDS}


@pytest.fixture(params=list(KINDS))
def model(request: pytest.FixtureRequest, models: dict[str, Model]) -> Model:
    return models[request.param]


@pytest.fixture(params=["ssru", "self-attention"])
def either(request: pytest.FixtureRequest, models: dict[str, Model]) -> Model:
    return models[request.param]


@pytest.fixture
def one(models: dict[str, Model]) -> Model:
    return models["ssru"]


def draw_rows(rng: random.Random, count: int, longest: int = 9) -> list[Row]:
    def some(least: int, most: int) -> list[int]:
        return [rng.randrange(2, VOCABULARY) for _ in range(rng.randint(least, most))]

    return [(some(1, 9), some(0, longest)) for _ in range(count)]


# Distributions


def test_every_kind_of_network_computes_what_it_should(model: Model) -> None:
    rows = draw_rows(random.Random(3), 4)
    state, logits = model.begin(rows)
    model.check(state, logits, rows)
    state, logits = model.backend.step(state, [7, 8, 9, 10])
    rows = [(s, [*t, token]) for (s, t), token in zip(rows, [7, 8, 9, 10], strict=True)]
    model.check(state, logits, rows)


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_calls_gives_what_each_row_alone_gives(either: Model, seed: int) -> None:
    rng, backend = random.Random(seed), either.backend
    rows = draw_rows(rng, 4)
    state, logits = either.begin(rows)
    either.check(state, logits, rows)
    for _ in range(6):
        move = rng.choice(["step", "select", "join", "read"])
        if move == "select":
            picked = [rng.randrange(len(rows)) for _ in range(rng.randint(1, 5))]
            state, rows = state.select(picked), [rows[i] for i in picked]
        elif move == "join":
            more = draw_rows(rng, rng.randint(1, 2))
            state = backend.join([either.begin(more)[0], state])
            rows = more + rows
        elif move == "read":  # another source under the same target, as a READ does
            i = rng.randrange(len(rows))
            changed = [(draw_rows(rng, 1)[0][0], rows[i][1])]
            fresh, _ = either.begin(changed)
            rest = [j for j in range(len(rows)) if j != i]
            state = backend.join([state.select(rest), fresh]) if rest else fresh
            rows = [rows[j] for j in rest] + changed
        tokens = [rng.randrange(2, VOCABULARY) for _ in rows]
        state, logits = backend.step(state, tokens)
        rows = [(s, [*t, token]) for (s, t), token in zip(rows, tokens, strict=True)]
        either.check(state, logits, rows)


def tensors_of(state: Any) -> list[torch.Tensor]:
    nested = [*state.caches, *state.context, (state.queries, state.lengths)]
    return [tensor for cache in nested for tensor in cache]


def test_a_state_stays_as_it_is_and_can_be_continued_twice(either: Model) -> None:
    rows = [*draw_rows(random.Random(5), 3, longest=5), ([5], [6] * 9)]
    state, _ = either.begin(rows)
    # Without the longest row there is room in the caches that a step could write to.
    state, rows = state.select([0, 1, 2]), rows[:3]
    before = [tensor.clone() for tensor in tensors_of(state)]
    for token in (7, 8):
        grown, logits = either.backend.step(state, [token] * 3)
        either.check(grown, logits, [(s, [*t, token]) for s, t in rows])
    either.backend.join([state, state]).select([2, 0])
    assert all(map(torch.equal, tensors_of(state), before))


def test_padding_changes_nothing(either: Model) -> None:
    short, long = ([5, 6], [9]), ([7] * 30, [8] * 25)
    _, alone = either.begin([short])
    _, beside = either.begin([short, long])
    torch.testing.assert_close(beside[:1], alone, rtol=0, atol=1e-5)


def test_encodings_of_a_batch_are_those_of_each_source_alone(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bergamot, "ENCODED_ON_CPU", 20)
    sources = [s for s, _ in draw_rows(random.Random(2), 9)]
    for source, found in zip(sources, model.backend.encode(sources), strict=True):
        wanted = np.stack(model.slow.encode(source))
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-5)
    assert model.backend.encode([]) == []


def test_a_source_and_a_target_may_be_longer_than_the_first_table_of_positions(
    either: Model,
) -> None:
    rng = random.Random(4)
    source = [rng.randrange(2, VOCABULARY) for _ in range(POSITIONS + 30)]
    target = [rng.randrange(2, VOCABULARY) for _ in range(POSITIONS + 2)]
    backend = BergamotBackend.load(either.folder)
    encodings = backend.encode([source, [5]])
    state, _ = backend.begin([encodings[1]], [target[:-1]])
    _, stepped = backend.step(state, target[-1:])
    _, begun = backend.begin([encodings[1]], [target])
    torch.testing.assert_close(stepped, begun, rtol=0, atol=1e-5)
    assert len(encodings[0]) == len(source)
    assert not torch.allclose(encodings[0][POSITIONS], encodings[0][POSITIONS + 1])
    assert backend.max_source is None


# Training


def test_teacher_forcing_gives_every_steps_logits(model: Model) -> None:
    rows = draw_rows(random.Random(6), 4)
    ids = torch.full((4, 10), 3)
    kept = torch.zeros(4, 10, dtype=torch.bool)
    targets = torch.full((4, 10), 4)
    for row, (source, target) in enumerate(rows):
        ids[row, : len(source)], kept[row, : len(source)] = torch.tensor(source), True
        targets[row, : len(target)] = torch.tensor(target, dtype=torch.long)
    logits = model.backend.network.teacher_forced(ids, kept, targets)
    assert logits.shape == (4, 10, VOCABULARY)
    for row, (source, target) in enumerate(rows):
        for t in range(len(target) + 1):
            wanted = model.slow.logits(source, target[:t])
            found = logits[row, t].detach().numpy()
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_gradients_reach_every_weight_and_a_step_lowers_the_loss(model: Model) -> None:
    network = BergamotBackend.load(model.folder).network
    model.backend.encode([[5] * (POSITIONS + 1)])  # a table that was grown while running
    ids, kept = torch.randint(2, VOCABULARY, (3, 5)), torch.ones(3, 5, dtype=torch.bool)
    targets = torch.randint(2, VOCABULARY, (3, 7))

    def loss() -> torch.Tensor:
        logits = network.teacher_forced(ids, kept, targets)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    before = loss()
    before.backward()
    # A constant added to every key changes no softmax.
    flat = [n for n, p in network.named_parameters() if not p.grad.abs().max() > 1e-7]
    assert all(name.endswith("k.bias") for name in flat)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= 1e-2 * parameter.grad
    assert loss() < before


def test_gradients_are_those_of_differences(either: Model) -> None:
    network = BergamotBackend.load(either.folder).network.double()
    kept = torch.tensor([[True, True, True], [True, False, False]])
    ids, targets = torch.tensor([[5, 6, 7], [8, 3, 3]]), torch.tensor([[9, 4, 0], [7, 0, 0]])
    weight = next(p for n, p in network.named_parameters() if n.startswith("decoder.0.back"))

    def value() -> torch.Tensor:
        return network.teacher_forced(ids, kept, targets).log_softmax(-1)[..., 5].sum()

    value().backward()
    for at in [(0, 0), (3, 2), (15, 15)]:
        kept_value, ends = weight[at].item(), []
        for shift in (1e-6, -1e-6):
            with torch.no_grad():
                weight[at] = kept_value + shift
                ends.append(value().item())
        with torch.no_grad():
            weight[at] = kept_value
        assert weight.grad[at].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-6)


# Calls


def test_calls_that_make_no_sense_are_refused(one: Model) -> None:
    backend = one.backend
    encodings = backend.encode([[5, 6]])
    state, _ = backend.begin(encodings, [[7]])
    for wrong in (-1, VOCABULARY):
        with pytest.raises(InvalidSetting, match=f"source token {wrong}"):
            backend.encode([[5], [wrong]])
        with pytest.raises(InvalidSetting, match=f"target token {wrong}"):
            backend.begin(encodings, [[wrong]])
        with pytest.raises(InvalidSetting, match=f"target token {wrong}"):
            backend.step(state, [wrong])
    with pytest.raises(InvalidSetting, match="without tokens"):
        backend.encode([[]])
    with pytest.raises(InvalidSetting, match="0 encodings and 0 targets"):
        backend.begin([], [])
    with pytest.raises(InvalidSetting, match="1 encodings and 2 targets"):
        backend.begin(encodings, [[], []])
    with pytest.raises(InvalidSetting, match="2 tokens for 1 rows"):
        backend.step(state, [5, 6])
    with pytest.raises(InvalidSetting, match="no state of a Marian model"):
        backend.step(object(), [5])  # type: ignore[arg-type]
    one.check(state, backend.begin(encodings, [[7]])[1], [([5, 6], [7])])


# Text


def test_words_become_pieces_and_pieces_words(one: Model) -> None:
    backend = one.backend
    ids = backend.source_ids(["bade", "filu"], closed=True)
    assert ids == [*backend.source_ids(["bade", "filu"], closed=False), backend.eos]
    assert backend.target_text(ids) == "bade filu"
    assert backend.target_text([backend.unknown, *ids, backend.eos]) == "bade filu"
    assert backend.target_text([]) == ""


def test_a_source_always_has_something_to_attend_to(one: Model) -> None:
    for words in ([], [""], ["", ""]):
        for closed in (True, False):
            assert one.backend.source_ids(words, closed=closed) == [one.backend.eos]


def test_text_that_is_no_unicode_is_not_the_end(one: Model) -> None:
    for word in ("\ud800", "\0", "\N{GRINNING FACE}", "</s>"):
        ids = one.backend.source_ids([word], closed=True)
        assert ids[-1] == one.backend.eos
        assert one.backend.eos not in ids[:-1]
        one.backend.encode([ids])


def test_the_unknown_token_is_never_written(one: Model) -> None:
    _, logits = one.begin(draw_rows(random.Random(8), 3))
    assert (logits[:, one.backend.unknown] == -torch.inf).all()
    assert torch.isfinite(logits).sum() == 3 * (VOCABULARY - 1)


def test_read_marian_and_the_network_agree_on_names(one: Model) -> None:
    weights, _ = read_marian(one.folder / "model.xxyy.intgemm.alphas.bin")
    assert one.backend.network.weights().keys() == weights.keys()
