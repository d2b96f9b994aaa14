"""A real HTTP server on this machine whose answers a test writes, byte by byte if it likes."""

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Loopback:
    """`answers` are functions of (handler, body), one a request; the last one answers the rest."""

    url: str
    answers: list = field(default_factory=list)
    requests: list = field(default_factory=list)  # (path, headers, body)

    @property
    def bodies(self):
        return [body for _, _, body in self.requests if body]


@contextmanager
def loopback(*answers, tls=None):
    found = Loopback("", list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            found.requests.append((self.path, dict(self.headers.items()), body))
            answer = found.answers.pop(0) if len(found.answers) > 1 else found.answers[0]
            try:
                answer(self, body)
            except OSError:  # the client hung up
                self.close_connection = True

        def do_GET(self):
            self.do_POST()

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    found.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def says(content, status=200, kind="application/json", **headers):
    """An answer with a body: bytes, or an object sent as JSON."""

    def answer(handler, _):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        handler.send_response(status)
        fields = {"content-type": kind, "content-length": len(body)}
        for name, value in (fields | headers).items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def streams(*pieces, kind="text/event-stream"):
    """An answer in pieces, ended by closing the connection; an endless iterator never ends."""

    def answer(handler, _):
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("content-type", kind)
        handler.send_header("connection", "close")
        handler.end_headers()
        for piece in pieces[0] if len(pieces) == 1 and not isinstance(pieces[0], bytes) else pieces:
            handler.wfile.write(piece)
            handler.wfile.flush()

    return answer


def hangs_up(handler, _):
    """No answer: the connection ends."""
    handler.close_connection = True


def routed(*, chat=None, stream=None, bank=200):
    """An answer by path: of a server that holds a bank, or does not (404)."""

    def answer(handler, body):
        if handler.path.startswith("/v1/privacy/banks/"):
            return says({}, bank)(handler, body)
        if json.loads(body).get("stream"):
            return (stream or streams(*TOLD))(handler, body)
        kind = "chat" if handler.path == "/v1/chat/completions" else "text"
        return (chat or says(ANSWERS[kind]))(handler, body)

    return answer


ANSWERS = {
    "chat": {
        "choices": [{"message": {"role": "assistant", "content": "rest"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    },
    "text": {
        "choices": [{"text": "rest", "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    },
}
TOLD = (
    b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n',
    b'data: {"choices": [{"delta": {"content": "re"}}]}\n\n: still here\n\n',
    b'data: {"choices": [{"delta": {"content": "st"}, "finish_reason": "stop"}]}\n\n',
    b"data: [DONE]\n\n",
)
