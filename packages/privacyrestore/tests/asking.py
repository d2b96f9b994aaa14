"""Real clients and proxies over a bank of the corpus's spans, for tests that look at the wire."""

import contextlib
import threading

import torch

from privacyrestore.attention_weights import UniformWeigher
from privacyrestore.batch_engine import BatchEngine
from privacyrestore.client import PrivacyClient
from privacyrestore.ledger import PrivacyLedger
from privacyrestore.mechanisms import Subspace
from privacyrestore.proxy import create_proxy, create_proxy_server
from privacyrestore.restoration_bank import RestorationBank, identify
from privacyrestore.server import create_app
from privacyrestore.serving import create_server
from privacyrestore.span_detector import SpanDetector
from privacyrestore.steered_model import SteeredModel
from privacyrestore.transport import Http


def corpus_bank(corpus, model, *, every=3):
    """A bank of random unit vectors for the corpus's spans at every `every`-th head of `model`."""
    identity = identify(model)
    sites = [(layer, head) for layer in range(identity.n_layers)
             for head in range(identity.n_heads)][::every]  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(corpus.vocabulary), len(sites), identity.head_dim, generator=draw)
    vectors /= vectors.flatten(1).norm(dim=1)[:, None, None]
    return RestorationBank.build(
        vectors, sites, corpus.vocabulary, identity, aliases=corpus.aliases
    )


def make_client(bank, folder, url, *, budget=None, subject="default", mechanism=None, **http):
    """A client of that server, with its ledger in `folder`."""
    return PrivacyClient(
        bank,
        SpanDetector(bank.vocabulary, bank.aliases),
        mechanism or Subspace(30.0),
        UniformWeigher(),
        PrivacyLedger(folder / "state" / "ledger.db", budget),
        Http(url, **({"pause": 0.01} | http)),
        subject,
    )


@contextlib.contextmanager
def running(make):
    """The address that a server tells once it is served, which runs in a thread meanwhile.

    Args:
        make: gives the server, a uvicorn one, when it is called with `ready`.
    """
    addresses, started = [], threading.Event()

    def ready(url):
        addresses.append(url)
        started.set()

    server = make(ready)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert started.wait(30)
        yield addresses[0]
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


def proxied(client, **settings):
    """The base URL of a proxy before `client`, served on a free port of loopback by a thread."""
    app = create_proxy(client, **settings)
    return running(lambda ready: create_proxy_server(app, ready=ready))


@contextlib.contextmanager
def served(loaded, bank):
    """The address of a server over a loaded model and one bank, in a thread of this process."""
    steered = SteeredModel(loaded.model, loaded.tokenizer, [bank])
    with BatchEngine(steered) as engine:
        app = create_app(engine)
        with running(lambda ready: create_server(app, ready=ready, grace=1.0)) as url:
            yield url
