import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftunlearn.facts import PARAPHRASE, TEMPLATE, builtin, made_up_facts, measured
from ftunlearn.probes import ProbeSet
from lipogram.errors import InvalidSetting, MissingAsset, MissingExtra, ModelNotFound


def test_the_default_split_is_the_documented_one():
    probes = builtin()
    assert [probe.answer for probe in probes.group("forget")] == [
        " Paris", " Tokyo", " Rome", " Berlin", " Madrid", " London", " Moscow", " Beijing",
        " Athens", " Ottawa",
    ]  # fmt: skip
    assert [len(probes.group(name)) for name in ("retain", "unrelated")] == [38, 29]
    assert probes == ProbeSet.builtin("facts")
    assert len(builtin("capitals")) == 28


@given(st.integers(0, 2**32), st.integers(1, 20))
def test_every_split_forgets_capitals_and_holds_out_what_is_unrelated(seed, n_forget):
    probes = builtin(seed=seed, n_forget=n_forget)
    forget, unrelated = probes.group("forget"), probes.group("unrelated")
    assert len(forget) == n_forget
    assert [len(probes.group(name)) for name in ("retain", "unrelated")] == [38, 29]
    forgotten = {probe.answer for probe in forget}
    for probe in forget:
        country = probe.prompt.removeprefix("The capital of ").removesuffix(" is")
        assert probe.prompt == TEMPLATE.format(country)
        assert probe.paraphrases == (PARAPHRASE.format(country),)
    assert not any("capital" in probe.prompt for probe in unrelated)
    assert not forgotten & {probe.answer for probe in unrelated}
    assert probes == builtin(seed=seed, n_forget=n_forget)
    capitals = builtin("capitals", seed=seed, n_forget=n_forget)
    assert capitals.group("forget") == forget
    assert len(capitals.group("retain")) == 28 - n_forget


def test_seeds_forget_different_facts():
    sets = {tuple(p.id for p in builtin(seed=seed).group("forget")) for seed in range(5)}
    assert len(sets) == 5


def test_what_cannot_be_split_is_refused():
    for n_forget in (0, 21):
        with pytest.raises(InvalidSetting, match="1 to 20"):
            builtin(n_forget=n_forget)
    with pytest.raises(InvalidSetting, match="'colours'"):
        builtin("colours")


def test_every_fact_was_measured():
    found = measured()
    assert len(found) == 90
    assert all(0.09 < numbers["probability"] <= 1 for numbers in found.values())
    assert sum("paraphrase_probability" in numbers for numbers in found.values()) == 28


def test_made_up_facts_are_of_the_same_form_and_nobody_s():
    known = builtin("capitals")
    facts = made_up_facts(40, seed=3)
    assert facts == made_up_facts(40, seed=3)
    assert facts != made_up_facts(40, seed=4)
    for fact in facts:
        country = fact.prompt.removeprefix("The capital of ").removesuffix(" is")
        assert fact.prompt == TEMPLATE.format(country)
        assert fact.paraphrases == (PARAPHRASE.format(country),)
        assert fact.answer.startswith(" ")
        assert fact.group == "unrelated"
    assert len({fact.prompt for fact in facts}) == len({fact.answer for fact in facts}) == 40
    assert not {fact.prompt for fact in facts} & {fact.prompt for fact in known}
    assert not {fact.answer for fact in facts} & {fact.answer for fact in known}
    for n in (0, 41):
        with pytest.raises(InvalidSetting, match="1 to 40"):
            made_up_facts(n)


@pytest.mark.slow
def test_every_answer_is_the_greedy_continuation_of_the_real_model():
    from ftunlearn.token_statistics import token_statistics
    from lipogram.llm.loading import load_model
    from lipogram.llm.text import encode

    try:
        loaded = load_model("smollm2", dtype="float32")
    except (ModelNotFound, MissingAsset, MissingExtra) as error:
        pytest.skip(str(error))
    facts, numbers = {fact.id: fact for fact in builtin("capitals")}, measured()
    for seed in range(20):  # until every other fact was drawn
        facts |= {fact.id: fact for fact in builtin(seed=seed)}
    assert facts.keys() == numbers.keys()
    asked = [
        (prompt, fact.answer, numbers[fact.id][name])
        for fact in facts.values()
        for prompt, name in zip(
            (fact.prompt, *fact.paraphrases),
            ("probability", "paraphrase_probability"),
            strict=False,
        )
    ]
    rows = [encode(loaded.tokenizer, prompt, answer) for prompt, answer, _ in asked]
    for (prompt, _, wanted), one in zip(
        asked, token_statistics(loaded.model, loaded.tokenizer, rows), strict=True
    ):
        assert one.greedy.all(), prompt
        assert one.probability == pytest.approx(wanted, rel=0.01), prompt
