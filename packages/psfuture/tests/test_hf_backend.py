"""Models of transformers as a backend; all are random and tiny, built here."""

import copy
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DynamicCache,
    EncoderDecoderCache,
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    NllbTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
    UMT5Config,
    UMT5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from lipogram.errors import CorruptState, InvalidSetting, ModelNotFound, UnsafeCheckpoint
from psfuture import hf_backend
from psfuture.hf_backend import HFBackend
from psfuture.hf_batches import length_batches, replay_groups

V = 60
POSITIONS = 64
WORDS = [f"w{i}" for i in range(4, V)]

BART = {
    "vocab_size": V,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "init_std": 0.3,
}
T5 = {
    "vocab_size": V,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
}


def marian(**more: Any) -> Any:
    start = {"decoder_start_token_id": 1, "decoder_vocab_size": V}
    model = MarianMTModel(MarianConfig(**BART | start | more))
    model.final_logits_bias.normal_()
    return model


def t5(**more: Any) -> Any:
    return T5ForConditionalGeneration(T5Config(**T5 | more))


def mbart(**more: Any) -> Any:
    return MBartForConditionalGeneration(MBartConfig(**BART | more))


MODELS: dict[str, Callable[[], Any]] = {
    "marian": marian,
    "m2m100": lambda: M2M100ForConditionalGeneration(M2M100Config(**BART)),
    "mbart": mbart,
    "bart": lambda: BartForConditionalGeneration(BartConfig(**BART)),
    "t5": t5,
    "t5-untied": lambda: t5(tie_word_embeddings=False),
    "umt5": lambda: UMT5ForConditionalGeneration(UMT5Config(**T5)),
}


def word_tokenizer(**more: Any) -> PreTrainedTokenizerFast:
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocabulary |= {word: i for i, word in enumerate(WORDS, 4)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names | more)


def build(kind: str, seed: int = 1) -> HFBackend:
    torch.manual_seed(seed)
    return HFBackend(MODELS[kind](), word_tokenizer())


@pytest.fixture(params=list(MODELS))
def backend(request: pytest.FixtureRequest) -> HFBackend:
    return build(request.param)


@pytest.fixture
def one() -> HFBackend:
    return build("marian")


Row = tuple[list[int], list[int]]  # source, target


@torch.no_grad()
def from_scratch(backend: HFBackend, row: Row) -> torch.Tensor:
    """The next token's logits by the model's own forward, without caches, this row alone."""
    source, target = row
    inputs = torch.tensor([[*backend.direction.start, *target]])
    logits = backend.model(input_ids=torch.tensor([source]), decoder_input_ids=inputs).logits
    found: torch.Tensor = logits[0, -1].float()
    found[sorted(backend.never)] = -torch.inf
    return found


def assert_rows(backend: HFBackend, logits: torch.Tensor, rows: list[Row]) -> None:
    assert logits.shape == (len(rows), backend.vocab_size)
    assert logits.dtype == torch.float32
    wanted = torch.stack([from_scratch(backend, row) for row in rows])
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5)


def draw_rows(rng: random.Random, count: int, longest: int = 25) -> list[Row]:
    def some(least: int, most: int) -> list[int]:
        return [rng.randrange(4, V) for _ in range(rng.randint(least, most))]

    return [(some(1, 12), some(0, longest)) for _ in range(count)]


def begin(backend: HFBackend, rows: list[Row]) -> tuple[Any, torch.Tensor]:
    return backend.begin(backend.encode([s for s, _ in rows]), [t for _, t in rows])


# Distributions


# Every length alone, a mix, all in one.
@pytest.mark.parametrize(("per_pass", "seed"), [(0.0, 0), (16.0, 1), (1e9, 2)])
def test_any_sequence_of_calls_gives_what_each_row_alone_gives(
    backend: HFBackend, per_pass: float, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_backend, "_PASS_ON_CPU", per_pass)
    rng = random.Random(seed)
    rows = draw_rows(rng, 5)
    state, logits = begin(backend, rows)
    assert_rows(backend, logits, rows)
    for _ in range(6):
        move = rng.choice(["step", "step", "select", "join", "read"])
        if move == "select":
            picked = [rng.randrange(len(rows)) for _ in range(rng.randint(1, 6))]
            state, rows = state.select(picked), [rows[i] for i in picked]
        elif move == "join":
            more = draw_rows(rng, rng.randint(1, 3))
            state = backend.join([begin(backend, more)[0], state])
            rows = more + rows
        elif move == "read":  # another source under the same target, as a READ does
            i = rng.randrange(len(rows))
            changed = [(draw_rows(rng, 1)[0][0], rows[i][1])]
            fresh, logits = begin(backend, changed)
            assert_rows(backend, logits, changed)
            rest = [j for j in range(len(rows)) if j != i]
            state = backend.join([state.select(rest), fresh]) if rest else fresh
            rows = [rows[j] for j in rest] + changed
        tokens = [rng.randrange(4, V) for _ in rows]
        state, logits = backend.step(state, tokens)
        rows = [(s, [*t, token]) for (s, t), token in zip(rows, tokens, strict=True)]
        assert_rows(backend, logits, rows)


def test_a_state_can_be_continued_twice(backend: HFBackend) -> None:
    rows = draw_rows(random.Random(5), 3)
    state, _ = begin(backend, rows)
    for token in (7, 8):
        _, logits = backend.step(state, [token] * 3)
        assert_rows(backend, logits, [(s, [*t, token]) for s, t in rows])


def test_encodings_of_a_batch_are_those_of_each_source_alone(
    backend: HFBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_backend, "ENCODED_AT_ONCE", 30)
    sources = [s for s, _ in draw_rows(random.Random(2), 12)]
    for ids, found in zip(sources, backend.encode(sources), strict=True):
        with torch.no_grad():
            wanted = backend.model.get_encoder()(input_ids=torch.tensor([ids])).last_hidden_state
        assert found.shape == (len(ids), 32)
        torch.testing.assert_close(found, wanted[0], rtol=0, atol=1e-5)


def test_encoding_nothing_gives_nothing(one: HFBackend) -> None:
    assert one.encode([]) == []


def test_greedy_steps_write_what_generate_writes(backend: HFBackend) -> None:
    banned = [[token] for token in sorted(backend.never)]
    for source in (WORDS[:5], WORDS[20:21]):
        ids = backend.source_ids(source, closed=True)
        wanted = backend.model.generate(
            torch.tensor([ids]), max_new_tokens=30, do_sample=False, bad_words_ids=banned
        )[0].tolist()
        state, logits = backend.begin(backend.encode([ids]), [[]])
        tokens = list(backend.direction.start)
        for _ in range(20):
            tokens.append(int(logits[0].argmax()))
            if tokens[-1] == backend.eos:
                break
            state, logits = backend.step(state, tokens[-1:])
        assert tokens == wanted[: len(tokens)]


def test_the_head_sees_last_positions_only(backend: HFBackend) -> None:
    seen: list[int] = []
    backend.decoder.head.register_forward_hook(
        lambda _, inputs, __: seen.append(inputs[0].shape[:-1].numel())
    )
    rows = draw_rows(random.Random(3), 4)
    state, _ = begin(backend, rows)
    backend.step(state, [5] * 4)
    assert seen == [4, 4]


def test_a_step_reads_no_encoder_state(backend: HFBackend) -> None:
    # Its cross-attention caches are enough; were the placeholder read, NaN would come out.
    rows = draw_rows(random.Random(4), 2)
    state, _ = begin(backend, rows)
    assert not torch.isnan(backend.step(state, [5, 6])[1]).any()


def test_caches_of_one_source_never_answer_for_another(backend: HFBackend) -> None:
    (first, target), (second, _) = [([5, 6, 7, 2], [8, 9, 10, 11]), ([30, 31, 32, 2], [])]
    encodings = backend.encode([first, second])
    # transformers goes on with the first source when it is given the second, and says nothing.
    inputs = torch.tensor([[*backend.direction.start, *target]])
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    with torch.inference_mode():
        for states, ids in zip(encodings, (inputs[:, :-1], inputs[:, -1:]), strict=True):
            trap = backend.model(
                encoder_outputs=BaseModelOutput(states[None]),
                attention_mask=torch.ones(1, 4),
                decoder_input_ids=ids,
                past_key_values=cache,
                use_cache=True,
            ).logits[0, -1]
    of_first, of_second = (from_scratch(backend, (s, target)) for s in (first, second))
    kept = torch.isfinite(of_first)
    torch.testing.assert_close(trap[kept], of_first[kept], rtol=0, atol=1e-5)
    assert (trap - of_second)[kept].abs().max() > 1e-3
    # Here each row keeps its own, whether alone or beside the other.
    before, _ = backend.begin(encodings[:1], [target[:-1]])
    changed, logits = backend.begin(encodings[1:], [target])
    torch.testing.assert_close(logits[0], of_second, rtol=0, atol=1e-5)
    both = backend.join([before, backend.begin(encodings[1:], [target[:-1]])[0]])
    _, logits = backend.step(both, target[-1:] * 2)
    torch.testing.assert_close(logits, torch.stack([of_first, of_second]), rtol=0, atol=1e-5)
    assert_rows(backend, backend.step(changed, [12])[1], [(second, [*target, 12])])


def attended(backend: HFBackend, row: Row) -> torch.Tensor:
    """Attention to the source as transformers tells it, by a slower kernel."""
    source, target = row
    eager = copy.deepcopy(backend.model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        whole = eager(
            input_ids=torch.tensor([source]),
            decoder_input_ids=torch.tensor([[*backend.direction.start, *target]]),
            output_attentions=True,
        ).cross_attentions[-1]
    mean: torch.Tensor = whole[0].mean(0)[-1]
    return mean


def assert_attention(backend: HFBackend, state: Any, rows: list[Row]) -> None:
    found = backend.attention(state)
    assert found.shape == (len(rows), max(len(source) for source, _ in rows))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(1), torch.ones(len(rows)))
    for row, weights in zip(rows, found, strict=True):
        length = len(row[0])
        assert not weights[length:].any()
        torch.testing.assert_close(weights[:length], attended(backend, row), rtol=0, atol=1e-5)


@pytest.mark.parametrize("per_pass", [0.0, 1e9])
def test_attention_is_what_transformers_tells(
    backend: HFBackend, per_pass: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_backend, "_PASS_ON_CPU", per_pass)
    assert backend.attends
    rows = draw_rows(random.Random(9), 4, longest=6)
    state, _ = begin(backend, rows)
    assert_attention(backend, state, rows)
    state, _ = backend.step(state, [5, 6, 7, 8])
    rows = [(s, [*t, i]) for (s, t), i in zip(rows, (5, 6, 7, 8), strict=True)]
    assert_attention(backend, state, rows)
    picked = [3, 1, 1]
    more = draw_rows(random.Random(10), 1)
    joined = backend.join([state.select(picked), begin(backend, more)[0]])
    assert_attention(backend, joined, [rows[i] for i in picked] + more)


def test_watching_a_pass_leaves_no_hook_behind(one: HFBackend) -> None:
    state, _ = begin(one, draw_rows(random.Random(1), 2))
    one.step(state, [5, 6])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in one.model.modules())


def test_attention_that_cannot_be_told_is_an_error() -> None:
    model = marian()
    inner = model.model.decoder.layers[-1].encoder_attn.out_proj
    inner.register_forward_pre_hook(lambda _, given: (given[0] * 2,))  # a gate, say
    backend = HFBackend(model, word_tokenizer())
    assert not backend.attends
    rows = draw_rows(random.Random(1), 3)
    state, logits = begin(backend, rows)
    assert_rows(backend, logits, rows)
    state, _ = backend.step(backend.join([state.select([0, 2]), state]), [5] * 5)
    with pytest.raises(InvalidSetting, match=r"'marian' does not tell its attention"):
        backend.attention(state)


def test_half_precision_weights_give_float32_logits() -> None:
    whole, half = build("m2m100"), build("m2m100")
    half = HFBackend(half.model.to(torch.bfloat16), word_tokenizer())
    rows = [(s, t[:4]) for s, t in draw_rows(random.Random(1), 4)]
    for row in rows:
        a, b = begin(whole, [row])[1], begin(half, [row])[1]
        assert b.dtype == torch.float32
        kept = torch.isfinite(a)
        assert (torch.isfinite(b) == kept).all()
        assert (a - b)[kept].abs().max() < 0.05 * a[kept].abs().max()
        assert not torch.equal(a[kept], b[kept])


def test_dropout_stays_off_when_a_trainer_left_it_on(one: HFBackend) -> None:
    rows = draw_rows(random.Random(1), 3)
    one.model.train()
    state, logits = begin(one, rows)
    assert not one.model.training
    assert_rows(one, logits, rows)
    one.model.train()
    assert_rows(
        one,
        one.step(state, [5, 6, 7])[1],
        [(s, [*t, i]) for (s, t), i in zip(rows, (5, 6, 7), strict=True)],
    )


@pytest.mark.gpu
def test_on_a_gpu_the_same_but_for_its_arithmetic(one: HFBackend) -> None:
    rows = draw_rows(random.Random(1), 6)
    there = HFBackend(build("marian").model.cuda(), word_tokenizer())
    state, logits = begin(there, rows)
    wanted = torch.stack([from_scratch(one, row) for row in rows])
    torch.testing.assert_close(logits.cpu(), wanted, rtol=0, atol=1e-3)
    grown = [(s, [*t, 5]) for s, t in rows]
    wanted = torch.stack([from_scratch(one, row) for row in grown])
    torch.testing.assert_close(there.step(state, [5] * 6)[1].cpu(), wanted, rtol=0, atol=1e-3)


# Batches


@given(st.lists(st.integers(0, 12), min_size=1, max_size=7), st.floats(0, 40))
def test_groups_of_rows_cost_the_least(lengths: list[int], per_pass: float) -> None:
    def cost(groups: list[list[int]]) -> float:
        spans = [[lengths[row] for row in group] for group in groups]
        return sum(per_pass + len(s) * (max(s) - min(s) + 1) for s in spans)

    found = replay_groups(lengths, per_pass)
    assert sorted(itertools.chain(*found)) == list(range(len(lengths)))
    assert all(group == sorted(group) for group in found)
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    cuts = itertools.product([False, True], repeat=len(order) - 1)
    splits = []
    for cut in cuts:
        groups = [[order[0]]]
        for row, new in zip(order[1:], cut, strict=True):
            groups.append([row]) if new else groups[-1].append(row)
        splits.append(groups)
    assert cost(found) <= min(map(cost, splits)) + 1e-9


@given(st.lists(st.integers(1, 50), max_size=20), st.integers(1, 120))
def test_batches_hold_every_row_within_their_budget(lengths: list[int], budget: int) -> None:
    batches = length_batches(lengths, budget)
    assert sorted(itertools.chain(*batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


# Text


def test_words_in_and_words_out(one: HFBackend) -> None:
    assert one.source_ids(["w5", "w9"], closed=True) == [5, 9, 2]
    assert one.source_ids(["w5", "w9"], closed=False) == [5, 9]
    assert one.source_ids(["w5", "nobody"], closed=False) == [5, 3]
    assert one.target_text([1, 5, 9, 2]) == "w5 w9"
    assert one.target_text([]) == ""


def test_words_that_leave_nothing_leave_an_end_of_sentence(one: HFBackend) -> None:
    assert one.source_ids([], closed=False) == one.source_ids([""], closed=True) == [2]
    assert len(one.encode([one.source_ids([], closed=False)])[0]) == 1


def test_words_cannot_spell_an_end_or_padding(one: HFBackend) -> None:
    assert one.source_ids(["w5", "</s>", "<pad>", "w6"], closed=False) == [5, 3, 3, 6]
    assert one.source_ids(["w5", "</s>"], closed=True) == [5, 3, 2]


def test_a_tokenizer_that_closes_nothing_is_closed() -> None:
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    backend = HFBackend(marian(), tokenizer)
    assert backend.source_ids(["w5"], closed=True) == [5, 2]
    assert backend.source_ids(["w5"], closed=False) == [5]


def test_an_unfinished_character_is_held_back() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocabulary |= {letter: i for i, letter in enumerate(alphabet, 4)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    size = {"vocab_size": len(vocabulary), "decoder_vocab_size": len(vocabulary)}
    backend = HFBackend(marian(**size), fast)
    ids = backend.source_ids(["é漢字"], closed=False)
    assert len(ids) == 2 + 3 + 3
    texts = [backend.target_text(ids[:n]) for n in range(len(ids) + 1)]
    assert texts == ["", "", "é", "é", "é", "é漢", "é漢", "é漢", "é漢字"]


def test_tokens_that_are_no_text_are_never_chosen() -> None:
    model = marian(vocab_size=V + 6, decoder_vocab_size=V + 6)
    model.generation_config.bad_words_ids = [[1], [9], [4, 5]]
    model.generation_config.suppress_tokens = [11]
    backend = HFBackend(model, word_tokenizer())
    _, logits = begin(backend, [([5, 6, 2], [7])])
    banned = {0, 1, 3, 9, 11, *range(V, V + 6)}
    assert backend.never == banned
    assert set(torch.isinf(logits[0]).nonzero().flatten().tolist()) == banned
    assert backend.target_text([9, 10]) == "w10"


# Languages


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model of a few lines."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("pieces")
    lines = ["the cat sat on the mat", "a dog and a cat", "und der Hund saß auf der Matte"] * 5
    (folder / "text").write_text("\n".join(lines), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "pieces"),
        vocab_size=60,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    return folder / "pieces.model"


def scores(pieces: Path) -> list[tuple[str, float]]:
    import sentencepiece

    held = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    return [(held.id_to_piece(i), held.get_score(i)) for i in range(3, held.vocab_size())]


def marian_tokenizer(pieces: Path, folder: Path, *tags: str) -> MarianTokenizer:
    names = ["</s>", "<unk>", *tags, *(piece for piece, _ in scores(pieces)), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    return MarianTokenizer(
        source_spm=str(pieces), target_spm=str(pieces), vocab=str(folder / "vocab.json")
    )


def marian_for(tokenizer: MarianTokenizer) -> Any:
    size, pad = tokenizer.vocab_size, tokenizer.pad_token_id
    return marian(
        vocab_size=size,
        decoder_vocab_size=size,
        pad_token_id=pad,
        decoder_start_token_id=pad,
        eos_token_id=0,
    )


SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def multilingual(kind: str, pieces: Path, folder: Path) -> tuple[Any, Any]:
    found = scores(pieces)
    if kind == "m2m100":
        names = {name: i for i, name in enumerate(SPECIAL + [piece for piece, _ in found])}
        (folder / "vocab.json").write_text(json.dumps(names))
        tokenizer = M2M100Tokenizer(vocab_file=str(folder / "vocab.json"), spm_file=str(pieces))
        size = len(names) + 108
    elif kind == "nllb":
        names = {name: i for i, name in enumerate(SPECIAL + [piece for piece, _ in found])}
        tokenizer = NllbTokenizer(vocab=names, merges=[])
        size = len(tokenizer) + 3
    elif kind == "mbart":
        tokenizer = MBartTokenizer(vocab=[(name, 0.0) for name in SPECIAL] + found)
        size = len(tokenizer)
    else:
        head = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
        tokenizer = MBart50Tokenizer(vocab=head + found)
        size = len(tokenizer)
    settings = BART | {"vocab_size": size}
    if kind.startswith("mbart"):
        return MBartForConditionalGeneration(MBartConfig(**settings)), tokenizer
    return M2M100ForConditionalGeneration(M2M100Config(**settings)), tokenizer


CODES = {
    "m2m100": ("de", "en"),
    "nllb": ("deu_Latn", "eng_Latn"),
    "mbart": ("de_DE", "en_XX"),
    "mbart50": ("de_DE", "en_XX"),
}


@pytest.mark.parametrize("kind", list(CODES))
def test_languages_go_where_the_tokenizer_puts_them(
    kind: str, pieces: Path, tmp_path: Path
) -> None:
    source, target = CODES[kind]
    model, tokenizer = multilingual(kind, pieces, tmp_path)
    backend = HFBackend(model, tokenizer, src_lang=source, tgt_lang=target)
    tag = {code: tokenizer.convert_tokens_to_ids(code) for code in (source, target)}
    if kind == "m2m100":
        tag = {code: tokenizer.get_lang_id(code) for code in (source, target)}
    body = tokenizer("the cat", add_special_tokens=False)["input_ids"]
    assert len(body) > 2
    closed = [*body, 2, tag[source]] if kind == "mbart" else [tag[source], *body, 2]
    assert backend.source_ids(["the", "cat"], closed=True) == closed
    opened = [token for token in closed if token != 2]
    assert backend.source_ids(["the", "cat"], closed=False) == opened
    assert backend.direction.start == ((tag[target],) if kind == "mbart" else (2, tag[target]))
    assert {*tag.values(), 0, 1, 3} <= backend.never
    assert backend.target_text([tag[target], *body, 2]) == "the cat"
    rows = [(closed, body), (opened, body[:1])]
    state, logits = begin(backend, rows)
    assert_rows(backend, logits, rows)
    rows = [(s, [*t, 5]) for s, t in rows]
    assert_rows(backend, backend.step(state, [5, 5])[1], rows)


@pytest.mark.parametrize("kind", list(CODES))
def test_a_multilingual_model_asks_for_its_languages(
    kind: str, pieces: Path, tmp_path: Path
) -> None:
    source, target = CODES[kind]
    model, tokenizer = multilingual(kind, pieces, tmp_path)
    listed = f"{source}.*{target}|{target}.*{source}"
    with pytest.raises(InvalidSetting, match=f"src_lang.*({listed})"):
        HFBackend(model, tokenizer, tgt_lang=target)
    with pytest.raises(InvalidSetting, match=f"tgt_lang.*({listed})"):
        HFBackend(model, tokenizer, src_lang=source)
    with pytest.raises(InvalidSetting, match=f"'klingon'.*({listed})"):
        HFBackend(model, tokenizer, src_lang=source, tgt_lang="klingon")
    with pytest.raises(InvalidSetting, match="prefix"):
        HFBackend(model, tokenizer, prefix="in German: ")


def test_two_directions_can_share_a_tokenizer(pieces: Path, tmp_path: Path) -> None:
    model, tokenizer = multilingual("nllb", pieces, tmp_path)
    there = HFBackend(model, tokenizer, src_lang="deu_Latn", tgt_lang="eng_Latn")
    back = HFBackend(model, tokenizer, src_lang="eng_Latn", tgt_lang="deu_Latn")
    german, english = tokenizer.convert_tokens_to_ids(["deu_Latn", "eng_Latn"])
    for _ in range(2):
        assert there.source_ids(["a"], closed=True)[0] == german
        assert back.source_ids(["a"], closed=True)[0] == english


def test_marian_models_of_one_pair(pieces: Path, tmp_path: Path) -> None:
    tokenizer = marian_tokenizer(pieces, tmp_path)
    model = marian_for(tokenizer)
    backend = HFBackend(model, tokenizer)
    ids = backend.source_ids(["the", "cat"], closed=True)
    assert ids[-1] == backend.eos == 0
    assert 0 not in ids[:-1]
    assert backend.source_ids(["the", "cat"], closed=False) == ids[:-1]
    assert backend.target_text(ids) == "the cat"
    assert backend.never == {1, tokenizer.pad_token_id}
    assert backend.direction.start == (tokenizer.pad_token_id,)
    rows = [(ids, ids[:2]), (ids[:-1], [])]
    assert_rows(backend, begin(backend, rows)[1], rows)
    with pytest.raises(InvalidSetting, match="no language tags"):
        HFBackend(model, tokenizer, tgt_lang="fra")


def test_marian_models_of_several_targets(pieces: Path, tmp_path: Path) -> None:
    tokenizer = marian_tokenizer(pieces, tmp_path, ">>fra<<", ">>spa<<")
    model = marian_for(tokenizer)
    with pytest.raises(InvalidSetting, match=r"tgt_lang.*fra, spa"):
        HFBackend(model, tokenizer)
    with pytest.raises(InvalidSetting, match="leave out src_lang"):
        HFBackend(model, tokenizer, src_lang="en", tgt_lang="fra")
    for name in ("spa", ">>spa<<"):
        backend = HFBackend(model, tokenizer, tgt_lang=name)
        ids = backend.source_ids(["the", "cat"], closed=True)
        assert ids[0] == 3
        assert {2, 3} <= backend.never
        assert backend.target_text(ids) == "the cat"


def test_t5_takes_its_prefix_from_its_settings(pieces: Path) -> None:
    head = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = T5Tokenizer(vocab=head + scores(pieces), extra_ids=3)
    ends = {"vocab_size": len(tokenizer) + 4, "pad_token_id": 0, "eos_token_id": 1}
    tasks = {"translation_en_to_de": {"prefix": "the dog "}, "summarization": {"prefix": "a "}}
    ends |= {"decoder_start_token_id": 0, "task_specific_params": tasks}
    model = t5(**ends)
    backend = HFBackend(model, tokenizer, src_lang="en", tgt_lang="de")
    wanted = tokenizer("the dog a cat")["input_ids"]
    assert backend.source_ids(["a", "cat"], closed=True) == wanted
    other = HFBackend(model, tokenizer, prefix="und ")
    assert other.source_ids(["a"], closed=False) == tokenizer("und a")["input_ids"][:-1]
    plain = HFBackend(model, tokenizer, prefix="")
    assert plain.source_ids(["a"], closed=False) == tokenizer("a")["input_ids"][:-1]
    sentinels = set(tokenizer.convert_tokens_to_ids([f"<extra_id_{i}>" for i in range(3)]))
    assert sentinels | {0, 2} | set(range(len(tokenizer), len(tokenizer) + 4)) == backend.never
    with pytest.raises(InvalidSetting, match=r"en to de.*prefix=.*'fr'"):
        HFBackend(model, tokenizer, src_lang="en", tgt_lang="fr")
    with pytest.raises(InvalidSetting, match="en to de"):
        HFBackend(model, tokenizer)
    with pytest.raises(InvalidSetting, match="prefix takes the place"):
        HFBackend(model, tokenizer, src_lang="en", prefix="und ")


def test_a_forced_first_token_is_part_of_the_start() -> None:
    model = mbart()
    model.generation_config.forced_bos_token_id = 9
    backend = HFBackend(model, word_tokenizer())
    assert backend.direction.start == (2, 9)


# Faults


@pytest.mark.parametrize(
    ("which", "match"),
    [
        ("eos_token_id", "eos_token_id"),
        ("pad_token_id", "pad_token_id"),
        ("decoder_start_token_id", "decoder starts"),
    ],
)
def test_a_model_without_its_special_tokens_is_refused(which: str, match: str) -> None:
    model = marian()
    object.__setattr__(model.config, which, None)  # the class itself would refuse some
    setattr(model.generation_config, which, None)
    with pytest.raises(InvalidSetting, match=match):
        HFBackend(model, word_tokenizer())


@pytest.mark.parametrize("which", ["eos_token", "pad_token"])
def test_a_tokenizer_without_its_special_tokens_is_refused(which: str) -> None:
    tokenizer = word_tokenizer(**{which: None})
    with pytest.raises(InvalidSetting, match=which):
        HFBackend(marian(), tokenizer)


def test_the_end_is_the_tokenizers_where_a_model_has_several() -> None:
    model = marian()
    model.generation_config.eos_token_id = [7, 2]
    backend = HFBackend(model, word_tokenizer())
    assert backend.eos == 2
    assert 7 in backend.never


def test_a_decoder_only_model_is_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    size = {"n_embd": 8, "n_head": 1, "n_layer": 1, "vocab_size": V, "pad_token_id": 1}
    model = GPT2LMHeadModel(GPT2Config(eos_token_id=2, decoder_start_token_id=2, **size))
    with pytest.raises(InvalidSetting, match=r"GPT2LMHeadModel|gpt2"):
        HFBackend(model, word_tokenizer())


def test_a_model_that_its_parts_do_not_make_is_refused() -> None:
    model = marian()
    model.lm_head.register_forward_hook(
        lambda _, inputs, output: output * 2 if inputs[0].ndim == 3 else output
    )
    with pytest.raises(InvalidSetting, match=r"'marian' cannot be run step by step.*off by"):
        HFBackend(model, word_tokenizer())


def test_what_does_not_fit_the_model_is_refused(one: HFBackend) -> None:
    assert one.max_source == POSITIONS
    (encoding,) = one.encode([[5] * POSITIONS])
    with pytest.raises(InvalidSetting, match=r"65 tokens.*64 positions"):
        one.encode([[5] * (POSITIONS + 1)])
    with pytest.raises(InvalidSetting, match="without tokens"):
        one.encode([[5], []])
    with pytest.raises(InvalidSetting, match=r"99.*60"):
        one.encode([[5, 99]])
    with pytest.raises(InvalidSetting, match=r"66 tokens.*64 positions"):
        one.begin([encoding], [[5] * 65])
    with pytest.raises(InvalidSetting, match="60 is none of 60"):
        one.begin([encoding], [[60]])
    with pytest.raises(InvalidSetting, match="1 encodings and 2 targets"):
        one.begin([encoding], [[], []])
    with pytest.raises(InvalidSetting, match="0 encodings and 0 targets"):
        one.begin([], [])
    state, _ = one.begin([encoding], [[5] * 63])
    with pytest.raises(InvalidSetting, match=r"65 tokens.*64 positions"):
        one.step(state, [5])
    with pytest.raises(InvalidSetting, match="2 tokens for 1 rows"):
        one.step(state, [5, 6])


def test_relative_positions_have_no_limit() -> None:
    backend = build("t5")
    assert backend.max_source is None
    rows = [([5] * 150, [6] * 120)]
    assert_rows(backend, begin(backend, rows)[1], rows)


# Loading


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    backend = build("marian")
    backend.model.save_pretrained(tmp_path / "model")
    backend.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_loads_as_what_it_holds(folder: Path) -> None:
    saved, loaded = build("marian"), HFBackend.load(folder, device="cpu")
    rows = draw_rows(random.Random(1), 3)
    torch.testing.assert_close(begin(loaded, rows)[1], begin(saved, rows)[1])
    assert loaded.name == saved.name.replace("hf:marian@", "hf:model@")
    assert build("marian", seed=2).name != saved.name
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_a_type_can_be_chosen(folder: Path) -> None:
    loaded = HFBackend.load(str(folder), dtype="bfloat16", device="cpu")
    assert loaded.model.dtype == torch.bfloat16
    assert begin(loaded, [([5, 6], [])])[1].dtype == torch.float32


def test_a_real_marian_folder_loads(pieces: Path, tmp_path: Path) -> None:
    tokenizer = marian_tokenizer(pieces, tmp_path, ">>fra<<", ">>spa<<")
    marian_for(tokenizer).save_pretrained(tmp_path / "opus")
    tokenizer.save_pretrained(tmp_path / "opus")
    loaded = HFBackend.load(tmp_path / "opus", tgt_lang="fra", device="cpu")
    assert loaded.target_text(loaded.source_ids(["the", "dog"], closed=True)) == "the dog"


@pytest.mark.parametrize("kind", list(CODES))
def test_a_folder_of_a_multilingual_model_loads(kind: str, pieces: Path, tmp_path: Path) -> None:
    source, target = CODES[kind]
    (tmp_path / "made").mkdir()
    model, tokenizer = multilingual(kind, pieces, tmp_path / "made")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(InvalidSetting, match=f"src_lang.*{source}"):
        HFBackend.load(tmp_path / "model", device="cpu")
    languages = {"src_lang": source, "tgt_lang": target}
    loaded = HFBackend.load(tmp_path / "model", device="cpu", **languages)
    made = HFBackend(model, tokenizer, **languages)
    ids = loaded.source_ids(["the", "dog"], closed=True)
    assert ids == made.source_ids(["the", "dog"], closed=True)
    assert loaded.direction == made.direction
    assert loaded.never == made.never
    assert loaded.attends
    assert_rows(loaded, begin(loaded, [(ids, [])])[1], [(ids, [])])


def test_pickled_weights_are_refused(folder: Path) -> None:
    weights = build("marian").model.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpoint, match="pytorch_model"):
        HFBackend.load(folder)
    loaded = HFBackend.load(folder, bin_weights=True, device="cpu")
    assert loaded.name == build("marian").name.replace("hf:marian@", "hf:model@")


def test_a_model_with_code_of_its_own_is_refused(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UnsafeCheckpoint, match="own"):
        HFBackend.load(folder)


def test_truncated_weights_and_missing_folders_are_named(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptState, match=r"model\.safetensors"):
        HFBackend.load(folder)
    with pytest.raises(ModelNotFound, match="nowhere"):
        HFBackend.load(tmp_path / "nowhere")


def test_a_folder_of_a_language_model_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=1, n_layer=1, vocab_size=V))
    model.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CorruptState):
        HFBackend.load(tmp_path)
