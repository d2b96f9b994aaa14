"""Inventing what the speaker will say next: suffixes that a read prefix is extended by.

PsFuture, section 3.1: an interpreter speaks when the words to come would not change what is said
next; the words to come are unknown, so invented ones stand for them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from lipogram.errors import InvalidSetting

Words = tuple[str, ...]


class Future(Protocol):
    """Invents suffixes.

    Attributes:
        count: K, suffixes a prefix.
        sees_future: reads words that have not been said; of use in analysis alone.
        closes_only: the invented source differs by its end of sentence and by nothing else.
    """

    count: int
    sees_future: bool
    closes_only: bool

    def invent(self, prefixes: Sequence[Words], sentences: Sequence[Words]) -> list[list[Words]]:
        """K suffixes for each prefix; `sentences` is empty where the rest is unknown."""


@runtime_checkable
class PreparedFuture(Future, Protocol):
    """A future that costs less when whole sentences are known beforehand, as in a simulation."""

    def prepare(self, sentences: Sequence[Words]) -> None:
        """Invent what follows every prefix of these sentences, without looking at the rest."""


class Fixed:
    """The same words after every prefix.

    Args:
        text: such as " and so on.".

    Raises:
        InvalidSetting: no word in it.
    """

    count, sees_future, closes_only = 1, False, False

    def __init__(self, text: str = " and so on."):
        self.words = tuple(text.split())
        if not self.words:
            raise InvalidSetting("a fixed future needs at least one word; `eos` is the empty one")

    def invent(self, prefixes: Sequence[Words], sentences: Sequence[Words]) -> list[list[Words]]:
        """The same suffix for each prefix."""
        return [[self.words] for _ in prefixes]


class Ellipsis(Fixed):
    """Three dots after every prefix."""

    def __init__(self) -> None:
        super().__init__("...")


class EndOfSentence:
    """Nothing follows: the two sources differ by `</s>` alone, so prefixes have to be open."""

    count, sees_future, closes_only = 1, False, True

    def invent(self, prefixes: Sequence[Words], sentences: Sequence[Words]) -> list[list[Words]]:
        """The empty suffix for each prefix."""
        return [[()] for _ in prefixes]


class Frequent:
    """The words that most often followed the prefix's last ones in monolingual text.

    Back-off from the last two words to the last one to the most frequent n-gram of all.

    Args:
        text: sentences to count in.
        length: words of a suffix.

    Raises:
        InvalidSetting: no n-gram of that length in the text.
    """

    count, sees_future, closes_only = 1, False, False

    def __init__(self, text: Iterable[str], length: int = 2):
        if length < 1:
            raise InvalidSetting(f"a future of {length} words: at least 1 is needed")
        followers: dict[Words, Counter[Words]] = {}
        for line in text:
            words = tuple(line.split())
            for end in range(length, len(words) + 1):
                start = end - length
                for context in range(min(2, start) + 1):
                    key = words[start - context : start]
                    followers.setdefault(key, Counter())[words[start:end]] += 1
        # The smaller n-gram wins a tie, so the order of the text does not matter.
        self.best = {
            key: min(counts.items(), key=lambda item: (-item[1], item[0]))[0]
            for key, counts in followers.items()
        }
        if not self.best:
            raise InvalidSetting(f"the text has no {length} words in a row")

    def invent(self, prefixes: Sequence[Words], sentences: Sequence[Words]) -> list[list[Words]]:
        """The most frequent suffix after each prefix's last words."""
        return [[self._after(prefix)] for prefix in prefixes]

    def _after(self, prefix: Words) -> Words:
        for context in (2, 1):
            found = self.best.get(prefix[-context:]) if len(prefix) >= context else None
            if found is not None:
                return found
        return self.best[()]


class Random:
    """Words drawn from a list, the same for the same prefix (ablation).

    Args:
        words: to draw from.
        length: of a suffix.
        seed: of the draw.

    Raises:
        InvalidSetting: no words, or no length.
    """

    count, sees_future, closes_only = 1, False, False

    def __init__(self, words: Sequence[str], length: int = 3, seed: int = 0):
        self.words, self.length, self.seed = sorted(set(words)), length, seed
        if not self.words or length < 1:
            raise InvalidSetting(
                "a random future needs words to draw from and a length of 1 or more"
            )

    def invent(self, prefixes: Sequence[Words], sentences: Sequence[Words]) -> list[list[Words]]:
        """A drawn suffix for each prefix."""
        return [[self._drawn(prefix)] for prefix in prefixes]

    def _drawn(self, prefix: Words) -> Words:
        source = random.Random(f"{self.seed} {' '.join(prefix)}")
        return tuple(source.choices(self.words, k=self.length))


class Oracle:
    """The words that really follow; for analysis, and refused where nobody can know them.

    Args:
        length: how many of them.
    """

    count, sees_future, closes_only = 1, True, False

    def __init__(self, length: int = 2):
        if length < 1:
            raise InvalidSetting(f"a future of {length} words: at least 1 is needed")
        self.length = length

    def invent(self, prefixes: Sequence[Words], sentences: Sequence[Words]) -> list[list[Words]]:
        """What really follows each prefix in its sentence.

        Raises:
            InvalidSetting: the sentences are unknown.
        """
        if len(sentences) != len(prefixes):
            raise InvalidSetting("the oracle needs whole sentences: a stream has none")
        return [
            [sentence[len(prefix) : len(prefix) + self.length]]
            for prefix, sentence in zip(prefixes, sentences, strict=True)
        ]


class Multi:
    """Several futures at once; the policy takes the mean or the largest of the divergences.

    Args:
        parts: the futures, each with one suffix or more.
    """

    def __init__(self, parts: Sequence[Future]):
        if not parts or any(part.closes_only for part in parts):
            raise InvalidSetting("several futures need at least one, and none that is only `eos`")
        self.parts = tuple(parts)
        self.count = sum(part.count for part in parts)
        self.sees_future = any(part.sees_future for part in parts)
        self.closes_only = False

    def invent(self, prefixes: Sequence[Words], sentences: Sequence[Words]) -> list[list[Words]]:
        """The suffixes of every part for each prefix."""
        found = [part.invent(prefixes, sentences) for part in self.parts]
        return [[suffix for part in row for suffix in part] for row in zip(*found, strict=True)]
