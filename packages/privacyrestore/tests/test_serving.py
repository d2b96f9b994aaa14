import contextlib
import datetime
import ipaddress
import os
import signal
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lipogram.errors import InvalidSetting, MissingAsset
from privacyrestore.serving import create_server
from privacyrestore.transport import Http

from .live_server import CHAT, TEXT, chat, completion, events, live_server, streamed_text, within


@pytest.fixture(scope="module")
def server():
    with live_server() as running:
        yield running


def test_a_stream_that_is_short_is_finished_at_the_end():
    with live_server(grace=60.0) as server:
        alone = streamed_text(
            events(server.post(TEXT, completion("ab", max_tokens=300, stream=True)))[0]
        )
        with server.http.stream(
            "POST", TEXT, json=completion("ab", max_tokens=300, stream=True)
        ) as told:
            assert within(lambda: server.engine.stats().running == 1)
            server.server.handle_exit(signal.SIGTERM, None)
            told.read()
        found, done = events(told)
        assert done
        assert streamed_text(found) == alone


def test_a_stream_that_is_long_is_ended_with_words():
    with live_server(grace=0.2) as server, server.slow():
        with server.http.stream(
            "POST", TEXT, json=completion("ab", max_tokens=400, stream=True)
        ) as told:
            assert within(lambda: server.engine.stats().running == 1)
            server.server.handle_exit(signal.SIGTERM, None)
            told.read()
        found, done = events(told)
        assert not done
        assert found[-1]["error"]["code"] == "stopping"
        assert server.idle()


def test_an_answer_in_one_piece_is_ended_too():
    with live_server(grace=0.2) as server, server.slow():
        answers = []
        thread = threading.Thread(
            target=lambda: answers.append(server.post(TEXT, completion("ab", max_tokens=400)))
        )
        thread.start()
        assert within(lambda: server.engine.stats().running == 1)
        server.server.handle_exit(signal.SIGTERM, None)
        thread.join(10)
        assert answers[0].status_code == 503
        with pytest.raises(httpx.ConnectError), httpx.Client(trust_env=False) as other:
            other.get(f"{server.url}/health")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org", "192.0.2.7"])
def test_other_machines_are_served_over_tls_only(server, host):
    with pytest.raises(InvalidSetting, match="certificate"):
        create_server(server.server.config.app, host=host)


def test_an_address_that_cannot_be_had(server):
    app = server.server.config.app
    with pytest.raises(InvalidSetting, match=str(server.host[1])):
        create_server(app, port=server.host[1])
    with pytest.raises(InvalidSetting, match="70000"):
        create_server(app, port=70_000)


def test_a_certificate_needs_its_key(server, certificate, tmp_path):
    app = server.server.config.app
    with pytest.raises(InvalidSetting, match="together"):
        create_server(app, certificate=certificate[0])
    with pytest.raises(MissingAsset, match=r"none\.pem"):
        create_server(app, certificate=certificate[0], key=tmp_path / "none.pem")
    other = tmp_path / "other.pem"
    other.write_bytes(private_bytes(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(InvalidSetting, match="no pair"):
        create_server(app, certificate=certificate[0], key=other)


def private_bytes(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of its own for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(private_bytes(key))
    return folder / "certificate.pem", folder / "key.pem"


def test_tls(certificate):
    with live_server(certificate=certificate[0], key=certificate[1]) as server:
        assert server.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(certificate[0]))
        with httpx.Client(verify=context, trust_env=False) as http:
            assert http.post(server.url + CHAT, json=chat("ab")).status_code == 200
        with Http(server.url, verify=str(certificate[0])) as http:
            assert http.holds(server.bank.sha256)
        with httpx.Client(trust_env=False) as http, pytest.raises(httpx.ConnectError):
            http.get(f"{server.url}/health")


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from lipogram.llm.tiny import tiny_random
from privacyrestore.batch_engine import BatchEngine
from privacyrestore.server import create_app
from privacyrestore.serving import serve
from privacyrestore.steered_model import SteeredModel

loaded = tiny_random("llama", layers=2)
with BatchEngine(SteeredModel(loaded.model, loaded.tokenizer)) as engine:
    serve(create_app(engine, model_name="tiny"), ready=lambda url: print(url, flush=True))
print("closed", engine.closed)
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_process_ends_in_order_when_it_is_asked_to(end):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        url = process.stdout.readline().strip()
        body = completion("ab", max_tokens=300, stream=True)
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
            with http.stream("POST", TEXT, json=body) as told:
                process.send_signal(end)
                told.read()
        assert events(told)[1]
        out, err = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    assert process.returncode == 0
    assert out == "closed True\n"
    assert err == ""
