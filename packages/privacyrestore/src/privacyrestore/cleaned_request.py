"""What an app asks, without its spans: texts are cleaned, everything else must hold none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from lipogram.errors import LipogramError
from privacyrestore.errors import SpanRemains, Unsendable
from privacyrestore.payload import FIELD

if TYPE_CHECKING:
    from privacyrestore.span_detector import Span, SpanDetector

ROLES = ("system", "developer", "user", "assistant")
OWN_FIELDS = ("messages", "prompt", "stream", FIELD)
BETWEEN = "\n\n"
"""Stands between the messages where their attention is measured as one text."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class Cleaned:
    """A request's public part, and beside it what must not leave.

    Attributes:
        content: messages with role and content, or a prompt, cleaned.
        options: the other fields of the body.
        text: all that was asked, as one text; never sent.
        spans: what was found, by its place in `text`; never sent.
    """

    content: list[dict[str, str]] | str
    options: dict[str, Any]
    text: str = field(repr=False)
    spans: tuple[Span, ...] = field(repr=False)

    @property
    def span_ids(self) -> list[int]:
        """The span types that occur, each once, in ascending order."""
        return sorted({span.span_id for span in self.spans})


def cleaned_prompt(prompt: str, options: Mapping[str, Any], detector: SpanDetector) -> Cleaned:
    """A prompt without its spans.

    Raises:
        SpanRemains: a span that removal cannot take out.
        Unsendable: no text, one of which nothing is left (servers refuse an empty prompt), or an
            option that holds a span or is not one.
    """
    if not isinstance(prompt, str):
        raise Unsendable("the prompt must be one text")
    checked = checked_options(options, detector)
    public, spans = _removed(prompt, detector)
    if not public.strip():
        raise Unsendable("nothing of the prompt can be sent: ask something around it, or chat")
    return Cleaned(public, checked, prompt, tuple(spans))


def cleaned_messages(
    messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any], detector: SpanDetector
) -> Cleaned:
    """Messages of all roles without their spans; an answer of the history may repeat one.

    Args:
        messages: each with a role and a content, a text or a list of parts of type text. Fields
            that are None or empty count as absent.
        options: the other fields of the body.
        detector: finds the spans.

    Raises:
        SpanRemains: a span that removal cannot take out.
        Unsendable: anything but texts (images, tools and their calls), or an option that holds a
            span.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise Unsendable("messages must be a list of at least one object with role and content")
    checked = checked_options(options, detector)
    public, texts, found, offset = [], [], [], 0
    for message in messages:
        role, text = _message(message, detector)
        kept, spans = _removed(text, detector)
        public.append({"role": role, "content": kept})
        found += [_moved(span, offset) for span in spans]
        texts.append(text)
        offset += len(text) + len(BETWEEN)
    return Cleaned(public, checked, BETWEEN.join(texts), tuple(found))


def checked_options(options: Mapping[str, Any], detector: SpanDetector) -> dict[str, Any]:
    """The options that are not None, if they may stand in a body as they are.

    Raises:
        Unsendable: one that JSON cannot hold, that is the client's own field, or that holds a
            span in a text or a name anywhere inside it.
    """
    kept = {name: value for name, value in options.items() if value is not None}
    if own := [name for name in OWN_FIELDS if name in kept]:
        raise Unsendable(f"{own[0]} is set by the client itself, it cannot be an option")
    try:
        plain = json.loads(json.dumps(kept, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        plain = None
    if plain is None:
        raise Unsendable("the options must be values that JSON can hold")
    _refuse_spans(list(_texts(plain)), detector, "an option")
    return dict(plain)


def guarded(what: str, work: Callable[..., Made], *arguments: Any) -> Made:
    """Call what saw the whole text; of an unexpected error only its type's name gets out.

    Raises:
        Unsendable: it failed with an error that is not of our own.
    """
    try:
        return work(*arguments)
    except LipogramError:
        raise
    except Exception as error:
        kind = type(error).__name__
    # Outside the handler: an exception raised in it would carry the first one, and its text, along.
    raise Unsendable(f"{what} failed ({kind}); nothing was sent")


def _message(message: Any, detector: SpanDetector) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise Unsendable("a message must be an object with role and content")
    given = {name: value for name, value in message.items() if value not in (None, [], {})}
    if set(given) - {"role", "content"}:
        raise Unsendable(
            "a message has more than role and content: names, tools and their calls can't be sent"
        )
    if given.get("role") not in ROLES:
        raise Unsendable(f"the role of a message must be one of {', '.join(ROLES)}")
    return given["role"], _text(given.get("content", ""), detector)


def _text(content: Any, detector: SpanDetector) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Unsendable("the content of a message must be a text or a list of parts")
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or len(part) != 2:
            raise Unsendable("of the parts of a message only texts can be cleaned and sent")
        if not isinstance(part.get("text"), str):
            raise Unsendable("of the parts of a message only texts can be cleaned and sent")
    parts = [part["text"] for part in content]
    joined = "\n".join(parts)
    if len(parts) > 1:  # a reader sees what two parts make up, also where a detector does not
        known = {span.span_id for span in guarded("detection", detector.find, joined)}
        across = {span.span_id for span in guarded("detection", detector.find, "".join(parts))}
        if across - known:
            raise SpanRemains("a span runs over two parts of a message: send them as one text")
    return joined


def _removed(text: str, detector: SpanDetector) -> tuple[str, list[Span]]:
    from privacyrestore.span_removal import remove_spans

    _refuse_halves(text)
    removal = guarded("removal", remove_spans, text, detector)
    return removal.text, list(removal.spans)


def _moved(span: Span, by: int) -> Span:
    return type(span)(span.start + by, span.end + by, span.span_id)


def _refuse_halves(text: str) -> None:
    """Servers refuse what is not Unicode; that should not be found out after a release."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise Unsendable("a text holds half a surrogate pair: it was decoded wrongly")


def _refuse_spans(texts: Sequence[str], detector: SpanDetector, what: str) -> None:
    for text in texts:
        _refuse_halves(text)
        if guarded("detection", detector.find, text):
            raise Unsendable(f"{what} holds what must not be sent: take it out, or omit it")


def _texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value, the names in its objects among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
