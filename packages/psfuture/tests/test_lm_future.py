"""Suffixes by a language model: the same whatever was asked before, and what the model says."""

import random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lipogram.errors import InvalidSetting, ModelNotFound, NotFinite
from lipogram.llm.tiny import byte_tokenizer, tiny_random
from psfuture import lm_future
from psfuture.futures import Multi
from psfuture.lm_future import LanguageModel
from psfuture.policies import PsFuture
from psfuture.session import Session
from psfuture.simulation import simulate
from psfuture.word_pieces import WordPieces

from .toy_backend import ToyBackend, sentences

LINES = ["the cat sat on it", "the cat ran", "rain falls", "the cat sat on it again"]
PREFIXES = [tuple(line.split()[:j]) for line in LINES for j in range(1, len(line.split()) + 1)]


def tiny(model="tiny-random:llama", **more):
    return LanguageModel(model, **{"dtype": "float32", "device": "cpu", "length": 2} | more)


@pytest.fixture(scope="module")
def wanted():
    """Each prefix's suffixes by a model that was asked nothing else."""
    return {prefix: tiny().invent([prefix], ())[0] for prefix in PREFIXES}


@settings(max_examples=15)
@given(st.lists(st.lists(st.sampled_from(PREFIXES), max_size=8), max_size=5), st.integers(1, 9))
def test_a_suffix_depends_on_its_prefix_alone(wanted, calls, batch_size):
    future = tiny(batch_size=batch_size)
    for prefixes in calls:
        assert future.invent(prefixes, ()) == [wanted[prefix] for prefix in prefixes]


def test_a_sentence_read_word_by_word_is_one_that_is_prepared(wanted):
    grown, prepared = tiny(), tiny()
    for prefix in PREFIXES:
        assert grown.invent([prefix], ()) == [wanted[prefix]]
    prepared.prepare([tuple(line.split()) for line in LINES])
    known = [prefix for prefix in PREFIXES if " ".join(prefix) not in LINES]
    read = prepared.model.forward
    prepared.model.forward = None  # nothing is left to be computed
    assert prepared.invent(known, ()) == [wanted[prefix] for prefix in known]
    prepared.model.forward = read


def test_a_word_more_is_all_that_is_read():
    future, fed = tiny(), []
    read = future.model.forward

    def noted(**inputs):
        fed.append(inputs["input_ids"].shape[1])
        return read(**inputs)

    future.model.forward = noted
    future.invent([("the", "cat")], ())
    assert fed[0] == 1 + len("the cat")
    assert set(fed[1:]) == {1}
    future.invent([("rain",)], ())  # another sentence in between
    fed.clear()
    future.invent([("the", "cat", "sat")], ())
    # The last token is read again where only its logits are missing.
    assert fed[0] == len(" sat")
    fed.clear()
    future.invent([("the", "cat", "sat")], ())
    assert fed == []


@pytest.mark.parametrize("model", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_the_most_probable_continuation_is_that_of_generate(model):
    loaded = tiny_random(model)
    future = tiny(f"tiny-random:{model}", count=1, temperature=0, length=3)
    pieces = future._pieces
    for prefix, [said] in zip(PREFIXES[:5], future.invent(PREFIXES[:5], ()), strict=True):
        ids = torch.tensor([[257, *" ".join(prefix).encode()]])
        with torch.inference_mode():
            space = torch.tensor([[ord(" ")]])  # a word follows
            found = loaded.model.generate(
                torch.cat([ids, space], 1),
                attention_mask=torch.ones(1, ids.shape[1] + 1, dtype=torch.long),
                max_new_tokens=future._steps - 1,
                do_sample=False,
                eos_token_id=sorted(pieces.ends),
                pad_token_id=256,
            )[0, ids.shape[1] :].tolist()
        whole = [n for n in range(len(found) + 1) if pieces.whole(found[:n]) >= 3]
        assert said == pieces.words(found[: whole[0]] if whole else found, 3)


def test_a_draw_is_that_of_the_distribution():
    """Frequencies of the first token after a space, against probabilities in float64."""
    future = tiny(top_p=0.6, temperature=0.7, count=1)
    generator = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(1, 259, generator=generator)
    probs = (scores[0].double() / 0.7).softmax(-1)
    order = probs.argsort(descending=True)
    size = int((probs[order].cumsum(0) < 0.6).sum()) + 1
    kept = {int(i): float(probs[i] / probs[order[:size]].sum()) for i in order[:size]}
    draws = [random.Random(seed) for seed in range(4000)]
    found = future._drawn(scores.expand(4000, -1), draws)
    assert set(found) <= set(kept)
    for token, probability in kept.items():
        assert found.count(token) / 4000 == pytest.approx(probability, abs=0.035)


def test_many_probable_tokens_are_drawn_from_as_few_are(monkeypatch):
    future = tiny(top_p=0.95)
    scores = torch.randn(64, 259, generator=torch.Generator().manual_seed(1))
    draws = [[random.Random(seed) for seed in range(64)] for _ in range(2)]
    found = future._drawn(scores, draws[0])
    monkeypatch.setattr(lm_future, "_FEW", 259)
    assert future._drawn(scores, draws[1]) == found
    assert len(set(found)) > 40


def test_equal_logits_are_drawn_by_their_number():
    future = tiny(top_p=0.5)
    scores = torch.zeros(1, 259)
    one = future._drawn(scores, [random.Random(3)])
    assert future._drawn(scores.index_fill(1, torch.tensor([258]), 1e-6), [random.Random(3)]) == one
    assert len(set(future._drawn(scores.expand(99, -1), list(map(random.Random, range(99)))))) > 50


def test_seeds_and_samples_differ():
    found = tiny(count=5).invent([("the", "cat")], ())[0]
    assert len(found) == 5
    assert len(set(found)) >= 4
    assert tiny(count=2).invent([("the", "cat")], ())[0] == found[:2]
    assert tiny(count=5, seed=1).invent([("the", "cat")], ())[0] != found


def test_a_small_nucleus_is_the_most_probable_token():
    greedy = tiny(temperature=0, count=1).invent(PREFIXES, ())
    assert tiny(top_p=1e-6, count=1).invent(PREFIXES, ()) == greedy
    assert tiny(temperature=1e-4, count=1).invent(PREFIXES, ()) == greedy


@pytest.mark.parametrize("length", [1, 2, 5])
def test_suffixes_are_words(length):
    for row in tiny(length=length, count=3).invent(PREFIXES, ()):
        for suffix in row:
            assert len(suffix) <= length
            assert all(word.split() == [word] and "\n" not in word for word in suffix)


def test_only_whole_words_are_said():
    pieces = WordPieces(byte_tokenizer(), 259)

    def said(text, most=3):
        return pieces.words(list(text.encode()), most)

    assert said(" one two thr") == ("one", "two")
    assert said(" one two three ") == ("one", "two", "three")
    assert said(" one two three four") == ("one", "two", "three")
    assert said(" one two thr\nmore") == ("one", "two", "thr")
    assert said(" lon") == ("lon",)  # nothing else is there
    assert said("\nmore") == ()
    assert pieces.words([32, 97, 258, 98], 3) == ("a",)
    assert [pieces.whole(list(t.encode())) for t in (" ", " a", " a ", " a b", " a b ")] == [
        0,
        0,
        1,
        1,
        2,
    ]


def test_a_space_that_is_a_token_of_its_own_begins_a_word():
    pieces = WordPieces(byte_tokenizer(), 300)
    assert pieces.first == {32}
    assert {10, 13, 256, 257, 258, 259, 299} <= pieces.ends
    assert not {9, 32, 97} & pieces.ends


def vocabulary(pieces, **more):
    model = models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if more.get("metaspace"):
        tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def test_pieces_with_a_mark_begin_words():
    names = ["<unk>", "</s>", "▁the", "cat", "▁", "▁č", "č", "<0x0A>", "▁▁x", "Ċ"]
    pieces = WordPieces(vocabulary(names, metaspace=True), 12)
    assert pieces.first == {2, 5}
    assert pieces.ends == {0, 1, 7, 10, 11}
    assert pieces.whole([2, 3, 5]) == 1
    assert pieces.words([2, 3, 5, 6, 2], 4) == ("thecat", "čč")
    bytes_ = WordPieces(vocabulary(["<unk>", "</s>", "Ġthe", "cat", "Ġ", "Ċ", "ĊĠa", "Ġč"]), 8)
    assert bytes_.first == {2}
    assert bytes_.ends == {0, 1, 5, 6, 7}


def test_words_without_marks_are_parted_as_they_are_decoded():
    pieces = WordPieces(vocabulary(["<unk>", "</s>", "the", "cat", "."]), 5)
    assert pieces.ends == {0, 1}
    assert {2, 3} <= pieces.first
    assert pieces.whole([2, 3]) == 1
    assert pieces.words([2, 3, 1], 4) == ("the", "cat")


def test_text_without_spaces_may_follow_with_anything():
    tokenizer = vocabulary(["<unk>", "</s>", "我", "想"])
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    assert WordPieces(tokenizer, 4).first == {2, 3}


def test_what_is_held_is_bounded(monkeypatch):
    monkeypatch.setattr(lm_future, "_HELD", 3)
    monkeypatch.setattr(lm_future, "_KEPT", 5)
    monkeypatch.setattr(lm_future, "_AT_ONCE", 4)
    future, other = tiny(count=1), tiny(count=1)
    lines = [(f"s{i}", "a", "b") for i in range(6)]
    found = future.invent(lines, ())
    assert len(future._held) == 3
    assert len(future._suffixes) == 5
    monkeypatch.undo()
    assert found == other.invent(lines, ())
    # A sentence that grows takes the place of its beginning, and nobody else's.
    for line in lines[4:]:
        future.invent([(*line, "c")], ())
    assert len(future._held) == 3
    ours = [future._ids((*line, "c")) for line in lines[4:]]
    assert set(ours) <= set(future._held)
    assert all(torch.is_tensor(keys) for keys, _ in future._held[ours[0]])


def test_a_prefix_beyond_the_model_s_positions_loses_its_beginning():
    future = tiny("tiny-random:gpt2", count=2)
    words = tuple("word" for _ in range(200))  # 999 tokens, and 512 positions
    assert len(future._ids(words)) <= 512 - future._steps
    grown = [future.invent([words[:j]], ())[0] for j in (100, 101, 150, 200)]
    assert tiny("tiny-random:gpt2", count=2).invent([words[:150]], ())[0] == grown[2]
    assert all(len(row) == 2 for row in grown)


def test_logits_that_are_not_finite_are_told():
    future = tiny()
    with torch.no_grad():
        future.model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(NotFinite, match="tiny-random:llama"):
        future.invent([("a",)], ())
    assert not future._suffixes


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"length": 0}, "length, count and batch_size"),
        ({"count": 0}, "length, count and batch_size"),
        ({"batch_size": 0}, "length, count and batch_size"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0.0}, r"top_p 0.0.*\(0, 1\]"),
        ({"top_p": 1.1}, "top_p 1.1"),
        ({"top_p": float("nan")}, "top_p nan"),
        ({"temperature": 0, "count": 2}, "count must be 1"),
    ],
)
def test_a_setting_out_of_range_is_named_before_a_model_is_loaded(more, match):
    with pytest.raises(InvalidSetting, match=match):
        LanguageModel("/nowhere/at/all", **more)


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelNotFound, match="nothing-here"):
        LanguageModel(str(tmp_path / "nothing-here"))
    held = SimpleNamespace(get_vocab=dict, bos_token=None, eos_token=None)
    with pytest.raises(InvalidSetting, match="no token that a text could begin with"):
        lm_future._start(held)


def test_a_session_and_a_simulation_invent_the_same():
    lines = sentences(5, seed=31)
    policy = PsFuture(0.4, tiny(count=2))
    traces = simulate(ToyBackend(), policy, lines)
    again = PsFuture(0.4, Multi([tiny(count=2)]))
    for line, trace in zip(lines, traces, strict=True):
        session = Session(ToyBackend(), again)
        for at, word in enumerate(words := line.split(), 1):
            session.push(word, last=at == len(words))
        assert session.trace.actions == trace.actions
        assert session.trace.tokens == trace.tokens


def test_characters_are_refused_where_words_are_continued():
    with pytest.raises(InvalidSetting, match="characters need another future"):
        Session(ToyBackend(), PsFuture(0.1, tiny()), unit="char")
