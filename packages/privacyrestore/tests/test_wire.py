"""All bytes of 200 requests, through every path there is, hold nothing of what was taken out."""

import base64
import contextlib
import gzip
import json
import logging
import subprocess
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai
import pytest

from lipogram.errors import LipogramError
from lipogram.llm.tiny import tiny_random
from privacyrestore.payload import FIELD, message_length
from privacyrestore.span_detector import SpanDetector
from privacyrestore.transport import Http

from .asking import corpus_bank, make_client, proxied, served
from .leak_scanner import LeakScanner
from .span_corpus import SpanCorpus, plain
from .wire_recorder import Answer, CutRequest, CutResponse, Garble, WireRecorder

REQUESTS = 200
CORPUS = SpanCorpus(0)
SCANNER = LeakScanner(CORPUS.markers)
FAULTS = (
    Answer(503), Answer(429), CutRequest(120), CutResponse(10), CutResponse(300), Garble(250),
    Answer(500), Answer(400, b'{"error": "no"}'), Answer(302, b"", (("location", "/elsewhere"),)),
)  # fmt: skip


@pytest.fixture(scope="module")
def loaded():
    return tiny_random(layers=2)


@pytest.fixture(scope="module")
def bank(loaded):
    return corpus_bank(CORPUS, loaded.model)


@pytest.fixture(scope="module")
def tap(loaded, bank):
    with served(loaded, bank) as url:
        address = httpx.URL(url)
        with WireRecorder((address.host, address.port)) as tap:
            yield tap


class Records(logging.Handler):
    """Everything that this process logs at any level, but for what the app's own library does."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.texts = []

    def emit(self, record):
        if record.name.startswith("openai"):
            return
        self.texts.append(f"{record.name}: {record.getMessage()} {record.args!r}")
        if record.exc_info:
            self.texts.append("".join(traceback.format_exception(*record.exc_info)))


@contextlib.contextmanager
def all_logs():
    records, root = Records(), logging.getLogger()
    before = root.level
    root.addHandler(records)
    root.setLevel(logging.DEBUG)
    try:
        yield records
    finally:
        root.setLevel(before)
        root.removeHandler(records)


@dataclass
class Traffic:
    """What a run of questions left behind."""

    exchanges: list
    sent: bytes
    answered: int = 0
    errors: list = field(default_factory=list)
    logs: list = field(default_factory=list)
    files: list = field(default_factory=list)


def chat(client, app, question, options):
    return client.chat([{"role": "user", "content": question.text}], **options).text


def dialogue(client, app, question, options):
    messages = [
        {"role": "system", "content": "You are a doctor."},
        {"role": "user", "content": question.text},
        {"role": "assistant", "content": f"So there is {question.canonical[0]}?"},
        {"role": "user", "content": "Yes, what is it?"},
    ]
    return client.chat(messages, **options).text


def stream(client, app, question, options):
    return "".join(client.stream([{"role": "user", "content": question.text}], **options))


def complete(client, app, question, options):
    return client.complete(question.text, **options).text


def proxy_chat(client, app, question, options):
    messages = [{"role": "user", "content": question.text}]
    answer = app.chat.completions.create(
        model=client.model, messages=messages, user=question.text, **options
    )
    return answer.choices[0].message.content


def proxy_stream(client, app, question, options):
    messages = [{"role": "user", "content": question.text}]
    chunks = app.chat.completions.create(
        model=client.model, messages=messages, stream=True, **options
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def proxy_complete(client, app, question, options):
    answer = app.completions.create(model=client.model, prompt=question.text, **options)
    return answer.choices[0].text


def left_early(client, app, question, options):
    pieces = client.stream([{"role": "user", "content": question.text}], **options)
    next(pieces, None)
    pieces.close()
    return ""


PATHS = (chat, proxy_chat, stream, proxy_stream, complete, proxy_complete, dialogue, left_early)


def run(client, tap, questions, paths=PATHS, faults=(), tokens=None):
    """Ask every question, the paths and faults in turn; every fifth request meets a fault."""
    first, before = len(tap.exchanges), len(tap.sent)
    traffic = Traffic([], b"")
    http = openai.DefaultHttpxClient(trust_env=False)
    client.check_server()
    with all_logs() as records, client.transport, proxied(client) as url:
        app = openai.OpenAI(base_url=url, api_key="app", http_client=http, max_retries=1)
        for i, question in enumerate(questions):
            if faults and i % 5 == 4:
                tap.inject(faults[(i // 5) % len(faults)])
            try:
                paths[i % len(paths)](client, app, question, {"max_tokens": tokens or 1 + i % 4})
                traffic.answered += 1
            except (LipogramError, openai.OpenAIError) as error:
                traffic.errors.append("".join(traceback.format_exception(error)) + repr(error))
        app.close()
    traffic.logs = records.texts
    traffic.exchanges, traffic.sent = tap.exchanges[first:], bytes(tap.sent[before:])
    traffic.files = [p.read_bytes() for p in client.ledger.database.path.parent.iterdir()]
    return traffic


# ---------------------------------------------------------------- the three checks


def leaks(traffic):
    """Words of the corpus in anything that was sent."""
    return SCANNER.scan(traffic.sent)


def asked(exchange):
    return json.loads(exchange.body)


def masked(exchange):
    """The request as it was, without the numbers of its vector."""
    sent = asked(exchange)
    meta = sent[FIELD]["meta"].encode()
    assert exchange.body.count(meta) == 1
    return exchange.sent.replace(meta, b"?" * len(meta))


def sizes(traffic):
    """Body sizes beside the cleaned text's own, one set for each path and choice of options."""
    found = {}
    for exchange in traffic.exchanges:
        if not exchange.body:
            continue
        sent = asked(exchange)
        content = sent.pop("messages", None) or sent.pop("prompt")
        sent.pop(FIELD)
        kind = (exchange.path, json.dumps(sent, sort_keys=True))
        size = len(exchange.body) - len(json.dumps(content, separators=(",", ":"), sort_keys=True))
        found.setdefault(kind, set()).add(size)
    return found


# ---------------------------------------------------------------- 200 requests


@pytest.fixture(scope="module")
def traffic(bank, tap, tmp_path_factory):
    client = make_client(bank, tmp_path_factory.mktemp("traffic"), tap.url, retries=2)
    return run(client, tap, CORPUS.questions(REQUESTS), faults=FAULTS)


def test_all_paths_were_taken_and_most_were_answered(traffic):
    asking = [exchange for exchange in traffic.exchanges if exchange.body]
    assert len(asking) >= REQUESTS
    assert {exchange.path for exchange in asking} == {"/v1/chat/completions", "/v1/completions"}
    assert traffic.answered >= 0.8 * REQUESTS
    assert len(traffic.errors) >= 10
    assert traffic.answered + len(traffic.errors) == REQUESTS
    assert {type(exchange.fault) for exchange in asking} >= {Answer, CutResponse, Garble}


def test_no_word_that_was_taken_out_is_in_any_byte_that_was_sent(traffic):
    assert leaks(traffic) == []


def test_body_sizes_depend_on_the_cleaned_text_and_the_options_alone(traffic, bank):
    assert all(len(found) == 1 for found in sizes(traffic).values())
    lengths = {len(base64.b64decode(asked(e)[FIELD]["meta"])) for e in traffic.exchanges if e.body}
    assert lengths == {4 * message_length(bank, "subspace")}


def test_no_word_is_in_logs_errors_and_files(traffic):
    assert len(traffic.logs) > REQUESTS
    assert len(traffic.files) >= 2
    for texts in (traffic.logs, traffic.errors):
        assert SCANNER.scan("\n".join(texts).encode()) == []
    for content in traffic.files:
        assert SCANNER.scan(content) == []


def test_retries_are_the_same_bytes(traffic):
    again = 0
    for exchange, following in zip(traffic.exchanges, traffic.exchanges[1:], strict=False):
        if isinstance(exchange.fault, Answer) and exchange.fault.status in (429, 503):
            again += 1
            assert following.sent == exchange.sent
    assert again >= 4


# ---------------------------------------------------------------- other spans, same bytes


def requests_of(bank, tap, folder, questions, paths=PATHS, tokens=None):
    client = make_client(bank, folder, tap.url)
    return [e for e in run(client, tap, questions, paths, (), tokens).exchanges if e.body]


@pytest.fixture(scope="module")
def twins():
    """Questions, and the same ones about other spans."""
    corpus = SpanCorpus(0)
    one = [corpus.fill(corpus.template(), forms=None) for _ in range(2 * len(PATHS))]
    one = [corpus.fill(q.template, forms=[plain] * len(q.canonical)) for q in one]
    two = []
    for question in one:
        others = [span for span in corpus.vocabulary if span not in question.canonical]
        n = len(question.canonical)
        two.append(corpus.fill(question.template, corpus.draw.sample(others, n), [plain] * n))
    return one, two


def test_other_spans_change_the_vector_and_not_one_other_byte(bank, tap, twins, tmp_path):
    one, two = (
        requests_of(bank, tap, tmp_path / name, questions)
        for name, questions in zip("ab", twins, strict=True)
    )
    assert len(one) == len(two) == len(twins[0])
    for here, there in zip(one, two, strict=True):
        assert masked(here) == masked(there)
        assert asked(here)[FIELD]["meta"] != asked(there)[FIELD]["meta"]


def test_a_text_that_never_had_a_span_is_sent_alike(bank, tap, twins, tmp_path):
    one = requests_of(bank, tap, tmp_path / "a", twins[0], [chat])
    cleaned = [
        SpanCorpus(0).fill(asked(exchange)["messages"][0]["content"], forms=[]) for exchange in one
    ]
    two = requests_of(bank, tap, tmp_path / "b", cleaned, [chat])
    assert [masked(exchange) for exchange in one] == [masked(exchange) for exchange in two]


def test_the_number_of_spans_does_not_show(bank, tap, tmp_path):
    corpus, questions = SpanCorpus(0), []
    for n in (0, 1, 2, 3, 5, 8):
        spans = corpus.draw.sample(corpus.vocabulary, n)
        questions.append(corpus.fill(f"I am 41. {', '.join(spans)}. What is it?", forms=[]))
    found = requests_of(bank, tap, tmp_path / "a", questions, [chat], tokens=2)
    assert len(found) == len(questions)
    assert len({frame(exchange) for exchange in found}) == 1
    alike = {}
    for exchange in found:
        text = asked(exchange)["messages"][0]["content"]
        alike.setdefault(text, set()).add(masked(exchange))
    assert len(alike) < len(found)  # removal leaves the same text of some, whatever their number
    assert all(len(requests) == 1 for requests in alike.values())


# ---------------------------------------------------------------- leaks that must be caught


class Leaky(Http):
    """A transport that gives something away; `leak` changes headers and fields of a request."""

    leak, question = None, None

    def told(self, body):
        fields, headers = json.loads(body), {}
        self.leak(headers, fields, self.question)
        self._client.headers.update(headers)
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    def post(self, path, body):
        return super().post(path, self.told(body))

    def stream(self, path, body):
        return super().stream(path, self.told(body))


def as_field(write):
    return lambda headers, fields, question: fields.update(user=write(question.text))


def in_the_vector(headers, fields, question):
    size = len(base64.b64decode(fields[FIELD]["meta"]))
    words = question.text.encode().ljust(size)[:size]
    fields[FIELD]["meta"] = base64.b64encode(words[-size:]).decode()


def one_number_a_span(headers, fields, question):
    numbers = base64.b64decode(fields[FIELD]["meta"])[: 4 * len(question.canonical)]
    fields[FIELD]["meta"] = base64.b64encode(numbers).decode()


WORDS_LEAK = {
    "header": lambda h, f, q: h.update({"X-Note": q.canonical[0]}),
    "header in base64": lambda h, f, q: h.update(
        {"X-Note": base64.urlsafe_b64encode(b"." + q.canonical[0].encode()).decode()}
    ),
    "cookie": lambda h, f, q: h.update({"Cookie": q.canonical[0].replace(" ", "%20")[::-1]}),
    "field": as_field(str),
    "field, upper": as_field(str.upper),
    "field in base64": as_field(lambda text: base64.b64encode(text.encode()).decode()),
    "field in utf-16": as_field(lambda text: text.encode("utf-16-be").decode("latin-1")),
    "field in hex": as_field(lambda text: text.encode().hex()),
    "field, packed": as_field(lambda text: base64.b64encode(gzip.compress(text.encode())).decode()),
    "name of a field": lambda h, f, q: f.update({q.canonical[0]: 1}),
    "vector": in_the_vector,
}
SHAPES_LEAK = {
    "number of spans": lambda h, f, q: h.update({"X-Spans": str(len(q.canonical))}),
    "ids": lambda h, f, q: f.update(seed=CORPUS.vocabulary.index(q.canonical[0])),
    "order of the fields": lambda h, f, q: f.update(user="x" * (len(q.text) % 7)),
    "number of numbers": one_number_a_span,
}


def leaking(bank, tap, folder, leak, questions):
    """The traffic of a client whose transport gives something away."""
    client = make_client(bank, folder, tap.url)
    client.transport = Leaky(tap.url, retries=0)
    client.transport.leak = leak
    client.check_server()
    first, before = len(tap.exchanges), len(tap.sent)
    with client.transport:
        for question in questions:
            client.transport.question = question
            with contextlib.suppress(LipogramError):  # the server refuses what it does not know
                client.chat([{"role": "user", "content": question.text}], max_tokens=1)
    return Traffic(tap.exchanges[first:], bytes(tap.sent[before:]))


@pytest.fixture(scope="module")
def few():
    corpus = SpanCorpus(1)
    assert corpus.vocabulary != CORPUS.vocabulary
    return [CORPUS.fill(CORPUS.template(n), forms=[plain] * n) for n in (1, 2, 4)]


@pytest.mark.parametrize("kind", WORDS_LEAK)
def test_a_planted_word_is_caught(bank, tap, few, tmp_path, kind):
    traffic = leaking(bank, tap, tmp_path, WORDS_LEAK[kind], few)
    caught = {leak.word for leak in leaks(traffic)}
    for question in few:
        words = {w for s in question.canonical for w in (s.split()[0], alias_of(s))}
        assert caught & words, kind


def alias_of(span):
    return CORPUS.aliases[span][0].split()[0]


@pytest.mark.parametrize("kind", SHAPES_LEAK)
def test_a_planted_difference_is_caught(bank, tap, few, tmp_path, kind):
    traffic = leaking(bank, tap, tmp_path, SHAPES_LEAK[kind], few)
    assert leaks(traffic) == []  # no word is in it: the other two checks have to see it
    assert len({frame(exchange) for exchange in traffic.exchanges}) > 1


def frame(exchange):
    """All of a request but its cleaned text and the vector's numbers, whose length stays."""
    content = json.dumps(asked(exchange)["messages"], separators=(",", ":"), sort_keys=True)
    rest = masked(exchange).replace(content.encode(), b"")
    size = len(exchange.body) - len(content)
    return rest.replace(f"content-length: {len(exchange.body)}".encode(), b"%d" % size).replace(
        f"Content-Length: {len(exchange.body)}".encode(), b"%d" % size
    )


def test_requests_of_one_kind_differ_in_text_and_vector_alone(bank, tap, few, tmp_path):
    traffic = leaking(bank, tap, tmp_path, lambda *_: None, few)
    assert leaks(traffic) == []
    assert len({frame(exchange) for exchange in traffic.exchanges}) == 1


def test_a_client_that_forgets_the_aliases_is_caught(bank, tap, tmp_path):
    question = CORPUS.fill("I have {}. What is it?", forms=[plain])
    spelled = question.text.replace(question.canonical[0], CORPUS.aliases[question.canonical[0]][0])
    client = make_client(bank, tmp_path, tap.url)
    client.detector = SpanDetector(bank.vocabulary, {})
    first, before = len(tap.exchanges), len(tap.sent)
    with client.transport:
        client.chat([{"role": "user", "content": spelled}], max_tokens=1)
    caught = leaks(Traffic(tap.exchanges[first:], bytes(tap.sent[before:])))
    assert {leak.word for leak in caught} == {alias_of(question.canonical[0])}


# ---------------------------------------------------------------- a process of its own

PROCESS = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from asking import make_client
from privacyrestore.proxy import serve_proxy
from privacyrestore.restoration_bank import RestorationBank

bank = RestorationBank.load(sys.argv[2])
client = make_client(bank, Path(sys.argv[3]), sys.argv[4], retries=0)
question = sys.stdin.readline()
print(client.prepare(question).report.sentence(), client, client.prepare(question))
serve_proxy(client, ready=lambda url: print("at", url, flush=True))
"""


def test_a_proxys_process_writes_no_word_down(bank, tap, few, tmp_path):
    bank.save(tmp_path / "bank")
    command = [sys.executable, "-X", "dev", "-c", PROCESS, Path(__file__).parent,
               tmp_path / "bank", tmp_path, tap.url]  # fmt: skip
    with open(tmp_path / "err", "wb") as err:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True
        )
        try:
            process.stdin.write(few[0].text.replace("\n", " ") + "\n")
            process.stdin.flush()
            written = ""
            while "\nat http" not in written:
                line = process.stdout.readline()
                assert line, (tmp_path / "err").read_text()
                written += line
            url = written.rpartition("at ")[2].strip()
            tap.inject(None, Answer(500), Garble(200))
            for question in few * 2:
                for more in ({}, {"stream": True}, {"user": question.text, "never": 1}):
                    messages = [{"role": "user", "content": question.text}]
                    httpx.post(
                        f"{url}/chat/completions",
                        json={"messages": messages, "max_tokens": 2, **more},
                        headers={"x-note": question.canonical[0]},
                        params={"q": question.canonical[0]},
                        trust_env=False,
                    )
        finally:
            process.terminate()
            written += process.communicate(timeout=20)[0]
    assert "ε" in written
    written += (tmp_path / "err").read_text()
    assert SCANNER.scan(written.encode()) == []
    for path in (tmp_path / "state").iterdir():
        assert SCANNER.scan(path.read_bytes()) == []
