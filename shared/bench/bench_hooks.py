"""What recording and patching cost: forward passes of a model of SmolLM2-135M's size.

The plain, recorded and patched passes take turns, and the fastest of each counts, so a busy machine
slows all three alike. The weights are random: time does not depend on them. Exit code 1 where a
recorded or patched pass takes more than 1.10 times a plain one.
"""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lipogram.llm import patch, record, run_from

CEILING = 1.10
ROWS, TOKENS, WINDOW = 2, 32, range(12, 17)
SITES = ["resid_in", "mlp_act", "attn_out"]


def smollm2_sized() -> LlamaForCausalLM:
    """134.5 million random weights in SmolLM2-135M's shape."""
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.train(False)
    return model


def main() -> None:
    """Measures, prints, and judges the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = smollm2_sized()
    tokens = torch.randint(0, 49_152, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), record(model, SITES) as recording:
        model(tokens, use_cache=False)
    window = {(site, layer): recording[site, layer] for site in SITES[1:] for layer in WINDOW}
    start = WINDOW[0]
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "plain": nullcontext,
        "recorded": lambda: record(model, SITES),
        "patched": lambda: patch(model, window),
        f"run from block {start}": lambda: run_from(model, start, recording["resid_in", start]),
    }
    best = dict.fromkeys(ways, float("inf"))
    with torch.no_grad():
        for _ in range(arguments.repeats):
            for name, way in ways.items():
                began = time.perf_counter()
                with way():
                    model(tokens, use_cache=False)
                best[name] = min(best[name], time.perf_counter() - began)
    print(
        f"random llama of {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M weights, "
        f"30 blocks, float32; {ROWS} × {TOKENS} tokens; {arguments.threads} threads; "
        f"fastest of {arguments.repeats}; torch {torch.__version__}"
    )
    print(f"recorded: {', '.join(SITES)} of all blocks; patched: {len(window)} places")
    ratios = {name: seconds / best["plain"] for name, seconds in best.items()}
    for name, seconds in best.items():
        print(f"{name:>18} {seconds * 1e3:8.1f} ms {ratios[name]:6.3f} of plain")
    if too_slow := [name for name in ("recorded", "patched") if ratios[name] > CEILING]:
        sys.exit(f"above {CEILING} of a plain pass: {', '.join(too_slow)}")


if __name__ == "__main__":
    main()
