"""The wire: real loopback servers, polite and hostile."""

import itertools
import json
import ssl
import threading

import pytest
import torch

from lipogram.errors import CorruptState, InvalidSetting
from privacyrestore.errors import BankMismatch, Refused, Unreachable
from privacyrestore.sse_reader import Limits
from privacyrestore.transport import Http, checked_url

from .banks import loose_identity, random_bank
from .loopback import TOLD, hangs_up, loopback, says, streams

SMALL = Limits(line=2000, total=20_000, seconds=5)
BODY = b'{"prompt":"words that were sent"}'


@pytest.fixture(scope="module")
def bank():
    return random_bank(loose_identity(2, 2, 4), [(0, 0), (1, 1)], 3)


def http(server, **settings):
    return Http(server.url, pause=0.01, **({"limits": SMALL} | settings))


def test_what_is_sent_beside_the_body_is_always_the_same(monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password mine\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with (
        loopback(says({"a": 1}, set_cookie="seen=you; Path=/")) as server,
        http(server, api_key="k-1") as wire,
    ):
        for _ in range(3):
            assert wire.post("/v1/completions", BODY) == {"a": 1}
    assert server.bodies == [BODY] * 3
    first, *others = [headers for _, headers, _ in server.requests]
    assert others == [first] * 2
    assert {name.lower(): value for name, value in first.items()} == {
        "host": server.url.removeprefix("http://"),
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "keep-alive",
        "user-agent": "privacyrestore",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        "authorization": "Bearer k-1",
    }


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 404, 409, 413, 418, 500, 502])
def test_other_statuses_are_refusals_that_repeat_nothing(status):
    with loopback(says({"echo": "words"}, status, location="/elsewhere")) as server:
        for ask in (Http.post, lambda *a: list(Http.stream(*a))):
            with http(server) as wire, pytest.raises(Refused) as caught:
                ask(wire, "/v1/completions", BODY)
            assert caught.value.status == status
            assert "words" not in str(caught.value)
    assert {path for path, _, _ in server.requests} == {"/v1/completions"}
    assert len(server.requests) == 2  # sent once each


@pytest.mark.parametrize("trouble", [says({}, 429), says({}, 503), hangs_up])
def test_a_request_is_sent_again_with_the_same_bytes_but_not_for_ever(trouble):
    with loopback(trouble, trouble, says({"a": 1})) as server, http(server) as wire:
        assert wire.post("/v1/completions", BODY) == {"a": 1}
        assert server.bodies == [BODY] * 3
    with loopback(trouble) as server, http(server, retries=2) as wire:
        with pytest.raises((Refused, Unreachable)):
            list(wire.stream("/v1/completions", BODY))
        assert server.bodies == [BODY] * 3


def test_a_server_that_is_not_there():
    with loopback(says({})) as server:
        pass
    with http(server, retries=1) as wire, pytest.raises(Unreachable, match="could not be reached"):
        wire.post("/v1/completions", BODY)


def test_an_answer_that_has_begun_is_not_asked_for_again():
    with (
        loopback(streams(TOLD[1], b"data: {")) as server,
        http(server) as wire,
        pytest.raises(Unreachable, match="broke off"),
    ):
        list(wire.stream("/v1/completions", BODY))
    assert len(server.requests) == 1


def cut_short(handler, _):
    handler.close_connection = True
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"a": ')


def garbage(handler, _):
    handler.close_connection = True
    handler.wfile.write(b"\x00\x01 what is this\r\n\r\n" * 5)


def many_headers(handler, _):
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        handler.wfile.write(b"x-%d: words\r\n" % number)


def compressed(handler, _):
    says(b"\x1f\x8b", content_encoding="gzip")(handler, _)


def silent(handler, _):
    handler.close_connection = True
    threading.Event().wait(1.0)


HOSTILE_OBJECTS = [
    says(b"no json"),
    says([1]),
    says(b'{"a": 1, "a": 2}'),
    says(b'{"a": NaN}'),
    says(b"[" * 15_000),
    says(b" " * 30_000),
    streams(itertools.repeat(b" " * 100)),
    cut_short,
    garbage,
    many_headers,
    compressed,
    silent,
]
HOSTILE_STREAMS = [
    says({"a": 1}),
    streams(*TOLD, kind="text/html"),
    streams(*TOLD[:-1]),
    streams(b"data: no json\n\n"),
    streams(b"data: " + b"x" * 5000),
    streams(itertools.repeat(b"x" * 100)),
    streams(itertools.repeat(b": alive\n\n" * 10)),
    streams(itertools.repeat(TOLD[1])),
    cut_short,
    garbage,
    many_headers,
    silent,
]


@pytest.mark.parametrize("answer", HOSTILE_OBJECTS)
def test_hostile_objects(answer):
    with (
        loopback(answer) as server,
        http(server, retries=0, timeout=0.3) as wire,
        pytest.raises(Unreachable) as caught,
    ):
        wire.post("/v1/completions", BODY)
    assert "words" not in str(caught.value)


@pytest.mark.parametrize("answer", HOSTILE_STREAMS)
def test_hostile_streams(answer):
    with (
        loopback(answer) as server,
        http(server, retries=0, timeout=0.3) as wire,
        pytest.raises(Unreachable) as caught,
    ):
        list(wire.stream("/v1/completions", BODY))
    assert "words" not in str(caught.value)


def test_closing_a_stream_hangs_up():
    left = threading.Event()

    def drips(handler, _):
        try:
            streams(itertools.repeat(TOLD[1]))(handler, _)
        except OSError:
            left.set()
            raise

    with loopback(drips) as server, http(server, limits=Limits()) as wire:
        stream = wire.stream("/v1/completions", BODY)
        next(stream)
        stream.close()
        assert left.wait(10)


def test_a_bank_is_fetched_and_held_against_its_digest(bank):
    with loopback(says(bank.to_bytes(), kind="application/octet-stream")) as server:
        with http(server, limits=Limits()) as wire:
            fetched = wire.bank(bank.sha256)
            assert fetched.sha256 == bank.sha256
            assert torch.equal(fetched.vectors, bank.vectors)
            assert wire.holds(bank.sha256)
            with pytest.raises(BankMismatch, match="not 000000000000"):
                wire.bank("0" * 64)
        assert server.requests[0][0] == f"/v1/privacy/banks/{bank.sha256}"


@pytest.mark.parametrize("what", ["cut", "changed", "nested", "text"])
def test_a_bank_that_was_tampered_with_is_refused(bank, what):
    content = bank.to_bytes()
    match what:
        case "cut":
            content = content[:-8]
        case "changed":
            content = content[:-1] + bytes([content[-1] ^ 64])
        case "nested":
            header = b"[" * 100_000
            content = len(header).to_bytes(8, "little") + header
        case "text":
            content = b"no bank at all"
    with loopback(says(content)) as server, http(server, limits=Limits()) as wire:
        with pytest.raises(CorruptState):
            wire.bank(bank.sha256)
        assert len(server.requests) == 1


def test_the_diameter_that_a_server_claims_counts_for_nothing(bank):
    claimed = f'diameter\\": {bank.diameter}'.encode()
    size = int.from_bytes(bank.to_bytes()[:8], "little")
    header, rest = bank.to_bytes()[8 : 8 + size], bank.to_bytes()[8 + size :]
    assert claimed in header
    lied = header.replace(claimed, b'diameter\\": 0.001')
    lied += b" " * (-len(lied) % 8)
    with loopback(says(len(lied).to_bytes(8, "little") + lied + rest)) as server:
        with http(server, limits=Limits()) as wire:
            fetched = wire.bank(bank.sha256)
    assert fetched.diameter == bank.diameter


def test_a_server_without_the_bank(bank):
    with loopback(says({}, 404)) as server, http(server) as wire:
        assert not wire.holds(bank.sha256)
        with pytest.raises(BankMismatch, match="no bank"):
            wire.bank(bank.sha256)
    with loopback(says({}, 500)) as server, http(server) as wire, pytest.raises(Refused):
        wire.holds(bank.sha256)
    with pytest.raises(InvalidSetting, match="64 hex"):
        wire.bank("../../etc")


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://host.example", "https://host.example"),
        ("https://host.example:8443/models/v1/", "https://host.example:8443/models"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://localhost:8000/", "http://localhost:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_addresses(url, kept):
    assert checked_url(url) == kept


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host.example",
        "ftp://host.example",
        "https://",
        "https://me:word@host.example",
        "https://host.example/?q=1",
        "https://host.example/#a",
        "https://[::1",
        "https://host.example:99999",
        "http://host.example",
        "http://10.0.0.1",
        "http://localhost.example",
        "http://127.0.0.1.example",
    ],
)
def test_addresses_that_are_refused(url):
    with pytest.raises(InvalidSetting) as caught:
        Http(url)
    assert "word" not in str(caught.value)


def test_plain_http_to_others_needs_to_be_asked_for():
    assert Http("http://host.example", allow_http=True).url == "http://host.example"


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "gehëim"])
def test_an_api_key_that_no_header_can_hold(key):
    with pytest.raises(InvalidSetting) as caught:
        Http("https://host.example", api_key=key)
    assert not key or key not in str(caught.value)
    assert "k-secret" not in repr(Http("https://host.example", api_key="k-secret"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of 127.0.0.1, signed by itself, and its key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder


def test_certificates_are_checked_unless_told_otherwise(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with loopback(says({"a": 1}), tls=context) as server:
        with http(server, retries=0) as wire, pytest.raises(Unreachable):
            wire.post("/v1/completions", BODY)
        assert server.requests == []
        for accepted in (str(certificate / "cert.pem"), False):
            with http(server, verify=accepted) as wire:
                assert wire.post("/v1/completions", BODY) == {"a": 1}
    assert json.loads(server.bodies[0]) == {"prompt": "words that were sent"}
