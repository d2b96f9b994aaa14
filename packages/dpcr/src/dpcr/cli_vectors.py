"""The commands for people with their own networks: files of features in, heads and vectors out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from numpy.typing import NDArray


Rows = Annotated[
    Path, typer.Argument(help="Folder of `dpcr extract`, an .npz (X, y) or a .csv with `label`.")
]
BankFile = Annotated[Path, typer.Option(help="What is kept between tasks; made where missing.")]


def calibrate(
    new: Annotated[
        Path,
        typer.Argument(metavar="NEW", help="This task's rows under the present network, labelled."),
    ],
    old: Annotated[
        Path | None,
        typer.Option(help="The same rows under the network before; not in the first task."),
    ] = None,
    bank: BankFile = Path("bank.safetensors"),
    out: Annotated[Path, typer.Option(help="Where the head of all classes goes.")] = Path(
        "head.safetensors"
    ),
    gamma: Annotated[float, typer.Option(help="Ridge of the head (for a new bank).")] = 200.0,
    eps: Annotated[
        str, typer.Option(help="Ridge of the shift map: classes, auto or a number (new bank).")
    ] = "classes",
    prior: Annotated[
        str, typer.Option(help="What no row speaks about: identity or zero (new bank).")
    ] = "identity",
) -> None:
    """End a task: move the old classes' statistics, add the new, and solve the head of all."""
    from dpcr.drift_calibrator import DriftCalibrator
    from lipogram.errors import InvalidFeatures, InvalidLabels

    rows, labels, _ = _rows(new)
    if labels is None:
        raise InvalidLabels(f"{new} has no labels: an .npz needs y, a .csv a column called label")
    if bank.exists():
        calibrator = DriftCalibrator.load(bank)
    else:
        settings: dict[str, Any] = {"gamma": gamma, "eps": _eps(eps), "prior": prior}
        calibrator = DriftCalibrator(**settings)
    if old is None:
        if calibrator.tasks:
            raise InvalidFeatures(
                f"{bank} holds {calibrator.tasks} tasks: name the same rows under the network "
                "before with --old"
            )
        calibrator.observe(None, rows, labels)
    else:
        before, old_labels, _ = _rows(old)
        if old_labels is not None and not _same(labels, old_labels):
            raise InvalidLabels(
                f"{old} and {new} differ in their labels: they must be of one order"
            )
        calibrator.observe(before, rows, labels)
    head = calibrator.finish()
    calibrator.save(bank)
    head.save(out)
    shift = calibrator.shift
    if old is not None and shift is not None:
        typer.echo(
            f"shift map on {shift.rows} rows: effective rank {shift.rank:.0f} of "
            f"{shift.in_features}, {shift.residual:.1%} of the energy unexplained",
            err=True,
        )
    typer.echo(f"{len(head.classes_)} classes after {calibrator.tasks} tasks: {bank}, {out}")


def move(
    bank: Annotated[Path, typer.Argument(metavar="BANK", help="What `dpcr calibrate` keeps.")],
    vectors: Annotated[Path, typer.Argument(metavar="VECTORS", help="Rows of the old network.")],
    out: Annotated[Path, typer.Option(help="Where the moved rows go, an .npz.")] = Path(
        "moved.npz"
    ),
) -> None:
    """Re-embed stored vectors: where the present network would have put them."""
    import io

    import numpy as np

    from dpcr.drift_calibrator import DriftCalibrator
    from lipogram.files import write_atomically

    rows, labels, _ = _rows(vectors)
    moved = DriftCalibrator.load(bank).move(rows).numpy()
    held = {"X": moved} | ({} if labels is None else {"y": labels})
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **held)
    write_atomically(out, content.getvalue())
    typer.echo(f"{len(moved)} vectors of {moved.shape[1]} features: {out}")


def evaluate(
    head: Annotated[Path, typer.Argument(metavar="HEAD", help="A head of calibrate or run.")],
    data: Rows,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Accuracy of a head on labelled rows: overall, balanced, and class by class."""
    from dpcr.analytic_head import AnalyticHead
    from lipogram.analytic.metrics import accuracy, balanced_accuracy, per_class_accuracy
    from lipogram.errors import InvalidLabels

    rows, labels, _ = _rows(data)
    if labels is None:
        raise InvalidLabels(f"{data} has no labels: an .npz needs y, a .csv a column called label")
    predicted = AnalyticHead.load(head).predict(rows)
    by_class = {str(label): rate for label, rate in per_class_accuracy(labels, predicted).items()}
    figures = {
        "accuracy": accuracy(labels, predicted),
        "balanced_accuracy": balanced_accuracy(labels, predicted),
    }
    if as_json:
        typer.echo(json.dumps({**figures, "per_class": by_class}, indent=2))
        return
    for name, value in {**figures, **by_class}.items():
        typer.echo(f"{name}: {value:.4f}")


def _eps(text: str) -> float | str:
    from lipogram.errors import InvalidSetting

    if text in ("auto", "classes"):
        return text
    try:
        return float(text)
    except ValueError:
        raise InvalidSetting(f"eps is {text!r}, it must be classes, auto or a number") from None


def _rows(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None, str]:
    from lipogram.analytic.sources import read_rows

    return read_rows(path)


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool(len(a) == len(b) and (a == b).all())
