"""The real server over the real engine and a small random model, on a free port of loopback."""

import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx
import torch

from lipogram.llm.tiny import EOS, tiny_random
from privacyrestore.batch_engine import BatchEngine
from privacyrestore.payload import Payload, message_length
from privacyrestore.restoration_bank import RestorationBank
from privacyrestore.server import Limits, create_app
from privacyrestore.serving import create_server
from privacyrestore.steered_model import SteeredModel

from .banks import tiny_bank

NAME = "tiny"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@dataclass
class LiveServer:
    url: str
    host: tuple[str, int]
    http: httpx.Client
    engine: BatchEngine
    bank: RestorationBank
    server: Any

    def post(self, path, body, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.post(
            path, content=content, headers={"content-type": "application/json"} | headers
        )

    def field(self, seed, mechanism="subspace", scale=1.0):
        draw = torch.Generator().manual_seed(seed)
        meta = torch.randn(message_length(self.bank, mechanism), generator=draw)
        meta *= scale / meta.norm()
        return Payload(self.bank.sha256, mechanism, meta.float()).encode()

    def connect(self):
        """A bare connection, for what no client does."""
        connection = socket.create_connection(self.host)
        connection.settimeout(10)
        return connection

    @contextlib.contextmanager
    def slow(self, seconds=0.02):
        """While the block runs, every token takes that long."""
        model = self.engine.steered.model
        model.pause = seconds
        try:
            yield
        finally:
            model.pause = 0.0

    def idle(self, seconds=10.0):
        """Whether all rows have left the engine within the time."""
        return within(lambda: not (self.engine.stats().running or self.engine.stats().waiting))


def within(condition, seconds=10.0):
    """Whether something becomes true within the time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@contextlib.contextmanager
def live_server(
    *, engine_options=None, limits=None, api_keys=(), debug=False, model=None, **serving
):
    """A server that runs while the block does."""
    loaded = model or endless_model()
    bank = tiny_bank(loaded.model)
    with BatchEngine(
        SteeredModel(loaded.model, loaded.tokenizer, bank), **engine_options or {}
    ) as engine:
        app = create_app(
            engine, model_name=NAME, api_keys=api_keys, limits=limits or Limits(), debug=debug
        )
        url, known = [], threading.Event()

        def ready(found):
            url.append(found)
            known.set()

        server = create_server(app, ready=ready, **{"grace": 1.0, **serving})
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            assert known.wait(10)
            host = httpx.URL(url[0])
            with httpx.Client(
                base_url=url[0], timeout=30, trust_env=False, verify=False, headers=_key(api_keys)
            ) as http:
                yield LiveServer(url[0], (host.host, host.port), http, engine, bank, server)
        finally:
            server.should_exit = True
            thread.join(20)
        assert not thread.is_alive()


def _key(api_keys):
    return {"authorization": f"Bearer {next(iter(api_keys))}"} if api_keys else {}


def chat(text, **fields):
    """A body of a chat completion, greedy."""
    return {
        "model": NAME,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 12,
        **fields,
    }


def completion(text, **fields):
    """A body of a text completion, greedy."""
    return {"model": NAME, "prompt": text, "temperature": 0, "max_tokens": 12, **fields}


def events(answer):
    """The objects of a stream, and whether it ended with [DONE]."""
    lines = [
        line.removeprefix("data: ")
        for line in answer.text.splitlines()
        if line.startswith("data: ")
    ]
    done = lines[-1] == "[DONE]"
    return [json.loads(line) for line in (lines[:-1] if done else lines)], done


def streamed_text(found):
    """What a stream of either kind says."""
    said = ""
    for event in found:
        for choice in event["choices"]:
            said += choice["delta"].get("content", "") if "delta" in choice else choice["text"]
    return said


def endless_model():
    """A random model that never says the end token, and takes `model.pause` seconds a pass."""
    loaded = tiny_random("llama", layers=2)
    loaded.model.pause = 0.0

    def after(model, _args, output):
        time.sleep(model.pause)
        output.logits[..., EOS] = -torch.inf

    loaded.model.register_forward_hook(after)
    return loaded


POISON = "\x07\x06\x07"


def poisoned_model():
    """A model whose forward pass fails, quoting its input, where a prompt begins with POISON."""
    loaded = endless_model()

    def fail(_module, _args, kwargs):
        for row in kwargs["input_ids"].tolist():
            said = bytes(token for token in row if token < 256)
            if POISON.encode() in said:
                raise RuntimeError(f"no kernel for {said!r}")

    loaded.model.register_forward_pre_hook(fail, with_kwargs=True)
    return loaded
