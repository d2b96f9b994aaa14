import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ftunlearn import losses
from ftunlearn.unlearning_data import collate
from lipogram.errors import InvalidSetting
from lipogram.llm.objectives import sequence_logps
from lipogram.llm.tiny import tiny_random

BETA, GAMMA, ALPHA, DELTA = 0.7, 0.9, 1.5, 0.2


def case(seed=0, b=3, t=6, v=9, d=5, dtype=torch.float64):
    """Logits of forget, retain and their vanilla twins, hidden states, labels."""
    g = torch.Generator().manual_seed(seed)
    logits = {n: 2 * torch.randn(b, t, v, generator=g, dtype=dtype) for n in ("f", "r", "f0", "r0")}
    hidden = {n: torch.randn(b, t, d, generator=g, dtype=dtype) for n in ("f", "r", "r0")}
    labels = {}
    for name in ("f", "r"):
        labels[name] = torch.randint(v, (b, t), generator=g)
        labels[name][torch.rand(b, t, generator=g) < 0.4] = -100
        labels[name][0, 1] = 3  # at least one token that something predicts
    return logits, hidden, labels


def log_softmax(row):
    top = max(row)
    total = top + math.log(sum(math.exp(x - top) for x in row))
    return [x - total for x in row]


def rows(labels):
    y = labels.tolist()
    return [(i, t - 1, y[i][t]) for i in range(len(y)) for t in range(1, len(y[i])) if y[i][t] >= 0]


def nll(logits, labels):
    found = [-log_softmax(logits[i, t].tolist())[y] for i, t, y in rows(labels)]
    return sum(found) / len(found)


def sums(logits, labels):
    found = [0.0] * len(labels)
    for i, t, y in rows(labels):
        found[i] += log_softmax(logits[i, t].tolist())[y]
    return found


def softplus(x):
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def kl(p, q, labels):
    found = []
    for i, t, _ in rows(labels):
        a, b = log_softmax(p[i, t].tolist()), log_softmax(q[i, t].tolist())
        found.append(sum(math.exp(x) * (x - y) for x, y in zip(a, b, strict=True)))
    return sum(found) / len(found)


def distance(hidden, target, labels):
    found = []
    for i, t, _ in rows(labels):
        goal = target if target.ndim == 1 else target[i, t]
        found.append(
            sum((a - b) ** 2 for a, b in zip(hidden[i, t].tolist(), goal.tolist(), strict=True))
        )
    return sum(found) / len(found)


def undial(logits, vanilla, labels):
    found = []
    for i, t, y in rows(labels):
        lowered = vanilla[i, t].tolist()
        lowered[y] -= BETA
        target, mine = log_softmax(lowered), log_softmax(logits[i, t].tolist())
        found.append(-sum(math.exp(a) * b for a, b in zip(target, mine, strict=True)))
    return sum(found) / len(found)


def loops(logits, hidden, labels):
    b = len(labels["f"])
    f, f0 = sums(logits["f"], labels["f"]), sums(logits["f0"], labels["f"])
    r, r0 = sums(logits["r"], labels["r"]), sums(logits["r0"], labels["r"])
    n = [sum(i == row for i, _, _ in rows(labels["f"])) for row in range(b)]
    means = [f[i] / max(n[i], 1) for i in range(b)]
    dpo = sum(softplus(-BETA * ((r[i] - r0[i]) - (f[i] - f0[i]))) for i in range(b))
    control = torch.linspace(-1, 1, hidden["f"].shape[-1], dtype=hidden["f"].dtype)
    return {
        "ga": -nll(logits["f"], labels["f"]),
        "graddiff": -GAMMA * nll(logits["f"], labels["f"]) + ALPHA * nll(logits["r"], labels["r"]),
        "idk": nll(logits["f"], labels["f"]),
        "dpo": 2 / BETA * dpo / b,
        "npo": 2 / BETA * sum(softplus(BETA * (f[i] - f0[i])) for i in range(b)) / b,
        "simnpo": 2 / BETA * sum(softplus(BETA * (x + DELTA)) for x in means) / b,
        "undial": undial(logits["f"], logits["f0"], labels["f"]),
        "kl": kl(logits["r0"], logits["r"], labels["r"]),
        "rmu": GAMMA * distance(hidden["f"], control, labels["f"])
        + ALPHA * distance(hidden["r"], hidden["r0"], labels["r"]),
    }  # fmt: skip


def ours(name, logits, hidden, labels):
    f, r = labels["f"], labels["r"]
    if name in ("dpo", "npo", "simnpo"):
        forget, counts = sequence_logps(logits["f"], f)
        forget0, retain, retain0 = (
            sequence_logps(logits[k], y)[0] for k, y in (("f0", f), ("r", r), ("r0", r))
        )
        if name == "dpo":
            return losses.dpo(retain, forget, retain0, forget0, beta=BETA)
        if name == "npo":
            return losses.npo(forget, forget0, beta=BETA)
        return losses.simnpo(forget, counts.clamp(min=1), beta=BETA, delta=DELTA)
    control = torch.linspace(-1, 1, hidden["f"].shape[-1], dtype=hidden["f"].dtype)
    weights = {"gamma": GAMMA, "alpha": ALPHA}
    return {
        "ga": lambda: losses.ga(logits["f"], f),
        "graddiff": lambda: losses.graddiff(logits["f"], f, logits["r"], r, **weights),
        "idk": lambda: losses.idk(logits["f"], f),
        "undial": lambda: losses.undial(logits["f"], logits["f0"], f, beta=BETA),
        "kl": lambda: losses.kl(logits["r"], logits["r0"], r),
        "rmu": lambda: losses.rmu(hidden["f"], control, f, hidden["r"], hidden["r0"], r, **weights),
    }[name]()


NAMES = ["ga", "graddiff", "dpo", "npo", "simnpo", "rmu", "undial", "idk", "kl"]


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10**6))
def test_a_loss_is_that_of_a_loop(name, seed):
    found = case(seed, b=2, t=5)
    expected = loops(*found)[name]
    assert ours(name, *found).item() == pytest.approx(expected, abs=1e-9)
    single = [{k: v.float() if v.is_floating_point() else v for k, v in x.items()} for x in found]
    # Differences of sums of the size of ten: in float32 their last digit alone is 1e-6.
    assert ours(name, *single).item() == pytest.approx(expected, abs=1e-5, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_differences(name):
    logits, hidden, labels = case(1, b=2, t=4, v=5, d=3)
    leaves = hidden if name == "rmu" else logits
    keys = [k for k in leaves if "0" not in k]
    assert torch.autograd.gradcheck(
        lambda *values: ours(
            name, *(
                {**x, **dict(zip(keys, values, strict=True))} if x is leaves else x
                for x in (logits, hidden, labels)
            )
        ),
        [leaves[k].clone().requires_grad_() for k in keys],
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_labelled_changes_nothing(name):
    logits, hidden, labels = case(2)
    value = ours(name, logits, hidden, labels)
    for held, kind in ((logits, "logits"), (hidden, "hidden")):
        for key in held:
            mask = torch.zeros_like(labels[key[0]], dtype=torch.bool)
            for i, t, _ in rows(labels[key[0]]):
                mask[i, t] = True
            held[key] = torch.where(mask[..., None], held[key], 1e6)
            assert torch.equal(ours(name, logits, hidden, labels), value), (kind, key)


def test_pads_and_prompts_change_no_loss_through_a_model():
    model = tiny_random("gpt2", layers=2, width=16).model
    items = [
        {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]},
        {"input_ids": [9, 1], "labels": [-100, 1]},
    ]
    values = []
    for pad in (0, 17, 256):
        batch = collate(items, pad)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        logps, counts = sequence_logps(logits, batch["labels"])
        assert counts.tolist() == [2, 1]
        values.append((losses.nll(logits, batch["labels"]).item(), *logps.tolist()))
    assert values[0] == values[1] == values[2]


def test_npo_goes_to_gradient_ascent():
    logits, _, labels = case(3)
    labels = labels["f"]

    def gradient(loss):
        x = logits["f"].clone().requires_grad_()
        loss(x).backward()
        return x.grad.flatten()

    ascent = gradient(lambda x: losses.ga(x, labels))
    vanilla = sequence_logps(logits["f"], labels)[0] + torch.tensor([-2.0, 0.0, 2.0])

    def cosine(beta):
        npo = gradient(lambda x: losses.npo(sequence_logps(x, labels)[0], vanilla, beta=beta))
        return torch.cosine_similarity(npo, ascent, dim=0).item()

    assert cosine(1e-4) > 0.999
    assert cosine(3.0) < 0.9


@pytest.mark.parametrize("beta", [0.05, 0.1, 2.0])
def test_equal_models_give_dpo_and_npo_a_known_value(beta):
    a, b = torch.randn(2, 5)
    assert losses.dpo(a, b, a, b, beta=beta).item() == pytest.approx(2 / beta * math.log(2))
    assert losses.npo(a, a, beta=beta).item() == pytest.approx(2 / beta * math.log(2))


def test_undial_lowers_the_label_and_nothing_else():
    logits, _, labels = case(4)
    untouched = logits["f0"].clone()
    losses.undial(logits["f"], logits["f0"], labels["f"], beta=50.0)
    assert torch.equal(logits["f0"], untouched)
    x = logits["f0"].clone().requires_grad_()
    losses.undial(x, logits["f0"], labels["f"], beta=50.0).backward()
    for i, t, y in rows(labels["f"]):
        up = (x.grad[i, t] > 0).nonzero().flatten().tolist()  # descent lowers these
        assert up == [y]
    assert x.grad[..., -1].abs().sum() > 0  # token v-100 is one like the others


def test_a_batch_without_labels_has_the_loss_zero():
    logits, hidden, labels = case(5)
    none = torch.full_like(labels["f"], -100)
    assert losses.nll(logits["f"], none) == 0
    assert losses.kl(logits["f"], logits["f0"], none) == 0
    assert losses.undial(logits["f"], logits["f0"], none) == 0
    assert losses.distance(hidden["f"], hidden["r"], none) == 0


def test_the_control_vector_favours_no_sign():
    g = torch.Generator().manual_seed(0)
    vectors = torch.stack([losses.control_vector(64, 6.5, g) for _ in range(400)])
    assert torch.allclose(vectors.norm(dim=1), torch.tensor(6.5))
    assert abs((vectors > 0).double().mean().item() - 0.5) < 0.02
    assert vectors.mean(0).abs().max() < 0.2
    again = losses.control_vector(64, 6.5, torch.Generator().manual_seed(0))
    assert torch.equal(again, vectors[0])


def test_beta_has_to_be_above_zero():
    with pytest.raises(InvalidSetting, match="beta"):
        losses.dpo(*torch.zeros(4, 2), beta=0)
