"""Eight clients with vectors of their own: one batch against one call after the other.

Both go through the same engine, in turns, and must say the same. Prints threads, sizes, tokens a
second of wall and of CPU time, and their ratio. Exit code 1 where the batch is not three times as
fast by CPU time, which a busy machine changes least, or says something else.
"""

import statistics
import sys
import time

import torch
from torch.nn.functional import normalize
from transformers import LlamaConfig, LlamaForCausalLM

from lipogram.console import show
from lipogram.errors import ModelNotFound
from lipogram.llm import load_model
from lipogram.llm.tiny import byte_tokenizer
from lipogram.report import Table
from privacyrestore.batch_engine import BatchEngine
from privacyrestore.engine_request import Request
from privacyrestore.restoration_bank import RestorationBank, identify
from privacyrestore.steered_model import SteeredModel

CLIENTS, NEW_TOKENS, REPEATS, SITES, FLOOR = 8, 36, 3, 46, 3.0
PROMPTS = range(16, 16 + 2 * CLIENTS, 2)  # tokens


def main() -> int:
    """Print the table; 1 if the floor is missed."""
    name, steered = smollm2()
    (bank,) = steered.banks.values()
    draw = torch.Generator().manual_seed(0)
    vocabulary = steered.model.config.vocab_size
    requests = [
        Request(
            prompt_ids=torch.randint(vocabulary, (length,), generator=draw).tolist(),
            meta=normalize(torch.randn(bank.n, generator=draw), dim=0),
            max_new_tokens=NEW_TOKENS,
        )
        for length in PROMPTS
    ]
    seconds: dict[str, list[tuple[float, float]]] = {"one after the other": [], "in one batch": []}
    same, n_tokens = True, 0
    with BatchEngine(steered, max_rows=CLIENTS) as engine:
        engine.submit(Request(prompt_ids=[1], max_new_tokens=2)).result()  # warm
        for _ in range(REPEATS):
            start = clocks()
            alone = [engine.submit(request).result() for request in requests]
            seconds["one after the other"].append(since(start))
            start = clocks()
            handles = [engine.submit(request) for request in requests]
            together = [handle.result() for handle in handles]
            seconds["in one batch"].append(since(start))
            same &= [one.token_ids for one in alone] == [one.token_ids for one in together]
            n_tokens = sum(len(one.token_ids) for one in alone)
    rows = [
        [way, *(n_tokens / statistics.median(times) for times in zip(*pairs, strict=True))]
        for way, pairs in seconds.items()
    ]
    ratios = [fast / slow for slow, fast in zip(rows[0][1:], rows[1][1:], strict=True)]
    caption = (
        f"{name}, {torch.get_num_threads()} threads, {CLIENTS} clients, prompts of {PROMPTS[0]} to "
        f"{PROMPTS[-1]} tokens, {n_tokens} new tokens in all, {len(bank.sites)} sites, "
        f"median of {REPEATS}"
    )
    columns = ["way", "tokens/s wall", "tokens/s CPU"]
    show(Table(columns, [*rows, ["ratio", *ratios]], caption=caption, digits=2))
    if not same:
        print("floor missed: the batch says something else than each client alone")
    if ratios[1] < FLOOR:
        print(f"floor missed: {ratios[1]:.2f} times as fast in one batch, wanted {FLOOR}")
    return int(not same or ratios[1] < FLOOR)


def smollm2() -> tuple[str, SteeredModel]:
    """SmolLM2, or where it is not to be had a random model of its sizes, with a random bank."""
    try:
        loaded = load_model("smollm2", dtype="float32", device="cpu")
        name, model, tokenizer = "SmolLM2-135M", loaded.model, loaded.tokenizer
    except ModelNotFound:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        )
        name, model = "random, sizes of SmolLM2", LlamaForCausalLM(config)
        tokenizer = byte_tokenizer()
    identity = identify(model)
    draw = torch.Generator().manual_seed(1)
    places = torch.randperm(identity.n_layers * identity.n_heads, generator=draw)[:SITES]
    sites = sorted(divmod(place, identity.n_heads) for place in places.tolist())
    vectors = torch.randn(14, len(sites), identity.head_dim, generator=draw)
    words = [f"finding-{number:02}" for number in range(14)]
    bank = RestorationBank.build(vectors, sites, words, identity, gamma=0.1)
    return name, SteeredModel(model, tokenizer, bank)


def clocks() -> tuple[float, float]:
    """Wall and CPU time, in seconds."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    """Seconds of both since then."""
    wall, cpu = clocks()
    return wall - start[0], cpu - start[1]


if __name__ == "__main__":
    sys.exit(main())
