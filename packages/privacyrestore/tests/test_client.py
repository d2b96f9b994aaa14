"""What leaves the client, what it costs, and what an error may say."""

import base64
import json
import os
import signal

import pytest

from lipogram.errors import InvalidSetting, LipogramError
from privacyrestore.attention_weights import UniformWeigher
from privacyrestore.client import PrivacyClient
from privacyrestore.errors import (
    BankMismatch,
    BudgetSpent,
    Refused,
    Unreachable,
    Unsendable,
)
from privacyrestore.ledger import PrivacyLedger
from privacyrestore.mechanisms import ScalarCompat, Subspace
from privacyrestore.payload import decode
from privacyrestore.restoration_bank import RestorationBank
from privacyrestore.span_detector import SpanDetector
from privacyrestore.transport import Http

from .banks import loose_identity, random_bank
from .loopback import ANSWERS, TOLD, loopback, routed, says, streams

SPANS = ("mild cough", "finding-07", "blue rash", "sore toe")
SITES = [(0, 0), (1, 1), (2, 3)]


def named(bank, names=SPANS, **settings):
    return RestorationBank.build(bank.vectors, bank.sites, names, bank.model, **settings)


@pytest.fixture(scope="module")
def bank():
    return named(random_bank(loose_identity(), SITES, len(SPANS)))


@pytest.fixture(scope="module")
def detector():
    return SpanDetector(SPANS)


@pytest.fixture
def server():
    with loopback(routed()) as found:
        yield found


@pytest.fixture
def client(bank, detector, server, tmp_path):
    return client_of(bank, detector, server, tmp_path)


OPENED = []


@pytest.fixture(autouse=True)
def closed():
    yield
    while OPENED:
        OPENED.pop().close()


def client_of(bank, detector, server, folder, *, budget=None, weigher=None, **settings):
    OPENED.append(Http(server.url, pause=0.01, retries=2))
    return PrivacyClient(
        bank,
        detector,
        Subspace(epsilon=5.0),
        weigher or UniformWeigher(),
        PrivacyLedger(folder / "state" / "ledger.db", budget=budget),
        OPENED[-1],
        **settings,
    )


def user(text):
    return [{"role": "user", "content": text}]


def markers_in(content):
    text = content.decode() if isinstance(content, bytes) else str(content)
    return [span for span in SPANS if span.lower() in text.lower()]


def chain(error):
    """An exception with everything that hangs on it, as a traceback would show it."""
    seen, left = [], [error]
    while left:
        each = left.pop()
        if each is not None and each not in seen:
            seen.append(each)
            left += [each.__cause__, each.__context__]
    return " | ".join(f"{type(each).__name__} {each} {each.args}" for each in seen)


# ---------------------------------------------------------------------- what leaves


def test_the_answer_is_the_servers_and_the_request_holds_no_span(client, server, bank):
    answer = client.chat(user("I have a mild cough since May, and Finding-07. Why?"), max_tokens=9)
    assert (answer.text, answer.finish_reason) == ("rest", "stop")
    assert answer.usage == {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    (sent,) = server.bodies
    assert markers_in(sent) == []
    body = json.loads(sent)
    assert set(body) == {"max_tokens", "messages", "model", "privacy_restore", "stream"}
    assert (body["max_tokens"], body["model"], body["stream"]) == (9, bank.model.name, False)
    assert decode(body["privacy_restore"], bank, max_norm=1e9).shape == (bank.n,)
    assert answer.report.spans == ("mild cough", "finding-07")


def test_replacing_the_spans_changes_nothing_but_the_vector(client):
    def sent(*spans):
        return client.prepare_chat(user(f"Since May I have {', '.join(spans)}. Why?"))

    asked = [sent("mild cough", "finding-07"), sent("blue rash", "sore toe"), sent("sore toe")]
    bodies = [json.loads(each.body) for each in asked]
    metas = [each.pop("privacy_restore").pop("meta") for each in bodies]
    assert len(set(metas)) == 3
    assert len({len(meta) for meta in metas}) == 1
    assert asked[0].public_text == asked[1].public_text
    assert bodies[0] == bodies[1]
    assert len(asked[0].body) == len(asked[1].body)


def test_the_field_has_one_size_for_any_number_of_spans(client):
    sizes = set()
    for count in range(len(SPANS) + 1):
        prepared = client.prepare("There is " + ", ".join(SPANS[:count]) + ".")
        sizes.add(len(base64.b64decode(prepared.payload["meta"])))
        assert markers_in(prepared.body) == []
    assert sizes == {4 * client.bank.rank}


def test_all_roles_are_cleaned_and_one_vector_stands_for_all_spans(client):
    prepared = client.prepare_chat(
        [
            {"role": "system", "content": "The patient had a blue rash. Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "Now a mild cough. Why?"}]},
            {"role": "assistant", "content": "A mild cough may come with a blue rash. Rest."},
            {"role": "user", "content": "Thank you.", "name": None, "tool_calls": []},
        ]
    )
    assert markers_in(prepared.body) == []
    body = json.loads(prepared.body)
    assert [each["role"] for each in body["messages"]] == ["system", "user", "assistant", "user"]
    assert all(isinstance(each["content"], str) for each in body["messages"])
    assert body["messages"][-1] == {"role": "user", "content": "Thank you."}
    assert set(prepared.report.spans) == {"mild cough", "blue rash"}
    again = client.prepare_chat(user("A blue rash, then a mild cough?"))
    assert again.payload == prepared.payload
    assert not again.report.new_release


def test_the_weigher_sees_each_span_where_it_stands(bank, detector, server, tmp_path):
    class Notes:
        def weights(self, text, spans):
            self.seen = [text[span.start : span.end].lower() for span in spans]
            return {span.span_id: 1.0 for span in spans}

    notes = Notes()
    client = client_of(bank, detector, server, tmp_path, weigher=notes)
    client.prepare_chat(
        [*user("A sore toe, and a Blue Rash."), *user("Why?"), *user("And the mild cough?")]
    )
    assert sorted(notes.seen) == ["blue rash", "mild cough", "sore toe"]


def test_the_same_request_is_the_same_bytes(bank, detector, server, tmp_path):
    first = client_of(bank, detector, server, tmp_path)
    other = client_of(bank, detector, server, tmp_path)
    asked = {"messages": user("A sore toe. Why?"), "temperature": 0.5, "max_tokens": 3}
    turned = dict(reversed(asked.items()))
    assert first.prepare_chat(**asked).body == other.prepare_chat(**turned).body
    assert first.prepare_chat(**asked).body.isascii()


def test_spans_that_share_a_vector_are_one_set(bank, detector, server, tmp_path):
    shared = RestorationBank(bank.vectors[:2], bank.sites, SPANS, (0, 0, 1, 1), bank.model)
    client = client_of(shared, detector, server, tmp_path)
    first = client.prepare("A mild cough.")
    for text in ("A finding-07.", "A mild cough and finding-07."):
        assert client.prepare(text).payload == first.payload
    assert client.prepare("A sore toe.").payload != first.payload
    assert len(client.ledger.releases()) == 2


# ---------------------------------------------------------------------- what it costs


def test_a_thousand_repeats_send_the_same_vector_and_cost_one_release(client):
    first = client.prepare("A mild cough. Why?")
    for turn in range(1000):
        again = client.prepare(f"Turn {turn}: that mild cough?")
        assert again.payload == first.payload
    assert len(client.ledger.releases()) == 1
    assert client.ledger.spent("default") == first.report.spent


def test_a_text_without_spans_costs_the_same(client):
    first = client.prepare("What is the time?")
    assert first.report.new_release
    assert client.prepare("Who are you?").payload == first.payload
    assert client.prepare("A mild cough?").payload != first.payload
    assert len(client.ledger.releases()) == 2


def test_past_the_budget_nothing_is_sent_or_written(bank, detector, server, tmp_path):
    once = Subspace(epsilon=5.0).guarantee(bank).local_epsilon
    client = client_of(bank, detector, server, tmp_path, budget=1.5 * once)
    client.chat(user("A mild cough. Why?"))
    sent, path = len(server.requests), tmp_path / "state" / "ledger.db"
    before = path.read_bytes()
    for ask in (client.chat, client.prepare_chat, client.stream):
        with pytest.raises(BudgetSpent) as caught:
            ask(user("A blue rash. Why?"))
        assert markers_in(chain(caught.value)) == []
    assert len(server.requests) == sent
    assert path.read_bytes() == before
    assert client.chat(user("Still the mild cough.")).text == "rest"


def test_the_report_says_what_the_honesty_rule_asks_for(bank, detector, server, tmp_path):
    client = client_of(bank, detector, server, tmp_path, audited=0.68)
    prepared = client.prepare("A mild cough.")
    told = prepared.report.sentence()
    local = 5.0 * bank.diameter
    assert f"{local:.3g}" in told
    assert "68%" in told
    assert "cough" not in told
    assert "no audit" in client_of(bank, detector, server, tmp_path).prepare("x").report.sentence()
    assert markers_in(repr(prepared)) == []
    assert markers_in(repr(prepared.report)) == []


def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL")
@pytest.mark.parametrize(("at", "counted"), [("send", 1), ("draw", 0)])
def test_killed_between_the_ledger_and_the_wire_it_counts_too_much_never_too_little(
    bank, detector, server, tmp_path, at, counted
):
    if (child := os.fork()) == 0:
        try:
            client = client_of(bank, detector, server, tmp_path)
            if at == "draw":
                Subspace.release = killed
            else:
                client.transport.post = killed
            client.chat(user("A mild cough. Why?"))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert server.bodies == []
    client = client_of(bank, detector, server, tmp_path)
    assert len(client.ledger.releases("default")) == counted
    client.chat(user("A mild cough. Why?"))
    assert len(client.ledger.releases("default")) == 1
    assert len(server.bodies) == 1


# ---------------------------------------------------------------------- what is refused

TEXT = [{"type": "text", "text": "A mild cough."}]
IMAGE = [*TEXT, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
TORN = [{"type": "text", "text": "A blue ra"}, {"type": "text", "text": "sh."}]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        None,
        "A mild cough.",
        {"role": "user", "content": "A mild cough."},
        ["A mild cough."],
        [{"content": "A mild cough."}],
        [{"role": "mild cough", "content": "Why?"}],
        [{"role": "tool", "content": "A mild cough."}],
        [{"role": "user", "content": 7}],
        [{"role": "user", "content": IMAGE}],
        [{"role": "user", "content": [{"type": "text", "text": 7}]}],
        [{"role": "user", "content": [{"type": "text", "text": "Why?", "mild cough": 1}]}],
        [{"role": "user", "content": "Why?", "name": "mild cough"}],
        [{"role": "user", "content": "Why?", "name": "ann"}],
        [{"role": "user", "content": "Why?", "mild cough": 1}],
        [{"role": "assistant", "content": None, "tool_calls": [{"mild cough": 1}]}],
        [{"role": "user", "content": TORN}],
        [{"role": "user", "content": "A mild cough \ud800."}],
    ],
)
def test_messages_that_cannot_be_cleaned(client, server, messages):
    for ask in (client.chat, client.prepare_chat, client.stream):
        with pytest.raises(LipogramError) as caught:
            ask(messages)
        assert markers_in(chain(caught.value)) == []
    assert server.requests == []
    assert client.ledger.releases() == []


@pytest.mark.parametrize(
    "options",
    [
        {"stop": ["end", "Mild Cough"]},
        {"user": "mild cough"},
        {"metadata": {"why": {"mild cough": True}}},
        {"metadata": {"why": [["a", "b"], ["blue\nrash"]]}},
        {"model": "mild cough"},
        {"tools": [{"type": "function", "function": {"name": "sore toe"}}]},
        {"privacy_restore": {}},
        {"messages": []},
        {"prompt": "x"},
        {"temperature": float("nan")},
        {"stop": {"a", "b"}},
        {"seed": object()},
        {"user": "\udcff"},
    ],
)
def test_options_that_cannot_be_sent(client, server, options):
    for ask in (client.prepare, client.complete):
        with pytest.raises(Unsendable) as caught:
            ask("A sore toe.", **options)
        assert markers_in(chain(caught.value)) == []
    assert server.requests == []
    assert client.ledger.releases() == []


def test_a_text_of_nothing_but_spans(client, server):
    for text in ("", "Mild cough", " blue rash\n"):
        with pytest.raises(Unsendable, match="nothing"):
            client.complete(text)
    with pytest.raises(Unsendable):
        client.complete(["mild cough"])
    assert server.requests == []
    assert client.ledger.releases() == []
    assert client.chat(user("Mild cough")).text == "rest"
    assert json.loads(server.bodies[0])["messages"][0]["content"].strip() == ""


def test_what_an_unexpected_failure_knows_stays_inside(bank, detector, server, tmp_path):
    class Breaks:
        def weights(self, text, spans):
            raise KeyError(f"no weight for {text}")

    client = client_of(bank, detector, server, tmp_path, weigher=Breaks())
    with pytest.raises(Unsendable, match="KeyError") as caught:
        client.chat(user("A mild cough. Why?"))
    assert caught.value.__context__ is None
    assert markers_in(chain(caught.value)) == []
    assert client.ledger.releases() == []
    assert server.bodies == []


def test_a_client_of_parts_that_do_not_fit(bank, detector, server, tmp_path):
    ledger, wire = PrivacyLedger(tmp_path / "state" / "ledger.db"), Http(server.url)
    with pytest.raises(InvalidSetting, match="another vocabulary"):
        PrivacyClient(
            bank, SpanDetector(SPANS[:3]), Subspace(epsilon=1.0), UniformWeigher(), ledger, wire
        )
    with pytest.raises(LipogramError):
        PrivacyClient(bank, detector, ScalarCompat(epsilon=1.0), UniformWeigher(), ledger, wire)


# ---------------------------------------------------------------------- the server


def test_a_server_without_the_bank_is_told_nothing(bank, detector, tmp_path):
    with loopback(routed(bank=404)) as server:
        client = client_of(bank, detector, server, tmp_path)
        for ask in (client.chat, client.stream):
            with pytest.raises(BankMismatch, match=bank.sha256[:12]):
                ask(user("A mild cough."))
        with pytest.raises(BankMismatch):
            client.complete("A mild cough.")
        assert server.bodies == []
        assert client.ledger.releases() == []


def test_the_bank_is_asked_for_once(client, server):
    for _ in range(3):
        client.chat(user("A mild cough."))
    assert sum(path.startswith("/v1/privacy") for path, _, _ in server.requests) == 1


def test_a_server_that_changed_its_bank(bank, detector, tmp_path):
    changed = says({"echo": "mild cough"}, 409)
    with loopback(routed(chat=changed, stream=changed)) as server:
        client = client_of(bank, detector, server, tmp_path)
        with pytest.raises(BankMismatch) as caught:
            client.chat(user("A mild cough."))
        assert markers_in(chain(caught.value)) == []
        with pytest.raises(BankMismatch):
            list(client.stream(user("A mild cough.")))


def test_a_busy_server_gets_the_same_bytes_again(bank, detector, tmp_path):
    busy = says({}, 503)
    with loopback(routed(), busy, busy, routed()) as server:
        client = client_of(bank, detector, server, tmp_path)
        assert client.chat(user("A mild cough.")).text == "rest"
        assert len(server.bodies) == 3
        assert len(set(server.bodies)) == 1
        assert len(client.ledger.releases()) == 1
    with loopback(routed(), busy) as server:
        client = client_of(bank, detector, server, tmp_path)
        with pytest.raises(Refused, match="503"):
            client.chat(user("A mild cough."))
        assert len(set(server.bodies)) == 1


def test_a_stream_comes_in_pieces_and_may_end_with_an_error(client, bank, detector, tmp_path):
    assert list(client.stream(user("A mild cough."))) == ["re", "st"]
    broken = streams(TOLD[1], b'data: {"error": {"message": "mild cough"}}\n\n')
    with loopback(routed(stream=broken)) as server:
        pieces = client_of(bank, detector, server, tmp_path).stream(user("A mild cough."))
        assert next(pieces) == "re"
        with pytest.raises(Refused) as caught:
            next(pieces)
        assert markers_in(chain(caught.value)) == []


def test_prepared_requests_are_sent_as_they_ask(client, server):
    one = client.prepare("A mild cough.")
    many = client.prepare_chat(user("A mild cough."), stream=True)
    with pytest.raises(InvalidSetting):
        client.events(one)
    with pytest.raises(InvalidSetting):
        client.send(many)
    assert client.send(one).text == "rest"
    assert [set(event) for event in client.events(many)] == [{"choices"}] * 3
    assert server.bodies == [one.body, many.body]


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"choices": []},
        {"choices": "mild cough"},
        {"choices": ["mild cough"]},
        {"choices": [{}]},
        {"choices": [{"message": "mild cough"}]},
        {"choices": [{"message": {"content": 7}}]},
        {"choices": [{"message": {"content": "rest"}, "finish_reason": 7}]},
    ],
)
def test_answers_of_another_form(bank, detector, tmp_path, told):
    with loopback(routed(chat=says(told))) as server:
        client = client_of(bank, detector, server, tmp_path)
        with pytest.raises(Unreachable) as caught:
            client.chat(user("A sore toe."))
    assert markers_in(chain(caught.value)) == []


def test_usage_that_is_nonsense_is_left_out(bank, detector, tmp_path):
    told = ANSWERS["text"] | {"usage": {"prompt_tokens": "many", "total_tokens": 4}}
    with loopback(routed(chat=says(told))) as server:
        answer = client_of(bank, detector, server, tmp_path).complete("A sore toe.")
    assert (answer.text, answer.finish_reason) == ("rest", "length")
    assert answer.usage == {"total_tokens": 4}
