"""A model so small that its every distribution is known, and a server of the web page."""

import contextlib
import threading
from dataclasses import dataclass

import pytest
import torch

from lipogram import assets
from psfuture.models import load
from psfuture.server import create_app, create_server

UNLIKELY = -20.0


def english_portuguese():
    """The packaged model; without it, the test is skipped."""
    if assets.find("bergamot-enpt") is None:
        pytest.skip("bergamot-enpt is not here; `psfuture demo` brings it")
    return load("enpt")


@contextlib.contextmanager
def serving(backend, **settings):
    """The page's address and its sentences, served on a free port of loopback by a thread."""
    app, addresses, started = create_app(backend, **settings), [], threading.Event()

    def ready(url):
        addresses.append(url)
        started.set()

    server = create_server(app, ready=ready)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert started.wait(30)
        yield addresses[0], app.state.sessions
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


@dataclass
class EchoState:
    sources: list
    positions: list

    def select(self, rows):
        return EchoState([self.sources[r] for r in rows], [self.positions[r] for r in rows])


class EchoBackend:
    """Repeats its source word by word; of the last word it is not sure.

    There it gives e / (1 + e) to the word and the rest to the end of the sentence, so that the
    cosine distance to what it says with more words behind is 0.061. It fails on "poison".
    """

    name, vocab_size, eos, max_source, attends = "echo", 512, 0, None, False
    device = torch.device("cpu")

    def __init__(self):
        self.words, self.ids, self.batches = ["</s>"], {}, []

    def source_ids(self, words, *, closed):
        for word in words:
            if word not in self.ids:
                self.ids[word] = len(self.words)
                self.words.append(word)
        return [self.ids[word] for word in words] + [self.eos] * closed

    def target_text(self, tokens):
        return " ".join(self.words[token] for token in tokens if token != self.eos)

    def encode(self, sources):
        return [torch.tensor(source, dtype=torch.float32)[:, None] for source in sources]

    def begin(self, encodings, targets):
        sources = [[int(i) for i in e[:, 0] if i != self.eos] for e in encodings]
        return self.said(EchoState(sources, [len(target) for target in targets]))

    def step(self, state, tokens):
        return self.said(EchoState(state.sources, [at + 1 for at in state.positions]))

    def join(self, states):
        return EchoState(
            [source for state in states for source in state.sources],
            [at for state in states for at in state.positions],
        )

    def said(self, state):
        self.batches.append(len(state.sources))
        logits = torch.full((len(state.sources), self.vocab_size), UNLIKELY)
        for row, (source, at) in enumerate(zip(state.sources, state.positions, strict=True)):
            if any(self.words[word] == "poison" for word in source):
                logits[row] = torch.nan
            elif at < len(source):
                logits[row, source[at]] = 1.0
                logits[row, self.eos] = 0.0 if at == len(source) - 1 else UNLIKELY
            else:
                logits[row, self.eos] = 1.0
        return state, logits
