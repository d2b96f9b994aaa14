"""A sweep over six thresholds against the loop that the method's description suggests.

The naive loop asks the model twice a decision, from scratch: source encoded, target replayed, once
for the prefix and once for the prefix with its future. Both give the same words at the same delays,
or the benchmark fails. One thread; the model and the sentences are the embedded ones.
"""

import time

import torch

from psfuture import load
from psfuture.debian_text import evaluation_split
from psfuture.divergences import cosine
from psfuture.futures import Fixed
from psfuture.policies import PsFuture
from psfuture.simulation import sweep_traces
from psfuture.stream import room_for

THRESHOLDS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
SENTENCES = 40
FLOOR = 8.0


def naive(model, words, future, threshold):
    """Target tokens and their delays, one decision at a time."""
    reads, tokens, delays = 1, [], []
    while True:
        done = reads == len(words)
        source = model.source_ids(words[:reads], closed=True)
        _, logits = model.begin(model.encode([source]), [tokens])
        token = int(logits.argmax())
        ended = token == model.eos or len(tokens) >= room_for(len(source))
        if done and ended:
            return tokens, delays
        write = done
        if not done and not ended:
            longer = model.source_ids((*words[:reads], *future), closed=True)
            _, other = model.begin(model.encode([longer]), [tokens])
            write = float(cosine(logits.softmax(-1), other.softmax(-1))) <= threshold
        if write:
            tokens.append(token)
            delays.append(reads)
        else:
            reads += 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    model, future = load("enpt"), Fixed()
    sources = list(evaluation_split("pt-br").pilot.sample(SENTENCES).sources)
    policies = {f"{x:g}": PsFuture(x, future) for x in THRESHOLDS}
    sweep_traces(model, policies, sources[:2])  # warm
    start = time.perf_counter()
    swept = sweep_traces(model, policies, sources)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    looped = {
        name: [naive(model, tuple(s.split()), future.words, x) for s in sources]
        for name, x in zip(policies, THRESHOLDS, strict=True)
    }
    theirs = time.perf_counter() - start
    decisions = differing = 0
    for name, traces in swept.items():
        for trace, (tokens, delays) in zip(traces, looped[name], strict=True):
            decisions += len(trace.actions)
            same = (trace.tokens, trace.token_delays) == (tuple(tokens), tuple(delays))
            differing += not same
    print(f"{model.name}, {SENTENCES} sentences, {len(THRESHOLDS)} thresholds, one thread")
    print(f"naive loop {theirs:.1f} s, sweep {ours:.1f} s: {theirs / ours:.1f} times as fast")
    print(
        f"{decisions} reads and writes; {differing} of {len(looped) * SENTENCES} sentences differ"
    )
    if differing or theirs < FLOOR * ours:
        raise SystemExit(f"below the floor of {FLOOR} times, or outputs differ")
