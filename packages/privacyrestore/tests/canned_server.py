"""An OpenAI-shaped server with one answer, whose errors repeat the whole request back."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = ("It", " is", " a", " cold", ".")
USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
MODELS = {"object": "list", "data": [{"id": "canned", "object": "model", "created": 0,
                                      "owned_by": "test"}]}  # fmt: skip


class CannedServer(ThreadingHTTPServer):
    """Answers "It is a cold."; `status` other than 200 gives errors that echo the request.

    `pause` is how long it waits between the words of a stream; `heard` are the requests' headers
    and bodies; `broken` counts streams that ended because nobody read them.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reset()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def reset(self):
        self.status, self.pause, self.words = 200, 0.0, WORDS
        self.heard, self.broken = [], 0

    def handle_error(self, request, client_address):
        """Nothing: a client that left is what some tests are about."""


@contextlib.contextmanager
def canned_server():
    server = CannedServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.heard.append((self.path, dict(self.headers), None))
        self.reply(200, MODELS if self.path == "/v1/models" else {"status": "ok"})

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["content-length"]))
        body = json.loads(raw)
        self.server.heard.append((self.path, dict(self.headers), body))
        if self.server.status != 200:
            message = f"refused: {raw.decode()}"
            self.reply(self.server.status, {"error": {"message": message, "type": "echo"}})
        elif body.get("stream"):
            self.stream("chat" in self.path, body.get("stream_options", {}).get("include_usage"))
        else:
            text = "".join(self.server.words)
            choice = {"index": 0, "finish_reason": "stop", "logprobs": None}
            if "chat" in self.path:
                choice |= {"message": {"role": "assistant", "content": text}}
            else:
                choice |= {"text": text}
            self.reply(200, self.head("chat" in self.path, [choice], usage=USAGE))

    def head(self, chat, choices, *, piece=False, **more):
        kind = ("chat.completion" + ".chunk" * piece) if chat else "text_completion"
        return {"id": "canned-1", "object": kind, "created": 1, "model": "canned",
                "choices": choices, **more}  # fmt: skip

    def reply(self, status, content):
        raw = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def stream(self, chat, usage):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for place, word in enumerate((*self.server.words, None)):
                said = {"delta": {} if word is None else {"content": word}} if chat else {
                    "text": word or ""
                }  # fmt: skip
                if chat and place == 0:
                    said["delta"]["role"] = "assistant"
                choice = {"index": 0, "finish_reason": None if word else "stop", **said}
                self.event(json.dumps(self.head(chat, [choice], piece=True)))
                time.sleep(self.server.pause)
            if usage:
                self.event(json.dumps(self.head(chat, [], piece=True, usage=USAGE)))
            self.event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        except ConnectionError:
            self.server.broken += 1

    def event(self, data):
        raw = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()
