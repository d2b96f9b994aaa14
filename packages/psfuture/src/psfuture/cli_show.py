"""What the command prints: a translation while it grows, progress, scores."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import typer

from lipogram.console import show

if TYPE_CHECKING:
    from psfuture.session import Event, Session
    from psfuture.trace import Trace


class Reporter(Protocol):
    """Shows sentences as they are read and written."""

    def events(self, number: int, events: Sequence[Event]) -> None:
        """What has just happened in a sentence."""

    def end(self, number: int, session: Session) -> None:
        """The sentence is complete."""


def reporter(*, as_json: bool, unit: str) -> Reporter:
    """Colours on a terminal, else the translation alone, a line a sentence; or events as JSON."""
    if as_json:
        return _Json()
    return _Colours() if sys.stdout.isatty() else _Plain("" if unit == "char" else " ")


def show_trace(trace: Trace) -> None:
    """A sentence word by word: what was read, and what was shown after it."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for reads, word in enumerate(trace.source, 1):
        shown = " ".join(w for w, at in zip(trace.words, trace.delays, strict=True) if at == reads)
        console.print(f"{reads:>4}  {word:<20}", style="dim", end="", markup=False)
        console.print(shown, style="bold green", markup=False)


class _Plain:
    def __init__(self, joint: str):
        self.joint, self.begun = joint, False

    def events(self, number: int, events: Sequence[Event]) -> None:
        for event in events:
            if event.kind == "write":
                print(self.joint if self.begun else "", event.text, sep="", end="", flush=True)
                self.begun = True

    def end(self, number: int, session: Session) -> None:
        print(flush=True)
        self.begun = False


class _Json:
    def events(self, number: int, events: Sequence[Event]) -> None:
        for event in events:
            self._print({"sentence": number} | asdict(event))

    def end(self, number: int, session: Session) -> None:
        trace = session.trace
        held = {"kind": "end", "text": trace.text, "delays": list(trace.delays)}
        self._print({"sentence": number} | held)

    def _print(self, values: Mapping[str, Any]) -> None:
        print(json.dumps(values, ensure_ascii=False), flush=True)


class _Colours:
    """READ words faint, WRITE words bright, in one line."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, soft_wrap=True)

    def events(self, number: int, events: Sequence[Event]) -> None:
        for event in events:
            style = "dim" if event.kind == "read" else "bold green"
            self.console.print(event.text, style=style, end=" ", markup=False)

    def end(self, number: int, session: Session) -> None:
        self.console.print()


def steps(advance: Callable[[int], None]) -> Callable[[int], None]:
    """What is told how much is done, for a bar that is told how much was added."""
    done = 0

    def told(count: int) -> None:
        nonlocal done
        advance(count - done)
        done = count

    return told


def tell_scores(scored: Mapping[str, Any], as_json: bool) -> None:
    """Scores as a table, or as JSON with null for what is not defined."""
    from lipogram.report import Table
    from lipogram.settings import plain

    if as_json:
        typer.echo(json.dumps(plain(dict(scored), "scores"), indent=2))
        return
    names = [name for name in scored if not name.endswith("_signature")]
    show(Table(["measure", "value"], [[name, scored[name]] for name in names], digits=3))
    for name in scored:
        if name.endswith("_signature"):
            typer.echo(f"{name.removesuffix('_signature')}: {scored[name]}")
