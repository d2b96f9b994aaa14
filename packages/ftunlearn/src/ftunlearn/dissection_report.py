"""What a dissection found: kept as JSON and tables, shown as figures and one page."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ftunlearn.redaction import redacted, texts_in
from ftunlearn.report_schema import Misfit, checked
from ftunlearn.verdict import Interval, Thresholds, Verdict
from lipogram.errors import CorruptState, InvalidSetting, MissingExtra
from lipogram.files import write_atomically
from lipogram.settings import plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ScoreRow = tuple[str, str, str, int | None, str, float]
COLUMNS = ("probe", "component", "protocol", "layer", "score", "value")
_REPORT, _SCORES, _ANSWERS, _PAGE = "report.json", "scores.csv", "answers.jsonl", "report.html"
_KEPT = ("curves.png", "heatmap.png")


@dataclass(frozen=True, eq=False)
class DissectionReport:
    """A dissection's findings.

    Attributes:
        content: of `report.json` (:mod:`ftunlearn.report_schema` says what is in it); numbers that
            are undefined are NaN here and null there.
        rows: (probe, component, protocol, layer, score, value) of every run; the layer of a
            component in all layers at once is None.
        answers: id, prompt, answer and what each model says, of each probe.

    Raises:
        InvalidSetting: `content` is not what the table allows.
    """

    content: dict[str, Any]
    rows: tuple[ScoreRow, ...] = ()
    answers: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        try:
            content = checked(plain(self.content, "report"))
        except Misfit as error:
            raise InvalidSetting(f"these are no findings of a dissection: {error}") from None
        object.__setattr__(self, "content", content)
        object.__setattr__(self, "rows", tuple(self.rows))
        object.__setattr__(self, "answers", tuple(self.answers))

    @property
    def verdict(self) -> Verdict:
        """Label, numbers with intervals, the tests that ran, and the sentence."""
        held = self.content["verdict"]
        return Verdict(
            label=held["label"],
            numbers={
                name: Interval(part["value"], part["low"], part["high"])
                for name, part in held["numbers"].items()
            },
            ran=tuple(held["ran"]),
            skipped=self.content["skipped"],
            thresholds=Thresholds(**held["thresholds"]),
            sentence=held["sentence"],
        )

    def curve(
        self, component: str, score: str = "krs", *, protocol: str = "aligned"
    ) -> NDArray[np.float64]:
        """Mean recovery by the layer that the window is centred at.

        Args:
            component: what was replaced, as `coef+attn`.
            score: krs, krs_centered, krs_kl, prob, first_token or greedy.
            protocol: aligned, or paper.

        Returns:
            (L,) float64; NaN where no window was centred, or no probe defines the score.

        Raises:
            InvalidSetting: it was not measured; the message lists what was.
        """
        found = np.full(self.content["layers"], np.nan)
        curves = self.content["curves"]
        for held in curves:
            named = held["component"] == component and held["protocol"] == protocol
            if named and score in held["mean"]:
                found[held["layers"]] = held["mean"][score]
                return found
        known = sorted({f"{c['component']}/{s}/{c['protocol']}" for c in curves for s in c["mean"]})
        raise InvalidSetting(
            f"no curve {component}/{score}/{protocol}; there are {', '.join(known) or 'none'}"
        )

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a table of pandas, columns as in `scores.csv`.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise MissingExtra("pandas", "pip install pandas") from None
        frame = pd.DataFrame(list(self.rows), columns=list(COLUMNS))
        return frame.astype({"layer": "Int64", "value": "float64"})

    def plot(self, ax: Axes | None = None, *, score: str = "krs") -> Axes:
        """Draw the recovery curves of one score.

        Args:
            ax: Matplotlib axes to draw into; new ones if None.
            score: see :meth:`curve`.

        Raises:
            InvalidSetting: the score was not measured.
        """
        from ftunlearn.drawing import draw_curves

        return draw_curves(self.content["curves"], score, ax)

    def to_html(self, path: str | Path) -> Path:
        """Write the page: self-contained, no script, nothing loaded from elsewhere."""
        from ftunlearn.page import draw, render

        with TemporaryDirectory() as scratch:
            page = render(self, draw(self, Path(scratch)))
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
        return path

    def redacted(self) -> DissectionReport:
        """The same with hashes in place of every prompt and answer; ids and numbers stay."""
        secrets = texts_in(self.content) | texts_in(self.answers)
        return DissectionReport(
            redacted(self.content, secrets), self.rows, tuple(redacted(self.answers, secrets))
        )

    def save(self, folder: str | Path, *, redact: bool = False) -> Path:
        """Write report.json, scores.csv, answers.jsonl, curves.png, heatmap.png and report.html.

        Each file is whole or not there, and `report.json` comes last.

        Args:
            folder: made if it does not exist; other files in it are left alone.
            redact: write hashes in place of prompts and answers.

        Returns:
            Path of the page.
        """
        if redact:
            return self.redacted().save(folder)
        from ftunlearn.page import draw, render

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as scratch:
            drawn = draw(self, Path(scratch))
            page = render(self, drawn)
            for figure in drawn.values():
                if figure.name in _KEPT:
                    write_atomically(folder / figure.name, figure.read_bytes())
        tables = {_SCORES: _csv(self.rows), _ANSWERS: _lines(self.answers)}
        for name, content in (tables | {_PAGE: page}).items():
            write_atomically(folder / name, content)
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in tables.items()}
        report = plain({**self.content, "files": digests}, "report")
        text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        write_atomically(folder / _REPORT, text.encode("utf-8", "backslashreplace"))
        return folder / _PAGE

    @classmethod
    def load(cls, folder: str | Path) -> DissectionReport:
        """Read what :meth:`save` wrote.

        Raises:
            CorruptState: the folder holds no report of this version, or not all of one.
        """
        folder = Path(folder)
        path = folder / _REPORT
        held = _read(path)
        try:
            content = json.loads(held)
            digests = content.pop("files", {}) if isinstance(content, dict) else {}
            checked(content)
        except (ValueError, RecursionError) as error:
            raise CorruptState(f"{path} is no report of a dissection: {error}") from None
        tables = {name: _read(folder / name) for name in (_SCORES, _ANSWERS)}
        for name, table in tables.items():
            if not isinstance(digests, Mapping) or hashlib.sha256(table).hexdigest() != digests.get(
                name
            ):
                raise CorruptState(f"{folder / name} is not the file that {_REPORT} was saved with")
        answers = [json.loads(line) for line in tables[_ANSWERS].splitlines()]
        return cls(content, tuple(_rows(tables[_SCORES])), tuple(answers))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorruptState(
            f"{path.parent} holds no whole report: {path.name} cannot be read ({error.strerror})"
        ) from None


def _csv(rows: Iterable[ScoreRow]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for probe, component, protocol, layer, score, value in rows:
        shown = "" if np.isnan(value) else repr(float(value))
        place = "" if layer is None else layer
        writer.writerow([probe, component, protocol, place, score, shown])
    return text.getvalue().encode("utf-8", "backslashreplace")


def _rows(table: bytes) -> Iterable[ScoreRow]:
    lines = csv.reader(io.StringIO(table.decode("utf-8"), newline=""))
    next(lines)
    for probe, component, protocol, layer, score, value in lines:
        place = int(layer) if layer else None
        yield probe, component, protocol, place, score, float(value or "nan")


def _lines(answers: Iterable[dict[str, Any]]) -> bytes:
    shown = (json.dumps(plain(item, "answers"), allow_nan=False) for item in answers)
    return "".join(f"{line}\n" for line in shown).encode()
