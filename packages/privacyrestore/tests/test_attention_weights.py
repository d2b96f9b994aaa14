"""Weights against a computation in a few lines, one window and many."""

from dataclasses import dataclass

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from lipogram.errors import InvalidSetting, ModelNotFound, NotFinite
from privacyrestore.attention_weights import AwaWeigher, UniformWeigher

WORDS = "patient has mild cough and night sweats ; no fever since may but tired".split()
TEXT = "patient has mild cough and night sweats ; no fever but mild cough since may"


@dataclass(frozen=True)
class Span:
    start: int
    end: int
    span_id: int


def encoder(seed=0, longest=64):
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 32, "initializer_range": 0.5}
    config = BertConfig(
        vocab_size=len(WORDS) + 4,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=longest,
        **shape,
    )
    return BertModel(config)


def tokenizer(longest=64):
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=longest,
    )


def spans(text, *kinds):
    found = []
    for span_id, words in enumerate(kinds):
        start = text.find(words)
        while start >= 0:
            found.append(Span(start, start + len(words), span_id))
            start = text.find(words, start + 1)
    return sorted(found, key=lambda span: span.start)


def by_hand(model, text, *kinds):
    """a_s from the token numbers of whole words: [CLS] is 0, the first word 1."""
    words = text.split()
    ids = torch.tensor([[2, *(4 + WORDS.index(word) for word in words), 3]])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attention = model(ids, output_attentions=True).attentions
    received = []
    for kind in kinds:
        parts = kind.split()
        starts = [i for i in range(len(words)) if words[i : i + len(parts)] == parts]
        tokens = [1 + start + at for start in starts for at in range(len(parts))]
        received.append(sum(float(layer[0][:, :, tokens].sum()) / 2 for layer in attention) / 3)
    return torch.tensor(received, dtype=torch.float64)


def test_weights_are_those_of_the_direct_computation():
    kinds = ("mild cough", "night sweats", "fever")
    a = by_hand(encoder().eval(), TEXT, *kinds)
    found = AwaWeigher(encoder(), tokenizer()).weights(TEXT, spans(TEXT, *kinds))
    assert [found[i] for i in range(3)] == pytest.approx(a.softmax(0).tolist(), rel=1e-5)
    assert sum(found.values()) == pytest.approx(1, abs=1e-12)
    shares = AwaWeigher(encoder(), tokenizer(), "awa-normalised").weights(TEXT, spans(TEXT, *kinds))
    assert [shares[i] for i in range(3)] == pytest.approx((a / a.sum()).tolist(), rel=1e-5)


def test_every_occurrence_counts_and_repeated_ones_once():
    weigher = AwaWeigher(encoder(), tokenizer())
    whole = spans(TEXT, "mild cough", "fever")
    assert len(whole) == 3
    found = weigher.weights(TEXT, whole)
    assert set(found) == {0, 1}
    assert found == weigher.weights(TEXT, [*whole, *whole])
    first = [span for span in whole if span.start < 20 or span.span_id == 1]
    assert weigher.weights(TEXT, first)[0] < found[0]


def test_a_part_of_a_word_means_its_token():
    weigher = AwaWeigher(encoder(), tokenizer())
    whole = weigher.weights(TEXT, spans(TEXT, "sweats", "fever"))
    part = weigher.weights(TEXT, spans(TEXT, "weat", "fever"))
    assert whole == part


def test_modes_without_a_model_in_use_are_equal():
    found = spans(TEXT, "mild cough", "night sweats", "fever")
    for weigher in (UniformWeigher(), AwaWeigher(encoder(), tokenizer(), "uniform")):
        assert weigher.weights(TEXT, found) == {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}
        assert weigher.weights(TEXT, []) == {}
    assert AwaWeigher(encoder(), tokenizer()).weights(TEXT, []) == {}


def test_long_texts_go_through_windows():
    text = " ".join((TEXT + " tired").split() * 3)
    model, kinds = encoder(longest=14).eval(), ("night sweats", "tired")
    found = AwaWeigher(model, tokenizer(14), "awa-normalised").weights(text, spans(text, *kinds))
    words, content, overlap = text.split(), 12, 3
    total, seen = torch.zeros(len(words)).double(), torch.zeros(len(words))
    start = 0
    while True:
        window = words[start : start + content]
        ids = torch.tensor([[2, *(4 + WORDS.index(word) for word in window), 3]])
        with torch.no_grad():
            layers = model(ids, output_attentions=True).attentions
        received = sum(layer[0].double().sum((0, 1)) / 2 for layer in layers) / 3
        total[start : start + len(window)] += received[1:-1]
        seen[start : start + len(window)] += 1
        if start + content >= len(words):
            break
        start += content - overlap
    received = total / seen
    a = [
        float(sum(received[i] for i, word in enumerate(words) if word in kind.split()))
        for kind in kinds
    ]
    assert [found[0], found[1]] == pytest.approx([a[0] / sum(a), a[1] / sum(a)], rel=1e-5)


def test_weights_stay_positive_where_one_span_takes_all():
    text = " ".join(["mild cough"] * 800 + ["fever"])
    found = AwaWeigher(encoder(), tokenizer()).weights(text, spans(text, "mild cough", "fever"))
    assert found[0] == pytest.approx(1)
    assert found[1] > 0


def test_an_encoder_is_loaded_from_a_folder(tmp_path):
    model = encoder()
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    found = spans(TEXT, "mild cough", "fever")
    wanted = AwaWeigher(model, tokenizer()).weights(TEXT, found)
    assert AwaWeigher(str(tmp_path)).weights(TEXT, found) == pytest.approx(wanted)
    with pytest.raises(ModelNotFound):
        AwaWeigher("nobody/nothing-of-this-name")


def test_bad_calls_are_refused_without_a_word_of_the_text():
    with pytest.raises(InvalidSetting, match="mode 'best'"):
        AwaWeigher(encoder(), tokenizer(), "best")
    with pytest.raises(InvalidSetting, match="tokenizer"):
        AwaWeigher(encoder())
    with pytest.raises(InvalidSetting, match="no room"):
        AwaWeigher(encoder(longest=3), tokenizer())
    weigher = AwaWeigher(encoder(), tokenizer())
    for bad in (Span(3, len(TEXT) + 1, 0), Span(-1, 4, 0), Span(9, 4, 0)):
        with pytest.raises(InvalidSetting) as refusal:
            weigher.weights(TEXT, [bad])
        assert str(refusal.value) == "a span lies outside the text"
    broken = encoder()
    with torch.no_grad():
        broken.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(NotFinite, match="encoder"):
        AwaWeigher(broken, tokenizer()).weights(TEXT, spans(TEXT, "fever"))
