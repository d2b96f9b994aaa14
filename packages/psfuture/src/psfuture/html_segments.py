"""HTML pages as runs of text between the borders of their blocks."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

# fmt: off
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "caption", "dd", "div", "dl", "dt",
    "fieldset", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr",
    "li", "main", "nav", "ol", "p", "pre", "section", "table", "tbody", "td", "tfoot", "th",
    "thead", "title", "tr", "ul",
})
# fmt: on
_SILENT_TAGS = frozenset({"head", "noscript", "pre", "script", "style", "svg"})
# html.parser is five times slower, and there are 60 MB to read.
_MARK = re.compile(
    r"""<!--.*?-->|<[!?][^>]*>|<(/?)([a-zA-Z][a-zA-Z0-9]*+)((?:[^<>"']++|"[^"]*+"|'[^']*+')*+)>""",
    re.DOTALL,
)
_CLASS = re.compile(r"""\bclass\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_ID = re.compile(r"""(?<![\w:-])id\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_HIDDEN = re.compile(r"\bhidden\b")


@dataclass(frozen=True)
class Segment:
    """A run of text that no border of a block cuts.

    Attributes:
        border: the tag that begins or, with a slash, ends a block before it.
        anchor: `id` of the block that it is in; empty without one.
        text: as it stands there, white space and all.
    """

    border: str
    anchor: str
    text: str


def segments(page: str, silent: frozenset[str] = frozenset()) -> list[Segment]:
    """A page's text, in order; an empty run is one too, so that equal structures give equal lists.

    Programs (`pre`, `script`), the head and what has a class in `silent` are left out. Where a page
    offers several readings of a place, one for each system (`switchinline`, of LibreOffice's help),
    the last counts, which is the one for all others.
    """
    reader = _Reader(silent)
    reader.read(page)
    return reader.segments


class _Reader:
    def __init__(self, silent: frozenset[str]):
        self.segments: list[Segment] = []
        self._silent = silent
        self._silenced: tuple[str, int] | None = None  # the tag, and how deep in tags of its name
        self._border = ""
        self._anchors: list[tuple[str, str]] = []
        self._spans: list[int | None] = []  # of a switch, where its text begins
        self._text: list[str] = []

    def read(self, page: str) -> None:
        end = 0
        for mark in _MARK.finditer(page):
            self._say(page[end : mark.start()])
            end = mark.end()
            closing, name, attributes = mark.groups()
            if name is None:  # a comment or a declaration
                continue
            tag = name.lower()
            if self._silenced is not None:
                self._count(tag, closing=bool(closing), empty=attributes.endswith("/"))
            elif closing:
                self._leave(tag)
            elif tag == "br":
                self._text.append("\n")
            elif not attributes.endswith("/"):  # an empty element of XHTML holds nothing
                self._enter(tag, attributes)
        self._say(page[end:])
        self._end("")

    def _say(self, text: str) -> None:
        if text and self._silenced is None:
            self._text.append(html.unescape(text))

    def _count(self, tag: str, *, closing: bool, empty: bool) -> None:
        """Find the end of what is silent."""
        assert self._silenced is not None
        name, depth = self._silenced
        if tag != name or empty:
            return
        depth += -1 if closing else 1
        self._silenced = (name, depth) if depth else None
        if self._silenced is None and tag in _BLOCKS:
            self._border = f"/{tag}"

    def _enter(self, tag: str, attributes: str) -> None:
        if tag in _BLOCKS:
            self._end(tag)
        named = _CLASS.search(attributes)
        classes = (named[1] or named[2] or "").split() if named else []
        if tag in _SILENT_TAGS or not self._silent.isdisjoint(classes):
            self._silenced = tag, 1
        elif tag in _BLOCKS:
            anchor = _ID.search(attributes)
            self._anchors.append((tag, (anchor[1] or anchor[2] or "") if anchor else ""))
        elif tag == "span":
            if _HIDDEN.search(attributes) and self._spans and self._spans[-1] is not None:
                del self._text[self._spans[-1] :]
            self._spans.append(len(self._text) if "switchinline" in classes else None)

    def _leave(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._end(f"/{tag}")
            while self._anchors and self._anchors.pop()[0] != tag:
                pass
        elif tag == "span" and self._spans:
            self._spans.pop()

    def _end(self, border: str) -> None:
        """Close the run of text that `border` ends."""
        anchor = self._anchors[-1][1] if self._anchors else ""
        self.segments.append(Segment(self._border, anchor, "".join(self._text)))
        self._border = border
        self._text.clear()
        self._spans = [None] * len(self._spans)
