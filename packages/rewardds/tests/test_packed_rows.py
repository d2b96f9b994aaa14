"""A packed row computes what its sequences compute by themselves, and nothing of its neighbours."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from lipogram.errors import InvalidSetting
from lipogram.llm import tiny_random
from lipogram.llm.tuning import lora_config, prepare_lora
from rewardds.cached_features import cached_reward
from rewardds.errors import InvalidRecords
from rewardds.losses import CausalLMLoss, PairwiseRewardLoss, activation_dtype
from rewardds.reward_model import RewardModel
from rewardds.rows import Row, Sequence, collate

TYPES = ("llama", "qwen2", "gpt2")
CLOSE = {"rtol": 1e-9, "atol": 1e-9}  # in float64, where rounding hides nothing


def made(model_type, *, dtype=torch.float64, **config):
    """A tiny model whose adapter does something."""
    model = tiny_random(model_type, layers=2, width=16, **config).model.to(dtype)
    adapted = prepare_lora(model, lora_config(model, r=2), checkpointing=False)
    generator = torch.Generator().manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=generator)
            weight.data = weight.to(dtype)
    return adapted.eval()


def rows():
    drawn = torch.Generator().manual_seed(0)

    def sequence(n, scored):
        ids = torch.randint(0, 256, (n,), generator=drawn).tolist()
        return Sequence(ids, [i >= n - scored for i in range(n)])

    return [
        Row("a", [sequence(9, 4), sequence(14, 14), sequence(5, 1)], [(0, 1), (0, 2), (2, 1)]),
        Row("b", [sequence(20, 3), sequence(3, 0)], [(1, 0)]),
        Row("c", [sequence(4, 0)]),  # nothing to learn
        Row("d", [sequence(1, 1)]),  # a first token is never scored
    ]


def one_by_one(model, row):
    """Mean over sequences of the mean −log p, each sequence run by itself, unpadded."""
    means = []
    for sequence in row.sequences:
        logps = model(input_ids=torch.tensor([sequence.ids])).logits[0].log_softmax(-1)
        told = [
            -logps[i - 1, token]
            for i, (token, scored) in enumerate(zip(sequence.ids, sequence.scored, strict=True))
            if scored and i
        ]
        if told:
            means.append(torch.stack(told).mean())
    return torch.stack(means).mean() if means else torch.zeros(())


def one_pair_at_a_time(model, row):
    def reward(sequence):
        return model(input_ids=torch.tensor([sequence.ids]))[0, -1]

    losses = [
        -logsigmoid(reward(row.sequences[a]) - reward(row.sequences[b])) for a, b in row.pairs
    ]
    return torch.stack(losses).mean() if losses else torch.zeros(())


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["lm", "pairs"])
@pytest.mark.parametrize("model_type", TYPES)
def test_packed_rows_equal_their_sequences_one_by_one(model_type, kind):
    model = made(model_type)
    if kind == "pairs":
        model = RewardModel(model).double()
    loss, reference = {
        "lm": (CausalLMLoss(), one_by_one),
        "pairs": (PairwiseRewardLoss(), one_pair_at_a_time),
    }[kind]
    batch = collate(rows(), pad_id=256, bucket=16)
    packed = loss(model, batch)
    assert packed.shape == (4,)
    expected = torch.stack([reference(model, row) for row in rows()])
    torch.testing.assert_close(packed, expected, **CLOSE)
    assert (packed > 0).tolist() == [True, True, False, False]
    for i, row in enumerate(rows()):
        value = loss(model, collate([row], pad_id=3, bucket=1))  # other padding, other neighbours
        torch.testing.assert_close(value[0], packed[i], **CLOSE)
    for i in (0, 1):
        ours = gradients(model, loss(model, batch)[i])
        theirs = gradients(model, reference(model, rows()[i]))
        assert ours.keys() == theirs.keys()
        assert len(ours) >= 4
        for name, gradient in ours.items():  # norms compute in float32, whatever the model's type
            error = (gradient - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-3)
            assert error < 1e-5, name
    for i in (2, 3):
        assert all(not g.any() for g in gradients(model, loss(model, batch)[i]).values())


def branching():
    """Two questions of a person, with three answers and two; the last stands for itself."""
    drawn = torch.Generator().manual_seed(1)

    def ids(n):
        return torch.randint(0, 256, (n,), generator=drawn).tolist()

    first, second = ids(11), ids(6)
    told = [first + ids(n) for n in (4, 1, 7)] + [second + ids(n) for n in (2, 3)] + [ids(5)]
    pairs = [(0, 1), (0, 2), (2, 1), (3, 4), (5, 3)]
    return [
        Row("a", [Sequence(one, [False] * len(one)) for one in told], pairs, [0, 0, 0, 1, 1, 2]),
        Row(
            "b", [Sequence(first, [False] * 11), Sequence(first[:4], [False] * 4)], [(0, 1)], [0, 0]
        ),
        *rows()[:1],
    ]


@pytest.mark.parametrize("model_type", TYPES)
def test_a_shared_beginning_is_read_once_and_changes_nothing(model_type):
    model = RewardModel(made(model_type)).double()
    told = branching()
    assert [len(row) for row in told] == [11 + 12 + 6 + 5 + 5, 11 + 4 - 3, 28]
    batch = collate(told, pad_id=256, bucket=1)
    assert batch.input_ids.shape == (3, 39)
    loss = PairwiseRewardLoss()
    packed = loss(model, batch)
    for i, row in enumerate(told):
        expected = one_pair_at_a_time(model, row)
        torch.testing.assert_close(packed[i], expected, **CLOSE)
        theirs = gradients(model, one_pair_at_a_time(model, row))
        ours = gradients(model, loss(model, batch)[i])
        assert len(ours) >= 4
        for name, gradient in ours.items():
            error = (gradient - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-3)
            assert error < 1e-5, name


def test_sequences_that_share_a_beginning_have_no_labels():
    batch = collate(branching(), pad_id=256)
    assert (batch.labels[:2] == -100).all()
    assert (batch.labels[2] != -100).any()
    with pytest.raises(InvalidRecords, match="no labels"):
        CausalLMLoss()(made("llama"), batch)
    with pytest.raises(InvalidRecords, match="1 beginnings of 2"):
        Row("x", [Sequence([1], [True])] * 2, [], [0])


def test_the_head_learns_from_what_the_base_said_once():
    """Losses and gradients of the head are those of the whole model."""
    model = RewardModel(made("llama")).double()
    told = branching()
    for physical_batch in (1, 2, 8):
        head, numbered = cached_reward(model, told, pad_id=256, physical_batch=physical_batch)
        assert [len(row) for row in numbered] == [6, 2, 3]
        small, large = collate(numbered, pad_id=0), collate(told, pad_id=256)
        for i in range(len(told)):
            a, b = PairwiseRewardLoss()(head, small)[i], PairwiseRewardLoss()(model, large)[i]
            torch.testing.assert_close(a, b, **CLOSE)
            ours, theirs = gradients(head, a), gradients(model, b)
            assert set(ours) == set(theirs) == {"head.weight"}
            torch.testing.assert_close(ours["head.weight"], theirs["head.weight"], **CLOSE)
    assert head.head is model.head
    assert not head.table.weight.requires_grad
    spoilt = branching()
    spoilt[1].sequences[1].ids[-1] += 1
    _, others = cached_reward(model, spoilt, pad_id=256, physical_batch=2)
    assert [a.id == b.id for a, b in zip(numbered, others, strict=True)] == [True, False, True]


def test_what_stands_in_one_row_does_not_touch_another():
    model = RewardModel(made("llama"))
    batch = collate(rows(), pad_id=256)
    before = CausalLMLoss()(model.lm, batch), PairwiseRewardLoss()(model, batch)
    batch.input_ids[1] = 7
    batch.labels[1][batch.labels[1] != -100] = 7
    after = CausalLMLoss()(model.lm, batch), PairwiseRewardLoss()(model, batch)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[[0, 2, 3]], b[[0, 2, 3]])
        assert a[1] != b[1]


def test_a_nan_stays_in_its_row():
    batch = collate(rows(), pad_id=256)
    logits = torch.randn(*batch.input_ids.shape, 259)
    rewards = torch.randn(batch.input_ids.shape)
    logits[1, 17], rewards[1, 19] = torch.nan, torch.nan
    for loss, output in ((CausalLMLoss(), logits), (PairwiseRewardLoss(), rewards)):
        assert loss.of(output, batch).isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("model_type", TYPES)
def test_half_precision_and_autocast_stay_finite(model_type):
    """The mask's lowest value becomes −∞ in bfloat16: no position may be without one to see."""
    batch = collate(rows(), pad_id=256)
    tame = {"initializer_range": 0.02}
    model = made(model_type, dtype=torch.bfloat16, **tame)
    assert activation_dtype(model) == torch.bfloat16
    exact = CausalLMLoss()(made(model_type, dtype=torch.float32, **tame), batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = CausalLMLoss()(made(model_type, dtype=torch.float32, **tame), batch)
    for found in (CausalLMLoss()(model, batch), mixed):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, exact, rtol=0.03, atol=0.03)


def test_the_mask_is_causal_within_blocks():
    batch = collate(rows()[:2], pad_id=256, bucket=16)
    assert batch.input_ids.shape == (2, 32)
    assert len(batch) == 2
    assert batch.position_ids[0].tolist() == [*range(9), *range(14), *range(5), 0, 0, 0, 0]
    seen = batch.visible[:, 0]
    for row in range(2):
        for i in range(32):
            for j in range(32):
                same = batch.block[row, i] == batch.block[row, j]
                assert bool(seen[row, i, j]) == bool(same and j <= i)
    added = batch.attention(torch.float32)
    assert torch.equal(added == 0, batch.visible)
    assert added.isfinite().all()
    assert batch.last.tolist() == [[8, 22, 27], [19, 22, 0]]
    assert batch.pairs.tolist() == [[0, 0, 1], [0, 0, 2], [0, 2, 1], [1, 1, 0]]
    assert batch.to("cpu").labels.equal(batch.labels)


def test_the_head_starts_from_a_public_seed_and_the_vocabulary_head_stays():
    lm = tiny_random("llama", layers=1, width=16, tie_word_embeddings=False).model
    first, again, other = RewardModel(lm), RewardModel(lm), RewardModel(lm, seed=1)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    trained = {name for name, p in first.named_parameters() if p.requires_grad}
    assert not any("lm_head" in name for name in trained)
    assert "head.weight" in trained
    state = torch.get_rng_state()
    RewardModel(lm, seed=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_rewards_of_sequences():
    model = RewardModel(made("qwen2")).double().train()
    found = model.of_sequences(collate(rows(), pad_id=256))
    assert found.shape == (4, 3)
    assert not found.requires_grad
    assert model.training
    model.eval()
    for i, row in enumerate(rows()):
        for j, sequence in enumerate(row.sequences):
            alone = model(input_ids=torch.tensor([sequence.ids]))[0, -1]
            torch.testing.assert_close(found[i, j], alone, **CLOSE)


def test_rows_that_are_none_are_refused():
    with pytest.raises(InvalidRecords, match="0 ids"):
        Sequence([], [])
    with pytest.raises(InvalidRecords, match="2 ids and 1 marks"):
        Sequence([1, 2], [True])
    with pytest.raises(InvalidRecords, match="'x' has no sequences"):
        Row("x", [])
    for pair in ((0, 0), (0, 1), (-1, 0)):
        with pytest.raises(InvalidRecords, match=r"'x': the pair"):
            Row("x", [Sequence([1], [True])], [pair])
    with pytest.raises(InvalidSetting, match="0 rows"):
        collate([], pad_id=0)
    with pytest.raises(InvalidSetting, match="buckets of 0"):
        collate(rows(), pad_id=0, bucket=0)
    assert "104" not in repr(Row("x", [Sequence([104], [True])]))  # ids are text, too
