import random
import threading
from collections import Counter
from dataclasses import replace

import pytest
import torch

from lipogram.llm.tiny import N_TOKENS, tiny_random
from privacyrestore.batch_engine import BatchEngine
from privacyrestore.engine_request import Request
from privacyrestore.steered_model import SteeredModel

from .banks import tiny_bank
from .engine_rows import alone, alone_with_logprobs, requests, steered, told

SLIDING = [("mistral", {"sliding_window": 8}), ("gemma2", {}), ("gemma3", {})]
ARCHITECTURES = [("llama", {}), ("gpt2", {}), ("gpt_neox", {}), ("qwen3", {}), *SLIDING]


@pytest.mark.parametrize(("model_type", "config"), ARCHITECTURES)
def test_rows_of_a_batch_say_what_each_says_alone(model_type, config):
    model = steered(model_type, **config)
    asked = requests(model, logprobs=N_TOKENS)
    with BatchEngine(model) as engine:
        found = [handle.result(60) for handle in [engine.submit(request) for request in asked]]
    for request, completion in zip(asked, found, strict=True):
        tokens, log_probs = alone_with_logprobs(model, request)
        assert list(completion.token_ids) == tokens
        assert (told(completion) - log_probs).abs().max() <= 1e-4
    if not config:  # the vectors matter
        plain = [alone(model, replace(request, meta=None)) for request in asked]
        assert [list(completion.token_ids) for completion in found] != plain


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_arrival_and_leaving_changes_nobody_s_tokens(seed):
    model, draw = steered(("llama", "gpt2", "mistral")[seed % 3]), random.Random(seed)
    asked = [
        replace(request, max_new_tokens=draw.randint(1, 20), logprobs=0)
        for request in requests(model, seed) + requests(model, seed + 100)
    ]
    draw.shuffle(asked)
    leaves = {row: draw.randint(1, 6) for row in draw.sample(range(len(asked)), 5)}
    handles, started, told_all = {}, threading.Event(), Counter()
    waiting = list(range(len(asked)))

    def submit(engine):
        row = waiting.pop(0)

        def on_piece(piece):
            started.wait()  # so that the first handle is there
            told_all[row] += len(piece.logprobs)
            if told_all[row] >= leaves.get(row, 99):
                handles[row].cancel()
            while waiting and draw.random() < 0.3:  # in the model's thread, between two tokens
                submit(engine)

        handles[row] = engine.submit(asked[row], on_piece)

    limits = {"max_rows": draw.randint(1, 5), "max_tokens": draw.choice([120, 4096])}
    with BatchEngine(model, **limits) as engine:
        submit(engine)
        started.set()
        while waiting or not all(handle.future.done() for handle in list(handles.values())):
            for handle in list(handles.values()):
                handle.result(60)
            if waiting:
                submit(engine)
        stats = engine.stats()
    for row, request in enumerate(asked):
        completion, expected = handles[row].result(), alone(model, request)
        if row in leaves and len(expected) > leaves[row]:
            assert completion.finish_reason == "cancelled"
            expected = expected[: leaves[row]]
        assert list(completion.token_ids) == expected
    assert sum(stats.ended.values()) == stats.accepted == len(asked)
    assert (stats.running, stats.waiting, stats.refused) == (0, 0, 0)


@pytest.mark.parametrize("max_rows", [3, 8])
def test_eight_clients_at_once_get_what_they_get_alone(max_rows):
    model = steered()
    asked = requests(model, max_new_tokens=24)
    found, texts = {}, {row: [] for row in range(8)}
    barrier = threading.Barrier(8)

    def client(row):
        barrier.wait()
        handle = engine.submit(asked[row], lambda piece: texts[row].append(piece.text))
        found[row] = handle.result(60)
        assert "".join(texts[row]) == found[row].text  # all of it came before the end

    with BatchEngine(model, max_rows=max_rows) as engine:
        threads = [threading.Thread(target=client, args=(row,)) for row in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for row in range(8):
        assert list(found[row].token_ids) == alone(model, asked[row])
        assert found[row].n_prompt == len(asked[row].prompt_ids)
        said = model.tokenizer.decode(found[row].token_ids, skip_special_tokens=True)
        assert found[row].text == said


def test_the_same_model_may_generate_beside_the_engine():
    model = steered()
    asked = requests(model, max_new_tokens=24)
    expected = [alone(model, request) for request in asked]
    with BatchEngine(model) as engine:
        handles = [engine.submit(request) for request in asked * 2]
        for row, request in enumerate(asked):
            ids = torch.tensor([request.prompt_ids])
            beside = model.generate(ids, None, [request.meta], max_new_tokens=24, do_sample=False)
            assert beside[0, ids.shape[1] :].tolist() == expected[row]
        assert [list(handle.result(60).token_ids) for handle in handles] == expected * 2


def test_a_draw_depends_on_its_seed_and_not_on_its_neighbours():
    model = steered()
    asked = [
        replace(request, temperature=1.0, top_p=0.9, seed=row)
        for row, request in enumerate(requests(model))
    ]
    with BatchEngine(model) as engine:
        one_by_one = [engine.submit(request).result(60) for request in asked]
        order = [5, 0, 7, 3, 1, 2, 6, 4]
        handles = {row: engine.submit(asked[row]) for row in order}
        other = engine.submit(replace(asked[3], seed=99)).result(60)
        fresh = {engine.submit(replace(asked[3], seed=None)).result(60).text for _ in range(3)}
    for row, completion in enumerate(one_by_one):
        assert handles[row].result(60).token_ids == completion.token_ids
    assert other.token_ids != one_by_one[3].token_ids
    assert len(fresh) == 3


def test_rows_of_banks_with_other_sites_and_rules_share_a_batch():
    loaded = tiny_random("qwen3")
    banks = [
        tiny_bank(loaded.model, every=5, rule="quadratic", gamma=3.0),
        tiny_bank(loaded.model, every=2, seed=1, gamma=1.0),
    ]
    model = SteeredModel(loaded.model, loaded.tokenizer, banks)
    asked = []
    for row, request in enumerate(requests(steered("qwen3"))):
        bank = banks[row % 2]
        meta = None if request.meta is None else bank.signal([row % 5]).float()
        asked.append(replace(request, meta=meta, bank=None if meta is None else bank.sha256))
    with BatchEngine(model) as engine:
        found = [handle.result(60) for handle in [engine.submit(request) for request in asked]]
    for row, (request, completion) in enumerate(zip(asked, found, strict=True)):
        single = SteeredModel(loaded.model, loaded.tokenizer, banks[row % 2])
        assert list(completion.token_ids) == alone(single, request)


def test_the_batch_stays_within_its_cells():
    model, shapes = steered(), []
    long = Request(prompt_ids=[7] * 60, max_new_tokens=3)
    short = Request(prompt_ids=[8] * 4, max_new_tokens=30)
    expected = [alone(model, long), *[alone(model, short)] * 3]

    def note(_module, _arguments, options):
        shapes.append(tuple(options["attention_mask"].shape))

    hook = model.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with BatchEngine(model, max_tokens=100) as engine:
            there = threading.Event()
            first = engine.submit(long, lambda _: there.wait(30))
            handles = [first, *(engine.submit(short) for _ in range(3))]
            there.set()
            found = [list(handle.result(60).token_ids) for handle in handles]
    finally:
        hook.remove()
    assert found == expected
    assert all(rows * width <= 100 for rows, width in shapes)
    assert max(rows for rows, _ in shapes) == 2  # 2 · 34 cells fit, 2 · 63 and 3 · 34 do not


def test_columns_that_nobody_needs_any_more_are_dropped():
    model, widths = steered(), []
    asked = [Request(prompt_ids=[7] * 60, max_new_tokens=3), *requests(model)[4:6]]

    def note(_module, _arguments, options):
        widths.append(options["attention_mask"].shape[1])

    hook = model.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with BatchEngine(model) as engine:
            there = threading.Event()
            handles = [engine.submit(asked[0], lambda _: there.wait(30))]
            handles += [engine.submit(request) for request in asked[1:]]
            there.set()
            assert [handle.result(60).n_prompt for handle in handles] == [60, 1, 5]
    finally:
        hook.remove()
    assert max(widths) == 62
    assert widths[-1] <= 20


def test_an_empty_batch_takes_the_next_row():
    model = steered("llama")
    asked = replace(requests(model)[0], max_new_tokens=40)
    with BatchEngine(model) as engine:
        for _ in range(20):
            said = threading.Event()
            handle = engine.submit(asked, lambda _, said=said: said.set())
            said.wait(30)
            handle.cancel()  # the only row, at any moment of a step
            handle.result(30)
        assert not engine.closed
        assert list(engine.submit(asked).result(60).token_ids) == alone(model, asked)
