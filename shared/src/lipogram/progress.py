"""A bar on standard error for work that takes more than seconds."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(
    title: str, total: int, done: int = 0, *, wanted: bool = True
) -> Iterator[Callable[[int], None]]:
    """Shows the work done while inside; nothing where standard error is no terminal.

    Args:
        title: what is being done.
        total: units of work.
        done: of them, finished before.
        wanted: False shows nothing anywhere.

    Yields:
        What to call with the number of units just finished.
    """
    if not (wanted and sys.stderr.isatty()):
        yield lambda units: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda units: progress.advance(task, units)
