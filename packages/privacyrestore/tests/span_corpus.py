"""Generated questions whose sensitive spans are words that occur nowhere else."""

import random
import unicodedata
from dataclasses import dataclass

ONSETS = ("br", "dv", "fl", "gw", "kl", "mr", "pl", "qu", "sk", "tv", "vr", "zh")
NUCLEI = ("a", "e", "i", "o", "u", "ao", "ei")
CODAS = ("b", "g", "k", "lm", "n", "nx", "rp", "sk", "v", "z")
KINDS = ("cough", "rash", "dizziness", "stiffness", "swelling", "itch")

SETTINGS = (
    "I am {age} and I work as a {work}.",
    "The patient is {age}, a {work}, and travelled in {month}.",
    "Please advise a {age} year old {work}.",
)
SENTENCES = (
    "Since {month} there is {spans}.",
    "The notes of {month} mention {spans} and little else.",
    "My doctor wrote down {spans}, then went home.",
    "Nobody at work knows of {spans}.",
)
QUESTIONS = (
    "What is the likely cause?",
    "What should be done first?",
    "Which test comes next, and why?",
)
WORKS = ("baker", "clerk", "driver", "gardener", "teacher", "welder")
MONTHS = ("January", "March", "May", "July", "October", "December")


def plain(span, draw):
    return span


def upper(span, draw):
    return span.upper()


def title(span, draw):
    return span.title()


def mixed_case(span, draw):
    return "".join(draw.choice((letter.upper(), letter)) for letter in span)


def plural(span, draw):
    return span + ("es" if span.endswith(("s", "sh", "ch")) else "s")


def possessive(span, draw):
    return span + draw.choice(("'s", "\u2019s"))


def newline(span, draw):
    return span.replace(" ", "\n")


def spaces(span, draw):
    return span.replace(" ", draw.choice(("  ", "\t", "\u00a0", " \r\n ")))


def zero_width(span, draw):
    at = draw.randrange(1, len(span.split()[0]))
    return span[:at] + draw.choice(("\u200b", "\u200d", "\u2060", "\u00ad")) + span[at:]


def html_escaped(span, draw):
    at = draw.randrange(len(span.split()[0]))
    code = ord(span[at])
    return span[:at] + draw.choice((f"&#{code};", f"&#x{code:x};")) + span[at + 1 :]


def html_space(span, draw):
    return span.replace(" ", "&nbsp;")


def accented(span, draw):
    at = next(place for place, letter in enumerate(span) if letter in "aeiou")
    return unicodedata.normalize("NFC", span[: at + 1] + "\u0301" + span[at + 1 :])


def full_width(span, draw):
    return "".join(chr(ord(letter) + 0xFEE0) if letter.isalpha() else letter for letter in span)


FORMS = (
    plain, plural, possessive, upper, title, mixed_case, newline, spaces, zero_width, html_escaped,
    html_space, accented, full_width,
)  # fmt: skip
"""Ways in which a span that the vocabulary holds is written in a text."""


@dataclass(frozen=True)
class Question:
    """A text, what of it must not leave, and its outer frame.

    Attributes:
        text: with its spans.
        canonical: the span types in it, as the vocabulary spells them.
        template: the text with `{}` for each span, which decides what remains.
        forms: how the spans are written.
    """

    text: str
    canonical: tuple[str, ...]
    template: str
    forms: tuple[str, ...]


class SpanCorpus:
    """Questions drawn with a seed over a vocabulary of made-up findings.

    Every span is a made-up word and an ordinary one ("vreinxog cough"); it has an alias that is
    another made-up word. `markers` are all the made-up words: none of them occurs elsewhere.
    """

    def __init__(self, seed=0, spans=40):
        self.draw = random.Random(seed)
        words = set()
        while len(words) < 2 * spans:
            words.add(self._word())
        self.markers = tuple(sorted(words))
        shuffled = list(self.markers)
        self.draw.shuffle(shuffled)
        self.vocabulary = tuple(
            f"{word} {self.draw.choice(KINDS)}" for word in sorted(shuffled[:spans])
        )
        self.aliases = {
            span: (f"{word} syndrome",)
            for span, word in zip(self.vocabulary, shuffled[spans:], strict=True)
        }

    def _word(self):
        draw = self.draw
        return "".join(
            draw.choice(ONSETS) + draw.choice(NUCLEI) + draw.choice(CODAS) for _ in range(2)
        ) + draw.choice(("a", "o", "i"))

    def template(self, spans=None):
        """A question with `{}` in place of each span, and how many there are."""
        draw = self.draw
        spans = draw.choice((1, 1, 2, 2, 3, 4)) if spans is None else spans
        parts = [draw.choice(SETTINGS)]
        while spans > 0:
            here = min(spans, draw.choice((1, 1, 2, 3)))
            listed = ["{}"] * here
            joined = " and ".join(filter(None, (", ".join(listed[:-1]), listed[-1])))
            parts.append(draw.choice(SENTENCES).replace("{spans}", joined))
            spans -= here
        parts.append(draw.choice(QUESTIONS))
        words = {"age": draw.randrange(19, 91), "work": draw.choice(WORKS)}
        text = " ".join(parts)
        for name, value in words.items():
            text = text.replace(f"{{{name}}}", str(value))
        while "{month}" in text:
            text = text.replace("{month}", draw.choice(MONTHS), 1)
        return text

    def fill(self, template, canonical=None, forms=None):
        """A question from a template; spans and their forms are drawn where they are not given."""
        draw, n = self.draw, template.count("{}")
        canonical = tuple(canonical or draw.sample(self.vocabulary, n))
        forms = forms or [draw.choice(FORMS) for _ in range(n)]
        written = []
        for span, form in zip(canonical, forms, strict=True):
            spelling = draw.choice((span, span, self.aliases[span][0]))
            written.append(form(spelling, draw))
        text = template.format(*written)
        return Question(text, canonical, template, tuple(form.__name__ for form in forms))

    def questions(self, n):
        """`n` questions, the forms in turn so that all of them occur."""
        made = []
        for i in range(n):
            template = self.template()
            forms = [FORMS[(i + j) % len(FORMS)] for j in range(template.count("{}"))]
            made.append(self.fill(template, forms=forms))
        return made
