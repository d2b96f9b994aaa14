"""1,000 bodies that are no requests: each is refused as the client's fault, and nothing else."""

import base64
import json
import random
import string

from privacyrestore.server import Limits

from .live_server import CHAT, TEXT, chat, completion, live_server

N = 1000
ANYTHING = [
    None, True, False, 0, -1, 1, 0.5, 1e308, -(10**30), 10**400, "", "x", "\x00", "\u202e" * 50, [],
    {}, [[]], [None], [1, "a"], {"a": 1}, [{}], {"role": "user"}, "9" * 5000, ["stop"] * 9,
]  # fmt: skip
KINDS = {
    "messages": (), "prompt": (str,), "model": (str,), "max_tokens": (int,), "n": (),
    "temperature": (int, float), "top_p": (int, float), "seed": (int,), "stop": (str, list),
    "stream": (bool,), "privacy_restore": (), "user": (str,), "logit_bias": (dict,),
}  # fmt: skip
"""For each field the types in which a value of `ANYTHING` could be right."""


class Fuzz:
    """Draws bodies; each way of spoiling one leaves nothing that could be taken."""

    def __init__(self, server, seed):
        self.draw, self.server = random.Random(seed), server
        self.ways = [
            self.random_bytes, self.cut_short, self.bad_byte, self.lost_quote, self.wrong_type,
            self.unknown_field, self.twice, self.deep, self.huge_number, self.wrong_encoding,
            self.bad_vector, self.bad_field, self.other_value, self.tail,
        ]  # fmt: skip

    def body(self):
        """A path, and a body that is right there."""
        if self.draw.random() < 0.5:
            path, body = CHAT, chat("mild cough")
        else:
            path, body = TEXT, completion("mild cough")
        body |= {"privacy_restore": self.server.field(self.draw.randrange(99)), "stop": ["zz"]}
        body["stream"] = self.draw.random() < 0.5
        return path, body

    def one(self):
        path, body = self.body()
        way = self.draw.choice(self.ways)
        return path, way(body), way.__name__

    def random_bytes(self, _):
        return self.draw.randbytes(self.draw.randrange(300))

    def cut_short(self, body):
        text = json.dumps(body).encode()
        return text[: self.draw.randrange(len(text))]

    def bad_byte(self, body):
        text = bytearray(json.dumps(body).encode())
        text.insert(self.draw.randrange(len(text)), self.draw.choice(b"\x00\x01\x1f\x80\xff"))
        return bytes(text)

    def lost_quote(self, body):
        text = json.dumps(body)
        at = self.draw.choice([i for i, letter in enumerate(text) if letter == '"'])
        return (text[:at] + text[at + 1 :]).encode()

    def wrong_type(self, body):
        name = self.draw.choice(list(KINDS))
        kinds = KINDS[name]
        values = [v for v in ANYTHING if v is not None and type(v) not in kinds]
        values = [v for v in values if not (name == "n" and v == 1)]
        return json.dumps({**body, name: self.draw.choice(values)}).encode()

    def unknown_field(self, body):
        name = "".join(self.draw.choices(string.printable, k=self.draw.randrange(20))) + "?"
        return json.dumps({**body, name: self.draw.choice(ANYTHING)}).encode()

    def twice(self, body):
        name = self.draw.choice(list(body))
        return json.dumps(body)[:-1].encode() + f", {json.dumps({name: body[name]})[1:]}".encode()

    def deep(self, body):
        depth = self.draw.choice([40, 1000, 100_000])
        opened, closed = self.draw.choice([("[", "]"), ('{"a":', "}")])
        nested = opened * depth + "1" + closed * depth * self.draw.randrange(2)
        return json.dumps(body)[:-1].encode() + f', "metadata": {nested}}}'.encode()

    def huge_number(self, body):
        name = self.draw.choice(["max_tokens", "temperature", "top_p", "seed", "n"])
        number = self.draw.choice(["1e999", "-1e999", "9" * 400, "9" * 9000, "NaN", "-Infinity"])
        body.pop(name, None)
        return json.dumps(body)[:-1].encode() + f', "{name}": {number}}}'.encode()

    def wrong_encoding(self, body):
        text = json.dumps({**body, "user": "é\N{GRINNING FACE}"}, ensure_ascii=False)
        return text.encode(self.draw.choice(["utf-16", "utf-32", "utf-16-be", "utf-8-sig"]))

    def bad_vector(self, body):
        field, content = body["privacy_restore"], None
        numbers = base64.b64decode(field["meta"])
        spoilt = [
            numbers[:-1], numbers + b"\0", numbers * 1000, b"", b"\xff" * len(numbers),
            b"\x00\x00\x80\x7f" + numbers[4:], b"\x00\x00\xc0\x7f" + numbers[4:],
            b"\xff\xff\x7f\x7f" * (len(numbers) // 4),
        ]  # fmt: skip
        content = base64.b64encode(self.draw.choice(spoilt)).decode()
        if self.draw.random() < 0.3:
            content = self.draw.choice(["!", " ", "=", "é", "\x00"]) + field["meta"]
        return json.dumps({**body, "privacy_restore": {**field, "meta": content}}).encode()

    def bad_field(self, body):
        field = dict(body["privacy_restore"])
        name = self.draw.choice(list(field))
        field[name] = self.draw.choice(ANYTHING)
        if self.draw.random() < 0.3:
            del field[name]
        return json.dumps({**body, "privacy_restore": field}).encode()

    def other_value(self, body):
        change = self.draw.choice(
            [{"temperature": -1}, {"temperature": 2.01}, {"top_p": 0}, {"top_p": 1.1}, {"n": 2},
             {"max_tokens": 0}, {"max_tokens": 10**6}, {"stop": [""]}, {"stop": ["a"] * 5},
             {"model": "other"}, {"logit_bias": {"1": 2}}, {"seed": 2**63}, {"tools": [{}]},
             {"messages": []}, {"prompt": ["a", "b"]}, {"stream_options": {"a": True}}]
        )  # fmt: skip
        return json.dumps(body | change).encode()

    def tail(self, body):
        return json.dumps(body).encode() + self.draw.choice([b"{}", b",", b"\x00", b"]", b"//"])


def test_a_thousand_bodies_that_are_none_are_refused_and_nothing_else_happens():
    with live_server(limits=Limits(max_norm=1e3)) as server:
        fuzz = Fuzz(server, seed=20)
        good = completion("mild cough", privacy_restore=server.field(1))
        right = server.post(TEXT, good).json()["choices"][0]["text"]
        accepted = server.engine.stats().accepted
        ways = set()
        for i in range(N):
            path, body, way = fuzz.one()
            answer = server.post(path, body)
            assert answer.status_code in (400, 404, 409, 413), (way, body[:500], answer.text)
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            assert "mild cough" not in answer.text
            ways.add(way)
            if i % 100 == 0:
                assert server.post(TEXT, good).json()["choices"][0]["text"] == right
                accepted += 1
        assert len(ways) == len(fuzz.ways)
        stats = server.engine.stats()
        assert (stats.accepted, stats.running, stats.waiting) == (accepted, 0, 0)
        assert "failed" not in stats.ended
        assert server.http.get("/health").status_code == 200


def test_a_body_that_is_not_spoilt_is_taken():
    with live_server() as server:
        fuzz = Fuzz(server, seed=0)
        for _ in range(8):
            path, body = fuzz.body()
            assert server.post(path, body).status_code == 200
