import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from lipogram.errors import CorruptState, InvalidSetting
from lipogram.figures import accuracy_curves
from lipogram.report import Section, Table, write_report
from lipogram.runs import Run

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "'; background: url(https://example.org/x)",
    "\ud800 lone",
]


class Page(HTMLParser):
    """The elements of a page, with what may load or run something."""

    def __init__(self, path):
        super().__init__()
        self.elements = []
        self.cells = []
        self.style = ""
        self._inside = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = tag
        if tag in ("td", "dd"):
            self.cells.append("")

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside in ("td", "dd"):
            self.cells[-1] += data
        elif self._inside == "style":
            self.style += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", {"data set": HOSTILE[0], "nested": {"list": [1, 2]}})


def hostile_page(run):
    figure = run.figure("curves")
    accuracy_curves({"a": ([1, 2], [0.5, 0.6])}, figure, xlabel="x", ylabel="y", title="t")
    (section,) = [
        Section(
            HOSTILE[1],
            text="\n\n".join(HOSTILE),
            table=Table(HOSTILE, [HOSTILE, [*HOSTILE[:5], 1.5]], caption=HOSTILE[2]),
            figure=figure,
            caption=HOSTILE[1],
        )
    ]
    return Page(
        write_report(
            run,
            title=HOSTILE[2],
            lead=HOSTILE[0],
            sections=[section],
            key_figures={HOSTILE[0]: HOSTILE[1]},
        )
    )


def test_hostile_names_stay_text(run):
    page = hostile_page(run)
    allowed = {
        "html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "h3", "p",
        "dl", "div", "dt", "dd", "section", "table", "thead", "tbody", "tr", "th", "td", "figure",
        "img", "figcaption", "footer",
    }  # fmt: skip
    assert {tag for tag, _ in page.elements} <= allowed
    assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]
    assert HOSTILE[0] in page.cells
    assert HOSTILE[3] in page.cells
    assert len(page.all("img")) == 1


def test_nothing_on_the_page_is_outside_it(run):
    page = hostile_page(run)
    for tag, attributes in page.elements:
        assert "href" not in attributes, tag
        assert "style" not in attributes, tag
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_the_content_security_policy_allows_this_style_and_nothing_else(run):
    page = hostile_page(run)
    (policy,) = [
        m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"
    ]
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert len(page.style) > 1000
    assert set(policy.split("; ")) == {
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    }


def test_the_page_has_light_dark_and_print(run):
    style = hostile_page(run).style
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


def test_figures_are_inlined_whole(run):
    page = hostile_page(run)
    (image,) = page.all("img")
    content = base64.b64decode(image["src"].partition(",")[2])
    assert content == run.figure("curves").read_bytes()
    assert image["alt"] == HOSTILE[1]
    svg = run.figure("curves.svg")
    accuracy_curves({"a": ([1, 2], [0.5, 0.6])}, svg, xlabel="x", ylabel="y", title="t")
    (image,) = Page(write_report(run, title="t", sections=[Section("s", figure=svg)])).all("img")
    assert base64.b64decode(image["src"].removeprefix("data:image/svg+xml;base64,")) == (
        svg.read_bytes()
    )


def test_numbers_are_aligned_and_written_for_readers(run):
    table = Table(
        ["method", "accuracy", "n", "mixed"],
        [
            ["a", 0.81249, 12345, 1],
            ["b", None, 7, "x"],
            ["c", float("nan"), -3, True],
            ["d", -0.00001, 0, 0],
            ["e", 123456.7, 0, 0],
            ["f", -0.0, 0, 0],
        ],
        highlight=[1],
    )
    page = Page(write_report(run, title="t", sections=[Section("s", table=table)]))
    cells = page.cells[:24]
    assert cells[1::4] == ["0.812", "–", "–", "−1.0e−05", "123,457", "0.000"]
    assert cells[2::4] == ["12,345", "7", "−3", "0", "0", "0"]
    assert cells[3::4] == ["1", "x", "True", "0", "0", "0"]
    heads = [attributes.get("class") for attributes in page.all("th")]
    assert heads == [None, "number", "number", None]
    assert [attributes.get("class") for attributes in page.all("td")[:4]] == heads
    assert [row.get("class") for row in page.all("tr")][1:4] == [None, "highlight", None]


def test_settings_and_environment_close_the_page(run):
    page = Page(write_report(run.folder, title="t", sections=[]))
    assert HOSTILE[0] in page.cells
    assert "1, 2" in page.cells
    assert run.environment["versions"]["numpy"] in page.cells


def test_a_report_can_be_written_again(run):
    first = write_report(run, title="first", sections=[])
    second = write_report(run, title="second", sections=[])
    assert first == second == run.folder / "report.html"
    assert re.search(r"<title>second</title>", second.read_text())


def test_bad_input_is_refused_and_no_page_written(run, tmp_path):
    (tmp_path / "fake.png").write_bytes(b"<html>")
    (tmp_path / "fake.svg").write_bytes(b"text")
    for name in ("fake.png", "fake.svg"):
        with pytest.raises(InvalidSetting, match=f"{name}.*neither a PNG nor an SVG"):
            write_report(run, title="t", sections=[Section("s", figure=tmp_path / name)])
    with pytest.raises(InvalidSetting, match=r"absent\.png.*cannot be read"):
        write_report(run, title="t", sections=[Section("s", figure=tmp_path / "absent.png")])
    with pytest.raises(InvalidSetting, match=r"row 1 has 1 cells.*2 columns"):
        Table(["a", "b"], [[1, 2], [3]])
    with pytest.raises(CorruptState, match="no run"):
        write_report(tmp_path / "absent", title="t", sections=[])
    assert not (run.folder / "report.html").exists()
