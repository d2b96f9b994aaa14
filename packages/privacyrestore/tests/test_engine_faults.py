import copy
import logging
import threading
import time
from dataclasses import replace

import pytest
import torch

from lipogram.errors import InvalidSetting, NotFinite
from lipogram.llm.tiny import EOS, tiny_random
from privacyrestore.batch_engine import BatchEngine
from privacyrestore.engine_request import Request
from privacyrestore.errors import (
    BankMismatch,
    EngineClosed,
    EngineFailure,
    Expired,
    InvalidPayload,
    Overloaded,
    TooLong,
)
from privacyrestore.steered_model import SteeredModel

from .banks import tiny_bank
from .engine_rows import alone, requests, steered

BAD = 250  # a token that the prompts of `requests` are cleared of


def clean(asked):
    """The same requests without the token BAD."""
    return [
        replace(one, prompt_ids=[token if token != BAD else 1 for token in one.prompt_ids])
        for one in asked
    ]


class Held:
    """A piece callback that stops the engine's thread until it is let go."""

    def __init__(self):
        self.there, self.go = threading.Event(), threading.Event()

    def __call__(self, _piece):
        self.there.set()
        assert self.go.wait(30)


def test_a_cancelled_row_leaves_and_the_others_do_not_notice():
    model = steered()
    asked = requests(model, max_new_tokens=20, logprobs=0)
    seen, handles = [], {}

    def on_piece(piece):
        seen.extend(piece.logprobs)
        if len(seen) == 5:
            handles[3].cancel()

    with BatchEngine(model) as engine:
        held = Held()
        first = engine.submit(asked[0], held)
        assert held.there.wait(30)
        handles = {
            row: engine.submit(asked[row], on_piece if row == 3 else None) for row in range(1, 8)
        }
        held.go.set()
        found = {row: handle.result(60) for row, handle in (handles | {0: first}).items()}
        ended = engine.stats().ended
        assert (ended["cancelled"], sum(ended.values())) == (1, 8)
        assert found[3].finish_reason == "cancelled"
        assert list(found[3].token_ids) == alone(model, asked[3])[:5]
        waiting = engine.submit(asked[1])
        waiting.cancel()
        waiting.cancel()
        assert waiting.result(60).finish_reason in ("cancelled", "length")
    for row in (0, 1, 2, 4, 5, 6, 7):
        assert list(found[row].token_ids) == alone(model, asked[row])


def test_a_client_that_cannot_listen_ends_alone():
    model = steered("gpt2")
    asked = requests(model)

    def broken(_piece):
        raise ConnectionResetError("gone")

    with BatchEngine(model) as engine:
        handles = [engine.submit(one, broken if i == 4 else None) for i, one in enumerate(asked)]
        with pytest.raises(ConnectionResetError):
            handles[4].result(60)
        for i, handle in enumerate(handles):
            if i != 4:
                assert list(handle.result(60).token_ids) == alone(model, asked[i])
        assert engine.stats().ended["failed"] == 1


def test_logits_that_are_not_numbers_fail_their_row_alone():
    loaded = tiny_random("llama")
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[BAD] = float("nan")
    model = SteeredModel(loaded.model, loaded.tokenizer, tiny_bank(loaded.model))
    asked = clean(requests(model))
    bad = replace(asked[3], prompt_ids=[*asked[3].prompt_ids[:-1], BAD])
    with BatchEngine(model) as engine:
        handles = [engine.submit(bad if i == 3 else one) for i, one in enumerate(asked)]
        with pytest.raises(NotFinite):
            handles[3].result(60)
        for i, handle in enumerate(handles):
            if i != 3:
                assert list(handle.result(60).token_ids) == alone(model, asked[i])


def test_a_row_that_breaks_the_pass_fails_and_the_others_are_read_again():
    model = steered()
    asked = clean(requests(model))
    bad = replace(asked[1], prompt_ids=[BAD, *asked[1].prompt_ids])

    def fall(_module, arguments, options):
        ids = options.get("input_ids", arguments[0] if arguments else None)
        if (ids == BAD).any():
            raise ValueError(f"prompt {ids.tolist()} is broken")

    hook = model.model.register_forward_pre_hook(fall, with_kwargs=True)
    try:
        with BatchEngine(model) as engine:
            held = Held()
            first = engine.submit(asked[0], held)
            assert held.there.wait(30)
            handles = [engine.submit(bad if i == 1 else one) for i, one in enumerate(asked)]
            held.go.set()
            with pytest.raises(EngineFailure, match=r"^this request failed: ValueError$"):
                handles[1].result(60)
            found = [handle.result(60) for i, handle in enumerate(handles) if i != 1]
            again = first.result(60)
    finally:
        hook.remove()
    assert [list(completion.token_ids) for completion in found] == [
        alone(model, one) for i, one in enumerate(asked) if i != 1
    ]
    assert list(again.token_ids) == alone(model, asked[0])


def test_a_pass_that_fails_between_two_layers_leaves_no_half_grown_cache():
    model = steered("qwen3")
    asked = [replace(one, temperature=0.8, seed=4) for one in requests(model)]
    failures = []

    def fall(_module, arguments, options):
        hidden = arguments[0] if arguments else options["hidden_states"]
        if len(hidden) > 1 and hidden.shape[1] == 1 and len(failures) < 3:
            failures.append(len(hidden))
            raise RuntimeError("can't allocate memory")

    with BatchEngine(model) as engine:
        expected = [engine.submit(one).result(60).token_ids for one in asked]
    layer = model.model.model.layers[1]
    hook = layer.register_forward_pre_hook(fall, with_kwargs=True)
    try:
        with BatchEngine(model) as engine:
            found = [handle.result(60) for handle in [engine.submit(one) for one in asked]]
    finally:
        hook.remove()
    assert len(failures) == 3
    assert [completion.token_ids for completion in found] == expected


class Fragile:
    """A tokenizer that cannot decode one token."""

    def __init__(self, tokenizer, token):
        self._tokenizer, self._token = tokenizer, token

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def decode(self, tokens, **options):
        if self._token in tokens:
            raise OverflowError(f"of {tokens}")
        return self._tokenizer.decode(tokens, **options)


def test_tokens_that_make_no_text_fail_their_row_alone():
    model = steered()
    asked = requests(model)
    expected = [alone(model, one) for one in asked]
    token = expected[6][3]
    broken = [
        token in tokens[: one.max_new_tokens] for one, tokens in zip(asked, expected, strict=True)
    ]
    fragile = SteeredModel(model.model, Fragile(model.tokenizer, token), list(model.banks.values()))
    with BatchEngine(fragile) as engine:
        for i, handle in enumerate([engine.submit(one) for one in asked]):
            if broken[i]:
                with pytest.raises(EngineFailure, match=r"^this request failed: OverflowError$"):
                    handle.result(60)
            else:
                assert list(handle.result(60).token_ids) == expected[i]
    assert 0 < sum(broken) < 8


def test_a_thread_that_dies_leaves_nobody_waiting(monkeypatch):
    model = steered()
    asked = requests(model)
    engine = BatchEngine(model, max_rows=2)

    def die(_rows):
        raise MemoryError

    held = Held()
    handles = [engine.submit(asked[0], held)]
    assert held.there.wait(30)
    monkeypatch.setattr(engine._batch, "advance", die)
    handles += [engine.submit(one) for one in asked[1:5]]
    held.go.set()
    for handle in handles:
        with pytest.raises(EngineFailure, match="the engine has ended: MemoryError"):
            handle.result(60)
    with pytest.raises(EngineClosed):
        engine.submit(asked[0])
    assert engine.closed
    engine.close()


def test_a_full_queue_refuses_and_takes_again():
    model = steered()
    asked = requests(model)
    held = Held()
    with BatchEngine(model, max_rows=1, max_queue=2) as engine:
        handles = [engine.submit(asked[0], held)]
        assert held.there.wait(30)
        handles += [engine.submit(one) for one in asked[1:3]]
        for _ in range(2):
            with pytest.raises(Overloaded, match="3 requests"):
                engine.submit(asked[3])
        stats = engine.stats()
        assert (stats.running, stats.waiting, stats.accepted, stats.refused) == (1, 2, 3, 2)
        held.go.set()
        for handle, one in zip(handles, asked, strict=False):
            assert list(handle.result(60).token_ids) == alone(model, one)
        assert engine.submit(asked[3]).result(60).finish_reason == "length"


def test_time_runs_out_for_running_and_for_waiting_rows():
    model = steered()
    asked = requests(model, max_new_tokens=200)
    with BatchEngine(model, max_rows=1) as engine:
        held = Held()
        slow = engine.submit(replace(asked[0], timeout=0.2), held)
        assert held.there.wait(30)
        late = engine.submit(replace(asked[1], timeout=0.01))
        fine = engine.submit(replace(asked[2], max_new_tokens=5))
        time.sleep(0.25)
        held.go.set()
        for handle in (slow, late):
            with pytest.raises(Expired):
                handle.result(60)
        assert list(fine.result(60).token_ids) == alone(model, replace(asked[2], max_new_tokens=5))
        assert engine.stats().ended == {"expired": 2, "length": 1}
    with BatchEngine(model, timeout=0.01) as engine, pytest.raises(Expired):
        engine.submit(replace(asked[0], timeout=1e6)).result(60)


def test_close_joins_the_thread_and_fails_what_is_unfinished():
    model = steered("gpt_neox")
    model.model.train()
    asked = requests(model, max_new_tokens=300)
    held = Held()
    engine = BatchEngine(model, max_rows=1)
    handles = [engine.submit(asked[0], held), *(engine.submit(one) for one in asked[1:3])]
    assert held.there.wait(30)
    assert not model.model.training
    closing = threading.Thread(target=engine.close)
    closing.start()
    held.go.set()
    closing.join(30)
    assert not closing.is_alive()
    assert not [thread for thread in threading.enumerate() if thread.name == "batch-engine"]
    for handle in handles:
        with pytest.raises(EngineClosed):
            handle.result(0)
    with pytest.raises(EngineClosed):
        engine.submit(asked[0])
    engine.close()
    assert engine.stats().ended == {"closed": 3}
    assert model.model.training
    model.model.eval()


def test_what_cannot_be_answered_is_refused_before_it_counts():
    model = steered()
    good = requests(model)[0]
    with BatchEngine(model, max_tokens=64) as engine:
        refused = [
            (TooLong, {"max_new_tokens": 62}),
            (TooLong, {"prompt_ids": [1] * 64, "max_new_tokens": 1}),
            (InvalidSetting, {"prompt_ids": [1, 259]}),
            (InvalidSetting, {"prompt_ids": [-1]}),
            (InvalidPayload, {"meta": torch.zeros(3)}),
            (InvalidPayload, {"meta": good.meta * float("inf")}),
            (BankMismatch, {"bank": "0" * 64}),
        ]
        for error, changed in refused:
            with pytest.raises(error) as caught:
                engine.submit(replace(good, **changed))
            assert "259" not in str(caught.value)
        assert engine.stats().accepted == 0
        assert list(engine.submit(good).result(60).token_ids) == alone(model, good)
    with BatchEngine(model) as engine, pytest.raises(TooLong, match="limit of 512"):
        engine.submit(replace(good, max_new_tokens=510))


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_ids": []},
        {"prompt_ids": ["fever"]},
        {"prompt_ids": [1.5]},
        {"max_new_tokens": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"seed": -1},
        {"seed": 2**63},
        {"stop": ["a", ""]},
        {"logprobs": -1},
        {"timeout": 0},
        {"timeout": float("nan")},
    ],
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(InvalidSetting) as caught:
        Request(**{"prompt_ids": [1], **wrong})
    assert "fever" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong", [{"max_rows": 0}, {"max_tokens": 0}, {"max_queue": -1}, {"timeout": 0}]
)
def test_an_engine_without_room_is_refused_and_starts_no_thread(wrong):
    before = threading.active_count()
    with pytest.raises(InvalidSetting):
        BatchEngine(steered(), **wrong)
    assert threading.active_count() == before


def test_stop_strings_span_tokens_and_are_never_shown():
    model = steered()
    asked = requests(model, max_new_tokens=24)
    texts = [model.tokenizer.decode(alone(model, one), skip_special_tokens=True) for one in asked]
    with BatchEngine(model) as engine:
        for one, text in zip(asked, texts, strict=True):
            whole = [i for i in range(2, len(text) - 4) if "\ufffd" not in text[i : i + 3]]
            if not whole:
                continue
            stop = text[whole[0] : whole[0] + 3]
            pieces = []
            stopping = replace(one, stop=[stop, "never said"])
            completion = engine.submit(stopping, pieces.append).result(60)
            shown = "".join(piece.text for piece in pieces)
            assert completion.finish_reason == "stop"
            assert completion.text == shown == text[: text.index(stop)]
            assert len(completion.token_ids) < len(alone(model, one))


def test_the_end_token_ends_a_row_and_is_no_text():
    loaded = tiny_random("llama")
    model = SteeredModel(loaded.model, loaded.tokenizer)
    request = Request(prompt_ids=[5, 6, 7], max_new_tokens=12)
    expected = alone(model, request)
    other = copy.deepcopy(loaded.model)
    other.generation_config.eos_token_id = [EOS, expected[4]]
    with BatchEngine(SteeredModel(other, loaded.tokenizer)) as engine:
        completion = engine.submit(request).result(60)
        special = engine.submit(replace(request, stop="<s>")).result(60)
    n = expected.index(expected[4]) + 1
    assert (completion.finish_reason, list(completion.token_ids)) == ("stop", expected[:n])
    assert completion.text == loaded.tokenizer.decode(expected[: n - 1], skip_special_tokens=True)
    assert special.token_ids == completion.token_ids


def test_neither_prompt_nor_vector_is_logged_or_shown(caplog):
    model = steered()
    prompt = list(b"mild cough and finding-07")
    meta = requests(model)[0].meta
    request = Request(prompt_ids=prompt, meta=meta, stop="finding-07", max_new_tokens=4)

    def broken(_piece):
        raise ConnectionResetError

    with caplog.at_level(logging.DEBUG), BatchEngine(model) as engine:
        handle = engine.submit(request)
        completion = handle.result(60)
        with pytest.raises(ConnectionResetError):
            engine.submit(request, broken).result(60)
    shown = [repr(request), repr(completion), repr(handle), repr(engine.stats()), caplog.text]
    for text in shown:
        assert str(prompt[0]) + ", " + str(prompt[1]) not in text
        assert "tensor" not in text
        assert "finding-07" not in text
        assert f"{float(meta[0]):.4f}"[:6] not in text


def test_a_row_stays_where_the_model_s_frequencies_do_not_depend_on_its_neighbours():
    scaled = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 64,
    }
    loaded = tiny_random("phi3", rope_parameters=scaled, original_max_position_embeddings=64)
    with BatchEngine(SteeredModel(loaded.model, loaded.tokenizer)) as engine:
        assert engine.context == 64
        with pytest.raises(TooLong, match="limit of 64"):
            engine.submit(Request(prompt_ids=[1] * 60, max_new_tokens=5))
