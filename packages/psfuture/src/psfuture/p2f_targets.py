"""Translations of whole sources by the model that is to be trained: targets it has no quarrel with.

Trained on them (sequence-level distillation, Kim and Rush 2016, of the model into itself) it learns
to say early what it would say anyway, and its translations of whole sentences stay what they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from lipogram.errors import CorruptState
from psfuture.backend import Backend
from psfuture.units import Unit, source_words, split

ROWS, CHUNK = 32, 256
GROWTH, EXTRA = 2.5, 5
"""A translation has at most GROWTH target tokens a source token, and EXTRA more."""


def translations(backend: Backend, sources: Sequence[str], *, unit: Unit = "word") -> list[str]:
    """Greedy translations of whole sources.

    Args:
        backend: the model.
        sources: a sentence each, with at least a word.
        unit: see :mod:`psfuture.units`.
    """
    ids = [
        backend.source_ids(source_words(split(text, unit), unit), closed=True) for text in sources
    ]
    found = [""] * len(sources)
    order = sorted(range(len(sources)), key=lambda at: len(ids[at]))
    for start in range(0, len(order), ROWS):
        live = order[start : start + ROWS]
        targets: dict[int, list[int]] = {at: [] for at in live}
        state, logits = backend.begin(backend.encode([ids[at] for at in live]), [[]] * len(live))
        while live:
            best = logits.argmax(-1).tolist()
            kept = [
                row
                for row, (at, token) in enumerate(zip(live, best, strict=True))
                if token != backend.eos and len(targets[at]) < round(GROWTH * len(ids[at])) + EXTRA
            ]
            live, best = [live[row] for row in kept], [best[row] for row in kept]
            for at, token in zip(live, best, strict=True):
                targets[at].append(token)
            if live:
                state, logits = backend.step(state.select(kept), best)
        for at, tokens in targets.items():
            found[at] = backend.target_text(tokens)
    return found


def kept_translations(
    backend: Backend,
    sources: Sequence[str],
    path: Path,
    *,
    unit: Unit = "word",
    progress: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """As :func:`translations`, kept in a file that grows by a chunk at a time.

    Args:
        backend: the model.
        sources: a sentence each; those at the file's beginning are not translated again.
        path: JSON lines, `[source, translation]` each.
        unit: see :mod:`psfuture.units`.
        progress: told how many sentences are done.

    Raises:
        CorruptState: the file holds other sources.
    """
    done: list[str] = []
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]  # a last line may be torn
    for source, line in zip(sources, whole.splitlines(), strict=False):
        try:
            known, target = json.loads(line)
        except ValueError:
            known, target = None, ""
        if known != source or not isinstance(target, str):
            raise CorruptState(f"{path}, line {len(done) + 1} is of another source: remove it")
        done.append(target)
    progress(len(done))
    with open(path, "ab") as file:
        file.truncate(len(whole))
        while len(done) < len(sources):
            some = sources[len(done) : len(done) + CHUNK]
            found = translations(backend, some, unit=unit)
            for source, target in zip(some, found, strict=True):
                file.write((json.dumps([source, target], ensure_ascii=False) + "\n").encode())
            file.flush()
            done += found
            progress(len(some))
    return done
