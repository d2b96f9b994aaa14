"""A token classifier of Hugging Face beside the dictionary: real code, weights set by hand."""

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from lipogram.errors import InvalidSetting, ModelNotFound
from privacyrestore.ner_spans import NerRecogniser
from privacyrestore.span_detector import Entity, SpanDetector
from privacyrestore.span_removal import remove_spans

LABELS = ("O", "B-TEMP", "I-TEMP", "B-SKIN", "I-SKIN")
MEANS = {"hot": 1, "body": 2, "red": 3, "arm": 4}
"""Which label a word has; all others have none."""
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *MEANS, "the", "he", "has", ",", ".")


def a_tokenizer(longest=16):
    found = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    found.normalizer = normalizers.Lowercase()
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=found,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=longest,
    )


def a_model(longest=16):
    """A classifier that names each word by itself: random layers that add nothing to its word."""
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=longest,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    torch.manual_seed(0)
    model = BertForTokenClassification(config).eval()
    embeddings = model.bert.embeddings
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        for silent in (
            embeddings.position_embeddings,
            embeddings.token_type_embeddings,
            layer.attention.output.dense,
            layer.output.dense,
        ):
            silent.weight.zero_()
            if getattr(silent, "bias", None) is not None:
                silent.bias.zero_()
        embeddings.word_embeddings.weight.copy_(torch.eye(len(WORDS), 32))
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        model.classifier.bias[0] = 2.0
        for word, label in MEANS.items():
            model.classifier.weight[label, WORDS.index(word)] = 1.5
    return model


@pytest.fixture(scope="module")
def recogniser():
    return NerRecogniser(a_model(), a_tokenizer())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", []),
        (" \n", []),
        ("he has", []),
        ("He has  HOT\nbody.", [("HOT\nbody", "TEMP")]),
        ("hot , red arm", [("hot", "TEMP"), ("red arm", "SKIN")]),
        ("hot hot body", [("hot", "TEMP"), ("hot body", "TEMP")]),
        ("hot arm", [("hot", "TEMP"), ("arm", "SKIN")]),
        ("red zzz arm", [("red", "SKIN"), ("arm", "SKIN")]),
    ],
)
def test_entities_are_places_of_the_text_with_b_and_i_merged(recogniser, text, said):
    assert [(text[e.start : e.end], e.label) for e in recogniser.entities(text)] == said


@pytest.mark.parametrize("before", [0, 1, 7, 9, 10, 11, 12, 13, 14, 20, 33, 60])
def test_a_text_longer_than_the_model_is_seen_wherever_the_entity_is(recogniser, before):
    text = "the " * before + "hot body" + " the" * 40
    assert recogniser.entities(text) == [Entity(4 * before, 4 * before + 8, "TEMP")]


def test_a_tokenizer_that_knows_no_length_takes_the_models():
    endless = a_tokenizer(longest=10**30)
    text = "the " * 60 + "hot body"
    assert NerRecogniser(a_model(), endless).entities(text) == [Entity(240, 248, "TEMP")]
    assert endless.model_max_length == 10**30


def test_a_model_in_a_folder_sees_the_same(recogniser, tmp_path):
    a_model().save_pretrained(tmp_path)
    a_tokenizer().save_pretrained(tmp_path)
    text = "he has hot body, red arm"
    assert NerRecogniser(tmp_path).entities(text) == recogniser.entities(text)


def test_an_unsure_model_names_nothing():
    assert NerRecogniser(a_model(), a_tokenizer(), threshold=0.9999).entities("hot") == []


def test_a_detector_takes_labels_for_spans_and_removal_takes_them_out(recogniser):
    detector = SpanDetector(
        ("fever", "rash"), backend="hf-ner", recogniser=recogniser, labels={"TEMP": "fever"}
    )
    removal = remove_spans("He has hot body, a rash and red arm.", detector)
    assert removal.text == "He has red arm."
    assert [span.span_id for span in removal.spans] == [0, 1]


def test_an_entity_grows_what_the_dictionary_finds_in_it(recogniser):
    detector = SpanDetector(("red",), backend="hf-ner", recogniser=recogniser)
    assert remove_spans("he has red arm", detector).text == "he has"
    assert remove_spans("he has hot body", detector).text == "he has hot body"


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.nn.Linear(1, 1), a_tokenizer()),
        (a_model(), None),
        (a_model().bert, a_tokenizer()),
    ],
)
def test_what_classifies_no_tokens_is_refused(arguments):
    with pytest.raises(InvalidSetting):
        NerRecogniser(*arguments)


def test_a_threshold_that_no_score_can_have_is_refused():
    with pytest.raises(InvalidSetting, match="threshold"):
        NerRecogniser(a_model(), a_tokenizer(), threshold=1.5)


def test_a_model_that_is_nowhere_is_named(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFound, match="nobody/has-this"):
        NerRecogniser("nobody/has-this")
