"""What a dissection leaves behind: whole, readable again, escaped, and redacted where asked."""

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ftunlearn.dissection_report import COLUMNS, DissectionReport
from ftunlearn.redaction import digest
from lipogram.errors import CorruptState, InvalidSetting, MissingExtra

HOSTILE = '<script>alert(1)</script><img src="http://example.org/x">'
FILES = {"report.json", "scores.csv", "answers.jsonl", "curves.png", "heatmap.png", "report.html"}


@pytest.fixture(scope="module")
def make_report(make_findings, make_rows):
    def make():
        findings = make_findings()
        texts = {"prompt": "The capital of Land 0 is", "answer": " Town0"}
        said = {"vanilla": " Town0, of course", "unlearned": HOSTILE}
        return DissectionReport(
            findings, tuple(make_rows(findings)), ({"id": "capital-0", **texts, **said},)
        )

    return make


@pytest.fixture
def report(make_report):
    return make_report()


@pytest.fixture
def findings(make_findings):
    return make_findings()


@pytest.fixture(scope="module")
def saved_once(make_report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    make_report().save(folder)
    return folder


@pytest.fixture
def saved(saved_once, tmp_path):
    """A folder that a report was saved in."""
    return Path(shutil.copytree(saved_once, tmp_path / "saved"))


def same(a, b):
    """Equality of JSON values in which NaN is itself."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def test_round_trip(report, tmp_path):
    page = report.save(tmp_path / "new" / "folder")
    assert page.name == "report.html"
    assert {path.name for path in page.parent.iterdir()} == FILES
    again = DissectionReport.load(page.parent)
    assert same(again.content, report.content)
    assert same(again.rows, report.rows)
    assert again.answers == report.answers
    assert again.verdict == report.verdict
    assert again.verdict.label == "suppressed"
    text = (page.parent / "report.json").read_text()
    assert "NaN" not in text
    assert np.isnan(again.curve("attn")[1])
    assert '"prob": null' in text


def test_curve_has_a_value_a_layer(report, findings):
    curve = report.curve("coef+attn", "prob")
    assert curve.shape == (30,)
    assert curve.argmax() == 21
    (held,) = [
        c for c in findings["curves"] if (c["component"], c["protocol"]) == ("values", "paper")
    ]
    np.testing.assert_array_equal(
        report.curve("values", "krs_kl", protocol="paper"), held["mean"]["krs_kl"]
    )
    assert report.curve("values").min() < 0, "negative values are kept"


def test_curve_between_strides_is_undefined(findings):
    for curve in findings["curves"]:
        curve["layers"] = curve["layers"][::3]
        for part in ("mean", "ratio_of_sums", "n"):
            curve[part] = {s: values[::3] for s, values in curve[part].items()}
    curve = DissectionReport(findings).curve("coef")
    assert np.isfinite(curve[::3]).all()
    assert np.isnan(np.delete(curve, range(0, 30, 3))).all()


@pytest.mark.parametrize("asked", [("coeff",), ("coef", "KRS"), ("coef", "prob", "paper")])
def test_unknown_curve_lists_the_known(report, asked):
    component, *score = asked
    with pytest.raises(InvalidSetting, match="coef/krs/aligned"):
        report.curve(component, *score[:1], protocol=(score[1:] or ["aligned"])[0])


def test_frame_means_are_the_curves(report):
    frame = report.frame
    assert tuple(frame.columns) == COLUMNS
    mine = frame[
        (frame.component == "coef") & (frame.protocol == "aligned") & (frame.score == "prob")
    ]
    means = mine.groupby("layer").value.mean()
    np.testing.assert_allclose(means.to_numpy(), report.curve("coef", "prob"), atol=1e-12)
    assert frame[frame.component == "all"].layer.isna().all()


def test_frame_without_pandas_names_the_command(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match="pip install pandas"):
        report.frame  # noqa: B018


def test_plot_draws_every_component(report):
    axes = report.plot(score="prob")
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "coef. + attention" in labels
    assert len(labels) == 6
    assert report.plot(axes) is axes
    with pytest.raises(InvalidSetting, match="bleu"):
        report.plot(score="bleu")


@pytest.mark.parametrize("label", ["not_forgotten", "suppressed", "no_trace_found", "inconclusive"])
def test_page_says_the_verdict_first_and_what_it_means(findings, tmp_path, label):
    findings["verdict"]["label"] = label
    findings |= {"curves": [], "calibration": None, "reverse": None, "relearn": None}
    page = DissectionReport(findings).to_html(tmp_path / "page.html").read_text()
    first = page[page.index("<h1>") : page.index("All layers at once")]
    said = {
        "not_forgotten": "still gives the answers",
        "suppressed": "evidence of recoverability",
        "no_trace_found": "only absence of evidence",
        "inconclusive": "do not agree",
    }
    assert said[label] in first
    assert findings["verdict"]["sentence"] in first
    assert "0.71" in first
    assert "0.55 to 0.84" in first


def test_page_holds_every_section(report, tmp_path):
    page = report.to_html(tmp_path / "page.html").read_text()
    for heading in (
        "What this rests on", "Recovery by layer", "All layers at once", "Relearning attack",
        "Calibration: a model that never knew", "Side effects", "Excluded probes", "Models",
        "The same by the paper", "How it was made",
    ):  # fmt: skip
        assert heading in page, heading
    assert "the vanilla model does not know it (p = 0.01)" in page
    assert "line 12: empty prompt" in page
    assert "also high for a model that never knew" in page
    assert page.count("data:image/png;base64,") == 6
    assert "they were not asked for" in page


def test_page_escapes_and_loads_nothing(report, tmp_path):
    page = report.to_html(tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.search(r"(src|href)=.?https?:", page)
    assert "default-src 'none'" in page


def test_page_of_the_least_findings(findings, tmp_path):
    bare = copy.deepcopy(findings)
    bare |= {
        "calibration": None,
        "reverse": None,
        "relearn": None,
        "side_effects": None,
        "whole": [],
    }
    for curve in bare["curves"]:
        for part in ("mean", "ratio_of_sums"):
            curve[part] = {score: [None] * 30 for score in curve[part]}
    bare["verdict"]["numbers"] = {}
    page = DissectionReport(bare).save(tmp_path)
    assert "Suppressed" in page.read_text()


def test_values_far_below_zero_are_kept_and_drawn(findings, tmp_path):
    for curve in findings["curves"]:
        curve["mean"]["krs"][5] = -40.0
    findings |= {"calibration": None, "reverse": None, "relearn": None}
    DissectionReport(findings).save(tmp_path)
    assert DissectionReport.load(tmp_path).curve("coef")[5] == -40.0


def test_redaction_leaves_no_text(report, tmp_path):
    report.content["problems"].append("line 3: 'The capital of Land 5 is' comes twice")
    page = report.save(tmp_path, redact=True)
    written = b"".join(path.read_bytes() for path in page.parent.iterdir())
    for secret in (b"capital of Land", b"Town0", b"Town4", b"of course", b"alert(1)"):
        assert secret not in written, secret
    assert digest(" Town4").encode() in written
    assert b"capital-4" in written, "ids are kept"
    again = DissectionReport.load(tmp_path)
    assert again.verdict.label == "suppressed"
    assert same(again.rows, report.rows)
    assert again.answers[0]["unlearned"] == digest(HOSTILE)
    assert {"coef", "values"} <= {c["component"] for c in again.content["curves"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema=2), "schema is 2"),
        (lambda c: c.pop("verdict"), "lacks 'verdict'"),
        (lambda c: c["verdict"].pop("sentence"), "verdict lacks 'sentence'"),
        (lambda c: c["verdict"].update(label="erased"), "erased"),
        (lambda c: c["pair"].pop("unlearned"), "unlearned"),
        (lambda c: c["curves"][0]["mean"]["krs"].pop(), "29 values"),
        (lambda c: c["curves"][0]["mean"]["krs"].__setitem__(2, "x"), r"krs\[2\]"),
        (lambda c: c["curves"][0].update(layers=[99] * 30), "beyond the 30"),
        (lambda c: c["curves"][0].update(protocol="other"), "protocol"),
        (lambda c: c["probes"][0].update(id=3), r"probes\[0\].id"),
        (lambda c: c["probes"][0].update(n_answer=True), "n_answer"),
        (lambda c: c["reverse"].update(s1=[1.0]), "reverse.s1"),
        (lambda c: c["relearn"].update(control=None), "control"),
        (lambda c: c.update(layers=-1), "layers"),
        (lambda c: c.update(curves={}), "a list"),
    ],
)
def test_what_is_not_a_report_is_refused(findings, saved, change, message):
    path = saved / "report.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CorruptState, match=message):
        DissectionReport.load(saved)
    change(findings)
    with pytest.raises(InvalidSetting, match=message):
        DissectionReport(findings)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b'{"schema": 1}', b"[" * 100_000]
)
def test_other_files_are_refused(saved, content):
    (saved / "report.json").write_bytes(content)
    with pytest.raises(CorruptState, match=r"report\.json"):
        DissectionReport.load(saved)


@pytest.mark.parametrize("name", ["scores.csv", "answers.jsonl", "report.json"])
def test_missing_or_cut_files_are_refused(saved, name):
    whole = (saved / name).read_bytes()
    (saved / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptState, match=name):
        DissectionReport.load(saved)
    (saved / name).unlink()
    with pytest.raises(CorruptState, match=name):
        DissectionReport.load(saved)


def test_a_save_that_is_killed_leaves_the_old_report_or_none(report, tmp_path, monkeypatch):
    """Stopped before any of its files, what lies there is never taken for a whole new report."""
    import ftunlearn.dissection_report as module

    monkeypatch.setattr("ftunlearn.page.draw", lambda report, folder: {})
    monkeypatch.setattr("ftunlearn.page.render", lambda report, figures: b"page")
    write, left = module.write_atomically, [0]

    def failing(path, content):
        if left[0] == 0:
            raise OSError("stopped")
        left[0] -= 1
        write(path, content)

    monkeypatch.setattr(module, "write_atomically", failing)
    for files in range(4):
        folder = tmp_path / str(files)
        left[0] = files
        with pytest.raises(OSError, match="stopped"):
            report.save(folder)
        with pytest.raises(CorruptState):
            DissectionReport.load(folder)


def test_loading_a_report_imports_no_torch(saved):
    code = (
        "import sys; from ftunlearn import DissectionReport;"
        f"DissectionReport.load({str(saved)!r}).to_html({str(saved / 'p.html')!r});"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
