"""Sentence embeddings are the means of each text's own tokens, whatever it is batched with."""

import numpy as np
import pytest
import torch

from lipogram import assets
from lipogram.errors import InvalidSetting
from rewardds.sentence_embeddings import SentenceEmbeddings

TEXTS = ["red rose", "a blue sea and a red rose and a blue sea", "", "blue"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT of random weights with a tokenizer of words."""
    import tokenizers
    import transformers

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"a and red blue rose sea".split()]
    table = {word: i for i, word in enumerate(words)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(table, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.BertModel(config)
    place = tmp_path_factory.mktemp("bert")
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_each_is_the_mean_over_its_own_tokens_of_length_one(folder):
    import transformers

    ours = SentenceEmbeddings(folder, batch=3)(TEXTS)
    assert ours.shape == (4, 16)
    assert ours.dtype == np.float32
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for row, text in zip(ours, TEXTS, strict=True):
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.no_grad():
            mean = model(ids).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-5)


def test_long_texts_are_cut_and_none_give_none(folder):
    cut = SentenceEmbeddings(folder, max_tokens=4)
    np.testing.assert_allclose(cut(["red rose"]), cut(["red rose and a sea"]), atol=1e-6)
    assert cut([]).shape == (0, 16)


def test_settings_are_checked_before_anything_is_read(tmp_path):
    for wrong in ({"max_tokens": 2}, {"batch": 0}):
        with pytest.raises(InvalidSetting, match="at least 3 and 1"):
            SentenceEmbeddings(tmp_path / "nowhere", **wrong)


def test_minilm_finds_like_sentences_alike():
    if assets.find("minilm") is None:
        pytest.skip("the asset minilm is not in the cache")
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Taxes are due in April."]
    likeness = SentenceEmbeddings(download=False)(texts)
    likeness = likeness @ likeness.T
    assert likeness[0, 1] > 0.5
    assert max(likeness[0, 2], likeness[1, 2]) < 0.3
