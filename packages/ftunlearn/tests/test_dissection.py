"""The whole dissection on tiny models: what it writes, resumes, refuses and leaves alone."""

import json

import pytest
import torch

import ftunlearn as fu
from ftunlearn.components import COMPONENTS
from lipogram.errors import (
    IdenticalModels,
    IncompatiblePair,
    InvalidProbes,
    InvalidSetting,
    NotFinite,
    NothingMeasurable,
    RunMismatch,
)
from lipogram.llm.generation import generate
from lipogram.llm.tiny import tiny_random
from lipogram.runs import Run

CONFIG = fu.DissectConfig(
    components=("coef", "values"), window=1, n_new_tokens=4, relearn=None, side_effects=False
)


def pair_of(model_type="llama", **how):
    vanilla, other = tiny_random(model_type), tiny_random(model_type, seed=1, **how)
    return fu.ModelPair(vanilla.model, other.model, vanilla.tokenizer)


@pytest.fixture
def probes():
    return fu.ProbeSet([fu.Probe("a", "one two"), fu.Probe("b", "a longer prompt than that")])


def test_a_run_leaves_a_report_with_what_was_said(tmp_path, probes):
    report = fu.dissect(pair_of(), probes, CONFIG, out=tmp_path)
    (first, _) = (json.loads(line) for line in (tmp_path / "answers.jsonl").open())
    assert first["id"] == "a"
    assert first["vanilla"] != first["unlearned"]
    assert fu.DissectionReport.load(tmp_path).content == report.content
    whole = {item["component"]: item["mean"]["krs"] for item in report.content["whole"]}
    assert whole["nothing"] == 0
    assert whole["all"] == 1
    assert set(COMPONENTS) - {"mlp_states"} <= set(whole)


def test_a_second_start_measures_nothing_again(tmp_path, probes):
    first = fu.dissect(pair_of(), probes, CONFIG, out=tmp_path)
    n_events = len(Run.open(tmp_path).events())
    second = fu.dissect(pair_of(), probes, CONFIG, out=tmp_path)
    assert len(Run.open(tmp_path).events()) == n_events
    assert second.rows == first.rows


def test_other_models_do_not_go_on_with_a_run(tmp_path, probes):
    fu.dissect(pair_of(), probes, CONFIG, out=tmp_path)
    vanilla, other = tiny_random(), tiny_random(seed=2)
    pair = fu.ModelPair(vanilla.model, other.model, vanilla.tokenizer)
    with pytest.raises(RunMismatch, match="fingerprints"):
        fu.dissect(pair, probes, CONFIG, out=tmp_path)


def test_private_words_are_hashed_on_request(tmp_path):
    secret = fu.ProbeSet([fu.Probe("a", "the hidden word", " plum"), fu.Probe("b", "more")])
    config = fu.DissectConfig(components=("coef",), relearn=None, side_effects=False)
    try:
        fu.dissect(pair_of(), secret, config, out=tmp_path, redact=True)
    except NothingMeasurable:
        pytest.fail("the second probe brings no answer, so the model knows it")
    for file in tmp_path.iterdir():
        assert b"hidden word" not in file.read_bytes(), file.name


def test_the_same_model_twice_is_refused():
    tiny, again = tiny_random(), tiny_random()
    with pytest.raises(IdenticalModels):
        fu.ModelPair(tiny.model, again.model, tiny.tokenizer)


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (("gpt2", {}), "model_type"),
        (("llama", {"layers": 2}), "n_layers"),
        (("llama", {"width": 48}), "width"),
        (("llama", {"vocab_size": 400}), "vocabulary"),
    ],
)
def test_models_that_do_not_fit_are_refused_by_the_first_difference(other, field):
    name, how = other
    vanilla, second = tiny_random(), tiny_random(name, seed=1, **how)
    with pytest.raises(IncompatiblePair, match=field):
        fu.ModelPair(vanilla.model, second.model, vanilla.tokenizer)


def test_a_few_added_tokens_are_left_out_of_the_scores(probes):
    vanilla, other = tiny_random(), tiny_random(seed=1, vocab_size=270)
    with pytest.warns(UserWarning, match=r"259 and 270"):
        pair = fu.ModelPair(vanilla.model, other.model, vanilla.tokenizer)
    assert pair.vocabulary == 259
    content = fu.dissect(pair, probes, CONFIG).content
    names = {item["component"] for item in content["whole"]}
    assert {"values", "norms"} <= names
    assert not {"embed", "all", "all but values"} & names
    assert "embed, head, all" in content["skipped"]["restorations"]


def test_weights_that_are_not_finite_are_refused_by_name():
    vanilla, broken = tiny_random(), tiny_random(seed=1)
    with torch.no_grad():
        broken.model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(NotFinite, match=r"layers\.1\.mlp\.down_proj\.weight.*unlearned"):
        fu.ModelPair(vanilla.model, broken.model, vanilla.tokenizer)


def test_probes_that_cannot_be_measured_are_named(probes):
    unknown = fu.ProbeSet([fu.Probe("x", "abc", " quite unlikely words")])
    with pytest.raises(NothingMeasurable, match="x: the vanilla model does not know it"):
        fu.dissect(pair_of(), unknown, CONFIG)
    mixed = probes + unknown
    shown = fu.dissect(pair_of(), mixed, CONFIG).content["probes"]
    assert [bool(item["excluded"]) for item in shown] == [False, False, True]
    long = fu.ProbeSet([fu.Probe("long", "a" * 600)])
    with pytest.raises(InvalidProbes, match="long: 604 tokens"):
        fu.dissect(pair_of(), long, CONFIG)


def test_public_names_are_what_they_say():
    for name in fu.__all__:
        assert callable(getattr(fu, name)) or name == "losses", name


def test_attacks_are_run_on_request_and_shown(tmp_path):
    vanilla, other = tiny_random(), tiny_random(seed=1)
    pair = fu.ModelPair(vanilla.model, other.model, vanilla.tokenizer)
    (words,) = generate(vanilla.model, vanilla.tokenizer, ["one two"], max_new_tokens=1)
    asked = fu.ProbeSet(
        [fu.Probe("a", "one two", words.text), fu.Probe("b", "six", " x", group="unrelated")]
    )
    attacks = ("logit_lens", "direction_ablation")
    config = fu.DissectConfig(
        components=("coef",), whole=False, relearn=None, side_effects=False, attacks=attacks
    )
    content = fu.dissect(pair, asked, config, out=tmp_path).content
    lens = content["attacks"]["logit_lens"]
    assert lens["vanilla"][-1] == pytest.approx(content["baseline"]["vanilla"]["probability"])
    assert len(content["attacks"]["direction_ablation"]["forget"]) == 3
    page = (tmp_path / "report.html").read_text()
    assert "Logit lens" in page
    assert "Direction ablation" in page
    with pytest.raises(InvalidSetting, match="'lens' is none of logit_lens, direction_ablation"):
        fu.DissectConfig(attacks=("lens",))
