"""The libraries' own output, where nobody watches."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """No word of transformers inside but errors, and no bar of it where stderr is no terminal.

    What is wrong with a model is raised, so a table of it need not be printed too.
    """
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    try:
        if sys.stderr.isatty():
            yield
        else:
            logging.disable_progress_bar()
            with redirect_stderr(io.StringIO()):  # one bar, of GGUF, cannot be turned off
                yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
