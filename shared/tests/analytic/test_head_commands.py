"""The commands on an app of their own, over plain ridge heads."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from lipogram.analytic import AnalyticClassifier, FeatureStore
from lipogram.analytic.head_commands import (
    add_extract,
    add_forget,
    add_inspect,
    add_merge,
    add_predict,
    labelled_rows,
    predict_rows,
)
from lipogram.errors import IncompatibleFeatures, InvalidLabels, InvalidSetting, NotSeen
from lipogram.report import Table

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
X = np.eye(3, 5)[Y] * 3 + RNG.standard_normal((60, 5))


class Head(AnalyticClassifier):
    """Ridge with one matrix a class, so that a class can be dropped without its rows."""

    def _pooled(self) -> bool:
        return False


def described(head: Head) -> tuple[dict[str, object], Table]:
    rows = [[str(label), int(n)] for label, n in zip(head.classes_, head.class_count_, strict=True)]
    return {"rule": "plain"}, Table(columns=["class", "rows"], rows=rows)


app = typer.Typer()
add_extract(app, image_size=4)
add_predict(app, Head.load)
add_merge(app, Head.load)
add_forget(app, Head.load)
add_inspect(app, Head.load, described)


def run(*arguments: object) -> None:
    app(list(map(str, arguments)), standalone_mode=False)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    np.savez(tmp_path / "first.npz", X=X[:30], y=Y[:30])
    np.savez(tmp_path / "all.npz", X=X, y=Y)
    np.savez(tmp_path / "bare.npz", X=X)
    for name, rows in (("first", slice(30)), ("second", slice(30, 60)), ("all", slice(60))):
        head = Head(gamma=1.0, buffer_size=None).fit(X[rows], Y[rows])
        head.save(tmp_path / f"{name}.st")
    return tmp_path


def weights(path: Path) -> np.ndarray:
    return Head.load(path).coef_


def test_merged_is_as_if_one_head_had_seen_everything(files: Path) -> None:
    run("merge", files / "first.st", files / "second.st", "--out", files / "sum.st")
    np.testing.assert_allclose(weights(files / "sum.st"), weights(files / "all.st"), atol=1e-12)
    with pytest.raises(InvalidSetting, match="at least two"):
        run("merge", files / "first.st")


def test_forgotten_rows_and_classes_are_as_if_never_seen(files: Path) -> None:
    run("forget", files / "all.st", files / "first.npz", "--out", files / "less.st")
    np.testing.assert_allclose(weights(files / "less.st"), weights(files / "second.st"), atol=1e-10)
    before = (files / "first.st").read_bytes()
    for arguments, error in (
        ([files / "bare.npz"], InvalidLabels),
        ([], InvalidSetting),
        ([files / "all.npz"], NotSeen),
    ):
        with pytest.raises(error):
            run("forget", files / "first.st", *arguments)
        assert (files / "first.st").read_bytes() == before
    names = Head(gamma=1.0, buffer_size=None).fit(X, np.array(["7", "x", "y"])[Y])
    names.save(files / "names.st")
    run("forget", files / "names.st", "--drop", 7)  # a name, as the labels are names
    assert Head.load(files / "names.st").classes_.tolist() == ["x", "y"]
    run("forget", files / "all.st", "--drop", "2", "--drop", "0")
    assert Head.load(files / "all.st").classes_.tolist() == [1]


def test_each_row_gets_a_label_and_a_share(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("predict", files / "all.st", files / "all.npz")
    shown = capsys.readouterr()
    head = Head.load(files / "all.st")
    rows = list(csv.DictReader(shown.out.splitlines()))
    assert [int(row["row"]) for row in rows] == list(range(60))
    assert [int(row["label"]) for row in rows] == head.predict(X).tolist()
    shares = [float(row["share"]) for row in rows]
    np.testing.assert_allclose(shares, head.predict_proba(X).max(1), atol=1e-6)
    assert f"accuracy {(head.predict(X) == Y).mean():.4f}" in shown.err
    run("predict", files / "all.st", files / "bare.npz", "--out", files / "labels.csv")
    assert (files / "labels.csv").read_text() == shown.out
    assert "accuracy" not in capsys.readouterr().err


def test_options_reach_both_predictions(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Told(Head):
        def predict(self, X: object, *, sure: bool) -> np.ndarray:
            return np.full(len(X), 2 if sure else 1)

        def predict_proba(self, X: object, *, sure: bool) -> np.ndarray:
            return np.full((len(X), 1), 1.0 if sure else 0.5)

    predict_rows(Told(buffer_size=None), files / "bare.npz", None, sure=True)
    assert capsys.readouterr().out.splitlines()[1] == "0,2,1.000000"


def test_what_a_head_holds(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("inspect", files / "first.st", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert (facts["rows"], facts["classes"], facts["inputs"], facts["buffer"]) == (30, 3, 5, 0)
    assert (facts["gamma"], facts["rule"]) == (1.0, "plain")
    assert facts["class_weight"] == [["0", 10], ["1", 10], ["2", 10]]
    run("inspect", files / "first.st")
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("condition", "rule", "plain", "class"))


def test_extracted_features_belong_to_their_backbone(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, name in enumerate(("cat", "dog")):
        (files / "pictures" / name).mkdir(parents=True)
        for k in range(2):
            shade = (60 * i, 50 * k, 9)
            Image.new("RGB", (6, 6), shade).save(files / "pictures" / name / f"{k}.png")
    (files / "pictures" / "dog" / "broken.png").write_bytes(b"no picture")
    run("extract", files / "pictures", files / "store", "--backbone", "pixels")
    shown = capsys.readouterr()
    assert "4 images of 2 classes, 48 features each" in shown.out
    assert "1 images were skipped" in shown.err
    assert FeatureStore.open(files / "store").n == 4
    rows, labels, space = labelled_rows(files / "store")
    assert labels.tolist() == ["cat", "cat", "dog", "dog"]
    head = Head(gamma=1.0, buffer_size=None, space=space).fit(rows, labels)
    head.save(files / "pictures.st")
    run("predict", files / "pictures.st", files / "store")
    with pytest.raises(IncompatibleFeatures, match="same backbone"):
        run("predict", files / "all.st", files / "store")
    with pytest.raises(IncompatibleFeatures, match="same backbone"):
        run("forget", files / "all.st", files / "store")
    with pytest.raises(InvalidSetting, match="dtype"):
        run("extract", files / "pictures", files / "other", "--dtype", "float8")
    with pytest.raises(InvalidLabels, match=r"no labels: an \.npz needs y"):
        labelled_rows(files / "bare.npz")
