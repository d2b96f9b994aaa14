"""What restoring costs: forward passes with and without it, and its hooks by themselves.

The hooks are timed on fixed activations against two loops. "sites" is written as a careful author
would: vectors looked up once, views, only the steered heads touched, one copy. "published" does the
arithmetic of the authors' code: for every site of a layer and each of the row's spans a one-hot row
of M·K numbers times the whole bank, in each forward pass. All of it is CPU time of one thread,
interleaved, the least of the repeats.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from privacyrestore.restoration import Restoration
from privacyrestore.restoration_bank import RestorationBank, identify

LAYERS, WIDTH, HEADS, D, PROMPT, STEPS, REPEATS = 30, 576, 9, 64, 64, 8, 5
N_SPANS, J, CALLS = 149, 5, 40

Hook = Callable[[Tensor], Any]


def model_of_smollm2_size() -> Any:
    """A random model of SmolLM2-135M's shape with a small vocabulary."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=WIDTH,
        intermediate_size=1536,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=3,
    )
    return LlamaForCausalLM(config).eval()


def sites_hooks(bank: RestorationBank, meta: Tensor) -> dict[int, Hook]:
    """The quadratic rule, a site at a time."""
    by_layer: dict[int, list[tuple[slice, Tensor]]] = {}
    for (layer, head), y in zip(bank.sites, bank.sites_of(meta).unbind(1), strict=True):
        place = slice(head * D, (head + 1) * D)
        by_layer.setdefault(layer, []).append((place, y[:, None]))

    def hook_of(sites: list[tuple[slice, Tensor]]) -> Hook:
        def hook(activation: Tensor) -> Tensor:
            x = activation.clone()
            for place, y in sites:
                part = x[..., place]
                dot = (part * y).sum(-1, keepdim=True)
                norm = part.norm(dim=-1, keepdim=True)
                x[..., place] = part + bank.gamma * norm * dot * y
            return x

        return hook

    return {layer: hook_of(sites) for layer, sites in by_layer.items()}


def published_hooks(bank: RestorationBank, spans: list[list[int]]) -> dict[int, Hook]:
    """The same, each vector looked up by a product with a one-hot row, for each row and span."""
    k = len(bank.sites)
    held = torch.nn.Linear(N_SPANS * k, D, bias=False)
    held.weight.data = bank.vectors.flatten(0, 1).T.contiguous()

    def hook_of(layer: int) -> Hook:
        def hook(activation: Tensor) -> Tensor:
            x = activation.clone()
            for number, (at, head) in enumerate(bank.sites):
                if at != layer:
                    continue
                place = slice(head * D, (head + 1) * D)
                for row, own in enumerate(spans):
                    total = torch.zeros(D)
                    for span in own:
                        one_hot = torch.zeros(N_SPANS * k)
                        one_hot[span * k + number] = 1
                        total = total + held(one_hot) / len(own)
                    y = total / total.norm()
                    part = x[row, :, place]
                    dot = (part * y).sum(-1, keepdim=True)
                    norm = part.norm(dim=-1, keepdim=True)
                    x[row, :, place] = part + bank.gamma * norm * dot * y
            return x

        return hook

    return {layer: hook_of(layer) for layer in sorted({layer for layer, _ in bank.sites})}


def dense_hooks(model: Any, bank: RestorationBank, meta: Tensor) -> dict[int, Hook]:
    """Ours."""
    restoration = Restoration(model, bank)
    restoration.set(meta)
    return {
        layer: lambda activation, number=number: restoration._restored(number, activation)
        for number, layer in enumerate(restoration.layers)
    }


def hook_seconds(hooks: dict[int, Hook], rows: int, tokens: int, calls: int) -> float:
    """CPU seconds of all hooks of one forward pass."""
    activation = torch.randn(rows, tokens, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for hook in hooks.values():
            hook(activation)
        begun = time.process_time()
        for _ in range(calls):
            for hook in hooks.values():
                hook(activation)
        return (time.process_time() - begun) / calls


@contextmanager
def dense(model: Any, bank: RestorationBank, meta: Tensor) -> Iterator[None]:
    """Ours."""
    restoration = Restoration(model, bank)
    restoration.set(meta)
    with restoration.attach():
        yield


@contextmanager
def plain(*_: Any) -> Iterator[None]:
    """Nothing."""
    yield


def seconds(way: Any, model: Any, bank: RestorationBank, meta: Tensor) -> float:
    """CPU seconds of a prompt and `STEPS` tokens for as many rows as there are vectors."""
    draw = torch.Generator().manual_seed(len(meta))
    ids = torch.randint(0, 8192, (len(meta), PROMPT), generator=draw)
    with torch.inference_mode(), way(model, bank, meta):
        begun = time.process_time()
        out = model(ids, use_cache=True, logits_to_keep=1)
        for _ in range(STEPS):
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
        return time.process_time() - begun


def main() -> int:
    """Print the ratios; 1 if one of the floors is missed."""
    torch.set_num_threads(1)
    model = model_of_smollm2_size()
    sites = [(layer, (5 * layer) % HEADS) for layer in range(2, 27)]
    sites += [(layer, (5 * layer + 4) % HEADS) for layer in range(4, 25)]
    vectors = torch.randn(N_SPANS, len(sites), D, generator=torch.Generator().manual_seed(1))
    names = [f"span {i}" for i in range(N_SPANS)]
    bank = RestorationBank.build(vectors, sorted(sites), names, identify(model), rule="quadratic")
    print(f"threads {torch.get_num_threads()}; {LAYERS} layers, width {WIDTH}, {HEADS} heads;")
    print(f"{len(sites)} sites in {len({s[0] for s in sites})} layers, {N_SPANS} spans, {J} a row")
    missed = 0
    for rows, floor in ((1, 1.10), (8, 1.05)):
        spans = [[(7 * row + 11 * j) % N_SPANS for j in range(J)] for row in range(rows)]
        meta = torch.stack([bank.signal(own) for own in spans]).float()
        spent: dict[str, list[float]] = {"plain": [], "dense": []}
        for way in (plain, dense):
            seconds(way, model, bank, meta)
        for _ in range(REPEATS):
            spent["plain"].append(seconds(plain, model, bank, meta))
            spent["dense"].append(seconds(dense, model, bank, meta))
        cost = min(spent["dense"]) / min(spent["plain"])
        print(
            f"batch {rows}, prompt of {PROMPT} and {STEPS} tokens: {min(spent['dense']):.3f} s "
            f"restored, {min(spent['plain']):.3f} s plain = {cost:.3f} x (at most {floor:.2f})"
        )
        missed += cost > floor
        for tokens in (1, PROMPT):
            ours = dense_hooks(model, bank, meta)
            loops = {"sites": sites_hooks(bank, meta), "published": published_hooks(bank, spans)}
            own = [hook_seconds(ours, rows, tokens, CALLS) for _ in range(REPEATS)]
            told = [
                f"batch {rows}, {tokens} tokens, hooks of a pass: dense {1e3 * min(own):.2f} ms"
            ]
            for name, hooks in loops.items():
                calls = CALLS if name == "sites" else 1
                theirs = [hook_seconds(hooks, rows, tokens, calls) for _ in range(REPEATS)]
                told.append(f"{name} {1e3 * min(theirs):.2f} ms = {min(theirs) / min(own):.1f} x")
            print("; ".join(told))
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
