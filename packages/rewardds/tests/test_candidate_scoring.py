"""Scores of many candidates against one model call for each."""

import math

import pytest
import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from lipogram.errors import InvalidProbes, InvalidSetting, NotFinite, OverBudget
from lipogram.llm.loaded import LoadedModel
from lipogram.llm.scoring import answer_logprobs
from lipogram.llm.tiny import PAD, tiny_random
from lipogram.llm.tuning import lora_config, prepare_lora
from rewardds import prefix_sharing
from rewardds.prompts import Prompts
from rewardds.reward_model import RewardModel
from rewardds.rows import Sequence
from rewardds.scoring import Scorer
from rewardds.sequence_scores import perplexities, rewards
from rewardds.synthetic import SyntheticRow

PROMPTS = Prompts("Say.", "Ask.", "Judge.")


def tokens(prompt: str, answer: str, behind: str = "") -> Sequence:
    ids = [*prompt.encode(), *answer.encode(), *behind.encode()]
    marks = [False] * len(prompt) + [True] * len(answer) + [False] * len(behind)
    return Sequence(ids, marks)


GROUPS = [
    [tokens("why so?", answer, "\n") for answer in ("because", "becalmed", "no", "because it is")],
    [tokens("how", " much?")],
    [tokens("left or right", answer) for answer in ("left", "left", "right, then left again")],
    [tokens("a", "b"), tokens("c", "d")],
]


def one_by_one(lm: torch.nn.Module, groups: list[list[Sequence]]) -> list[list[float]]:
    """The exp of transformers' own loss, a model call for each sequence."""
    found = []
    for group in groups:
        row = []
        for one in group:
            labels = [i if scored else -100 for i, scored in zip(one.ids, one.scored, strict=True)]
            with torch.no_grad():
                output: CausalLMOutputWithPast = lm(
                    input_ids=torch.tensor([one.ids]), labels=torch.tensor([labels])
                )
            row.append(math.exp(float(output.loss)))
        found.append(row)
    return found


def flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gpt2", "mistral", "gemma2"])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_perplexity_is_that_of_one_call_each(model_type: str, batch_size: int) -> None:
    lm = tiny_random(model_type, layers=2).model
    found = perplexities(lm, GROUPS, padding=PAD, batch_size=batch_size)
    assert flat(found) == pytest.approx(flat(one_by_one(lm, GROUPS)), rel=1e-5)
    assert [len(row) for row in found] == [4, 1, 3, 2]


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 32])
def test_reward_is_that_of_one_call_each(model_type: str, batch_size: int) -> None:
    model = RewardModel(tiny_random(model_type, layers=2).model, seed=3)
    found = rewards(model, GROUPS, padding=PAD, batch_size=batch_size)
    with torch.no_grad():
        expected = [
            float(model(input_ids=torch.tensor([one.ids]))[0, -1])
            for group in GROUPS
            for one in group
        ]
    assert flat(found) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("model_type", "config", "shares"),
    [
        ("llama", {}, True),
        ("qwen2", {}, True),
        ("gpt2", {}, True),
        ("gemma2", {}, False),
        ("mistral", {"sliding_window": None}, True),
        ("mistral", {"sliding_window": 8}, False),
    ],
)
def test_nothing_is_shared_where_a_layer_does_not_see_all_before(
    model_type: str, config: dict[str, None], shares: bool
) -> None:
    lm = tiny_random(model_type, layers=2, **config).model
    assert prefix_sharing.attends_to_all(lm) is shares
    went_on: list[bool] = []

    def see(_module: object, _args: object, kwargs: dict[str, object]) -> None:
        went_on.append("past_key_values" in kwargs)

    with lm.register_forward_pre_hook(see, with_kwargs=True):
        perplexities(lm, GROUPS, padding=PAD)
    assert any(went_on) is shares


def test_what_candidates_share_is_computed_once() -> None:
    lm = tiny_random("llama", layers=1).model
    sizes: list[tuple[int, ...]] = []

    def see(_module: object, _args: object, kwargs: dict[str, torch.Tensor]) -> None:
        sizes.append(tuple(kwargs["input_ids"].shape))

    with lm.model.register_forward_pre_hook(see, with_kwargs=True):
        perplexities(lm, [[tokens("x" * 50, letter) for letter in "abcdef"]], padding=PAD)
    assert sizes == [(1, 49), (6, 2)]  # the last "x" is left to each: its logits are needed


def test_endings_of_one_length_meet_whatever_group_they_are_of() -> None:
    lm = tiny_random("llama", layers=1).model
    sizes: list[tuple[int, ...]] = []

    def see(_module: object, _args: object, kwargs: dict[str, torch.Tensor]) -> None:
        sizes.append(tuple(kwargs["input_ids"].shape))

    groups = [[tokens(letter * 20, "z" * n) for n in (3, 30)] for letter in "abcd"]
    with lm.register_forward_pre_hook(see, with_kwargs=True):
        found = perplexities(lm, groups, padding=PAD, batch_size=4)
    assert sizes == [(4, 31), (4, 4)]
    assert flat(found) == pytest.approx(flat(one_by_one(lm, groups)), rel=1e-5)


def test_padding_is_at_no_position_beyond_the_context() -> None:
    lm = tiny_random("gpt2", layers=1, n_positions=32).model
    groups = [
        [tokens("x" * 28, answer) for answer in ("ab", "c")],
        [tokens("y" * 4, answer) for answer in ("d" * 20, "e")],
    ]
    found = perplexities(lm, groups, padding=PAD)
    assert flat(found) == pytest.approx(flat(one_by_one(lm, groups)), rel=1e-5)


def test_an_adapter_counts_in_what_is_shared_too() -> None:
    loaded = tiny_random("llama", layers=2)
    plain = perplexities(loaded.model, GROUPS, padding=PAD)
    lm = prepare_lora(loaded.model, lora_config(loaded.model, r=2), checkpointing=False)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in lm.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=draw)
    lm.eval()
    found = perplexities(lm, GROUPS, padding=PAD)
    assert flat(found) == pytest.approx(flat(one_by_one(lm, GROUPS)), rel=1e-5)
    assert flat(found) != pytest.approx(flat(plain), rel=0.01)
    model = RewardModel(lm)
    judged = rewards(model, GROUPS, padding=PAD)
    with torch.no_grad():
        expected = [
            float(model(input_ids=torch.tensor([one.ids]))[0, -1])
            for group in GROUPS
            for one in group
        ]
    assert flat(judged) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_half_precision_is_judged_in_full() -> None:
    lm = tiny_random("llama", layers=2).model.bfloat16()
    found = perplexities(lm, GROUPS, padding=PAD)
    assert flat(found) == pytest.approx(flat(one_by_one(lm, GROUPS)), rel=0.1)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), MemoryError()])
def test_the_batch_is_halved_when_memory_runs_out(error: BaseException) -> None:
    lm = tiny_random("llama", layers=1).model
    most, refused = 90, 0

    def refuse(_module: object, _args: object, kwargs: dict[str, torch.Tensor]) -> None:
        nonlocal refused
        if kwargs["input_ids"].numel() > most:
            refused += 1
            raise error

    expected = flat(one_by_one(lm, GROUPS))
    with lm.register_forward_pre_hook(refuse, with_kwargs=True):
        found = perplexities(lm, GROUPS, padding=PAD)
        assert flat(found) == pytest.approx(expected, rel=1e-5)
        assert 0 < refused <= 4
        most = 10
        with pytest.raises(OverBudget, match=r"candidate . of question ., .* tokens"):
            perplexities(lm, GROUPS, padding=PAD)


def test_another_error_is_passed_on() -> None:
    lm = tiny_random("llama", layers=1).model

    def fail(*_: object) -> None:
        raise RuntimeError("the kernel is not there")

    with lm.register_forward_pre_hook(fail), pytest.raises(RuntimeError, match="kernel"):
        perplexities(lm, GROUPS, padding=PAD)


def test_bad_sequences_are_refused_before_anything_runs() -> None:
    lm = tiny_random("llama", layers=1, max_position_embeddings=16).model

    def never(*_: object) -> None:
        raise AssertionError("the model was run")

    with lm.register_forward_pre_hook(never):
        with pytest.raises(InvalidProbes, match=r"candidate 1 of question 0 has 17 tokens.*16"):
            perplexities(lm, [[tokens("a", "b"), tokens("a", "b" * 16)]], padding=PAD)
        with pytest.raises(InvalidProbes, match="candidate 0 of question 1 has no token"):
            perplexities(lm, [[tokens("a", "b")], [tokens("a", "")]], padding=PAD)
        with pytest.raises(InvalidProbes, match="no token"):
            perplexities(lm, [[tokens("", "b")]], padding=PAD)
        with pytest.raises(InvalidSetting, match="batch_size is 0"):
            perplexities(lm, [[tokens("a", "b")]], padding=PAD, batch_size=0)


def test_a_model_that_has_diverged_is_named() -> None:
    lm = tiny_random("llama", layers=1).model
    with torch.no_grad():
        lm.get_output_embeddings().weight.mul_(1e30)
    with pytest.raises(NotFinite, match="perplexity of candidate 0 of question 0 is"):
        perplexities(lm, GROUPS, padding=PAD)
    model = RewardModel(tiny_random("llama", layers=1).model)
    with torch.no_grad():
        model.head.weight.fill_(math.inf)
    with pytest.raises(NotFinite, match="reward of candidate 0 of question 0"):
        rewards(model, GROUPS, padding=PAD)


def scorer(**config: int) -> Scorer:
    generator = tiny_random("llama", layers=2, **config)
    base = tiny_random("llama", layers=1, seed=1)
    model = RewardModel(base.model)
    return Scorer(generator, LoadedModel(model, base.tokenizer, base.info), PROMPTS)


ROWS = [
    SyntheticRow("q0", "How many?", ("three", "four or five", "")),
    SyntheticRow("q1", "Who?", ()),
    SyntheticRow("q2", "Which way?", ("left",), rewards=(9.0,), perplexities=(9.0,), chosen=0),
]


def test_rows_are_scored_by_both_proxies_and_ranked() -> None:
    judge = scorer()
    found = judge.score(ROWS, alpha=1.0)
    assert [row.id for row in found.rows] == ["q0", "q2"]
    assert (found.too_long, found.unanswered) == (0, 1)
    tokenizer = judge.generator.tokenizer
    for row in found.rows:
        for candidate, reward, perplexity in zip(
            row.candidates, row.rewards, row.perplexities, strict=True
        ):
            prompt = f"<s>system\nSay.</s>\n<s>user\n{row.question}</s>\n<s>assistant\n"
            (mean,) = answer_logprobs(
                judge.generator.model,
                tokenizer,
                [prompt],
                [f"{candidate}</s>"],
                reduction="mean",
                add_special_tokens=False,
            )
            assert perplexity == pytest.approx(math.exp(-mean), rel=1e-5)
            text = f"{prompt.replace('Say.', 'Judge.')}{candidate}</s>\n"
            ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
            with torch.no_grad():
                value = judge.reward.model(input_ids=ids)[0, -1]
            assert reward == pytest.approx(float(value), rel=1e-5, abs=1e-5)
        assert row.reward == max(row.rewards)
    assert found.rows[0].rejected is not None
    assert found.rows[1].rejected is None


def test_what_is_said_again_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def noted(model: RewardModel, groups: list[list[Sequence]], **how: int) -> list[list[float]]:
        read.extend(len(group) for group in groups)
        return rewards(model, groups, **how)

    monkeypatch.setattr("rewardds.scoring.rewards", noted)
    judge = scorer()
    rows = [
        SyntheticRow("q0", "How many?", ("three", "four", "three", "five", "four")),
        SyntheticRow("q1", "How many?", ("three",) * 4),
    ]
    first, same = judge.score(rows).rows
    assert read == [3, 1]
    assert first.candidates == rows[0].candidates
    for values in (first.rewards, first.perplexities):
        assert (values[0], values[1]) == (values[2], values[4])
        assert len(set(values)) == 3
    (alone,) = judge.score([SyntheticRow("q0", "How many?", ("three", "four", "five"))]).rows
    assert first.rewards[:2] == pytest.approx(alone.rewards[:2], abs=1e-5)
    assert first.rewards[3] == pytest.approx(alone.rewards[2], abs=1e-5)
    assert len(set(same.rewards)) == 1
    assert (same.chosen, same.rejected) == (0, None)


def test_candidates_beyond_a_context_are_left_out_and_counted() -> None:
    question = f"<s>system\nSay.</s>\n<s>user\n{'q' * 9}</s>\n<s>assistant\n"
    tokenizer = tiny_random("llama", layers=1).tokenizer
    room = len(tokenizer(question, add_special_tokens=False)["input_ids"]) + 5 + 2
    judge = scorer(max_position_embeddings=room)
    rows = [
        SyntheticRow("q0", "q" * 9, ("12345", "123456")),
        SyntheticRow("q1", "q" * 9, ("1234567",)),
    ]
    found = judge.score(rows)
    assert [row.candidates for row in found.rows] == [("12345",)]
    assert (found.too_long, found.unanswered) == (2, 1)
    assert rows[0].candidates == ("12345", "123456")


def test_no_rows_have_no_scores() -> None:
    found = scorer().score([])
    assert (found.rows, found.too_long, found.unanswered) == ([], 0, 0)


def test_a_bad_weight_is_refused_before_anything_runs() -> None:
    with pytest.raises(InvalidSetting, match=r"1\.5"):
        scorer().score(ROWS, alpha=1.5)
