"""A whole test set, read word by word as if it were being said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lipogram.errors import InvalidSetting
from psfuture.backend import Backend
from psfuture.engine import Engine, Memo
from psfuture.futures import PreparedFuture
from psfuture.policies import Policy
from psfuture.stream import Stream, word_delays
from psfuture.trace import Trace
from psfuture.units import Unit, source_words, split

LONGEST = 1024
"""Source units of one sentence: each is read with all the earlier ones, so the work is cubic."""


def simulate(
    backend: Backend,
    policy: Policy,
    sources: Sequence[str],
    references: Sequence[str] | None = None,
    *,
    unit: Unit = "word",
    batch_size: int = 64,
    analysis: bool = False,
    progress: Callable[[int], None] = lambda count: None,
) -> list[Trace]:
    """Translate each sentence while it is read; equal to a :class:`~psfuture.session.Session`.

    Args:
        backend: the model.
        policy: when to write.
        sources: a sentence each.
        references: a translation each.
        unit: what is read and shown: words, or characters where words are not parted.
        batch_size: sentences in lock-step.
        analysis: allow an oracle.
        progress: told how many sentences are done.

    Raises:
        InvalidSetting: another number of references than of sources, a batch size below 1, or a
            sentence longer than the model takes, which the message numbers.
        NotFinite: the model's logits are NaN or infinite.
    """
    found = sweep_traces(
        backend,
        {policy.name: policy},
        sources,
        references,
        unit=unit,
        batch_size=batch_size,
        analysis=analysis,
        progress=progress,
    )
    return found[policy.name]


def sweep_traces(
    backend: Backend,
    policies: Mapping[str, Policy],
    sources: Sequence[str],
    references: Sequence[str] | None = None,
    *,
    unit: Unit = "word",
    batch_size: int = 64,
    analysis: bool = False,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, list[Trace]]:
    """Several policies over one test set; encodings and answers of the model are shared.

    Args:
        backend: the model.
        policies: by name.
        sources: a sentence each.
        references: a translation each.
        unit: see :func:`simulate`.
        batch_size: see :func:`simulate`.
        analysis: see :func:`simulate`.
        progress: see :func:`simulate`.

    Returns:
        Traces by the policy's name, in the order of the sources.

    Raises:
        InvalidSetting, NotFinite: see :func:`simulate`.
    """
    if references is not None and len(references) != len(sources):
        raise InvalidSetting(f"{len(sources)} sources and {len(references)} references")
    if batch_size < 1:
        raise InvalidSetting(f"a batch of {batch_size} sentences")
    found: dict[str, list[Trace]] = {name: [] for name in policies}
    for number, line in enumerate(sources, 1):
        check_length(backend, split(line, unit), unit, f"sentence {number}")
    for start in range(0, len(sources), batch_size):
        batch = [split(line, unit) for line in sources[start : start + batch_size]]
        memo = Memo()
        for future in {getattr(policy, "future", None) for policy in policies.values()}:
            if isinstance(future, PreparedFuture):
                future.prepare(batch)
        for name, policy in policies.items():
            streams = [Stream(words=list(words), unit=unit, complete=True) for words in batch]
            Engine(backend, policy, memo, unit=unit, analysis=analysis).run(streams, batch)
            for at, stream in enumerate(streams, start):
                reference = references[at] if references is not None else None
                found[name].append(trace_of(backend, stream, reference))
        progress(min(start + batch_size, len(sources)))
    return found


def check_length(
    backend: Backend, units: Sequence[str], unit: Unit, what: str = "the sentence"
) -> None:
    """Refuse a source that the model cannot take as one sentence.

    Raises:
        InvalidSetting: over `LONGEST` units, or over the model's positions.
    """
    if len(units) > LONGEST:
        raise InvalidSetting(
            f"{what} has {len(units)} units; at most {LONGEST} are translated as one: split it"
        )
    if backend.max_source is not None and units:
        tokens = len(backend.source_ids(source_words(units, unit), closed=True))
        if tokens > backend.max_source:
            raise InvalidSetting(
                f"{what} has {tokens} tokens and the model {backend.max_source} positions: split it"
            )


def trace_of(backend: Backend, stream: Stream, reference: str | None = None) -> Trace:
    """What happened to a stream."""
    words, delays = word_delays(backend, stream)
    return Trace(
        source=tuple(stream.words),
        words=words,
        delays=delays,
        tokens=tuple(stream.tokens),
        token_delays=tuple(stream.token_delays),
        actions="".join(stream.actions),
        reference=reference,
    )
