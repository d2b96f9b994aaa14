"""Commands that every closed-form head has: extract, predict, merge, forget, inspect.

Each function puts one command onto a Typer app. Nothing heavy is imported before a command runs.
Needs Typer, the extra ``cli``.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipogram.console import show
from lipogram.options import choice, number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lipogram.report import Table

    Load = Callable[[Path], Any]
    Describe = Callable[[Any], tuple[dict[str, Any], Table]]

HeadFile = Annotated[Path, typer.Argument(metavar="HEAD", help="A head that `fit` wrote.")]
DataFile = Annotated[
    Path, typer.Argument(metavar="DATA", help="Folder of `extract`, an .npz (X, y) or a .csv.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
LabelFile = Annotated[
    Path | None, typer.Option("--out", help="CSV of row, label, share; default: stdout.")
]


def add_extract(app: typer.Typer, *, image_size: int = 128) -> None:
    """The command ``extract``: images into a feature store.

    Args:
        app: gets the command.
        image_size: default of ``--image-size``, side in pixels.
    """

    @app.command()
    def extract(
        images: Annotated[
            str, typer.Argument(help="Folder with one sub-folder a class, or a set's name.")
        ],
        out: Annotated[Path, typer.Argument(help="Folder for the features.")],
        backbone: Annotated[
            str, typer.Option(help="effnet-lite0, pixels, torchvision:…, timm:…, hf:…")
        ] = "effnet-lite0",
        image_size: Annotated[int, typer.Option(help="Side in pixels.")] = image_size,
        dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
        batch_size: Annotated[int, typer.Option(help="Images to a batch.")] = 16,
        part: Annotated[str, typer.Option(help="train, test or all.")] = "all",
        data: Annotated[Path | None, typer.Option(help="Folder of a named set.")] = None,
    ) -> None:
        """Turn images into features, once; started again after a kill, it goes on."""
        from lipogram.analytic import extract as extract_features
        from lipogram.analytic import load_backbone
        from lipogram.analytic.image_features import images_of

        name = f"folder:{images}" if Path(images).is_dir() else images
        collection = images_of(name, choice("part", part, ("train", "test", "all")), data)
        store = extract_features(
            load_backbone(backbone, image_size=image_size),
            collection,
            out,
            batch_size=batch_size,
            dtype=choice("dtype", dtype, ("float32", "float16", "bfloat16")),
        )
        typer.echo(
            f"{store.n} images of {len(store.class_names)} classes, {store.d} features each: {out}"
        )
        if store.skipped:
            index = out / "index.json"
            typer.echo(f"{len(store.skipped)} images were skipped (listed in {index})", err=True)


def add_predict(app: typer.Typer, load: "Load") -> None:
    """The command ``predict``: a label for each row.

    Args:
        app: gets the command.
        load: reads a head from its file.
    """

    @app.command()
    def predict(head: HeadFile, data: DataFile, out: LabelFile = None) -> None:
        """Label rows; where the data have labels, say how many were right."""
        predict_rows(load(head), data, out)


def predict_rows(head: Any, data: Path, out: Path | None, **options: Any) -> None:
    """Write ``row,label,share`` for each row of a file, and how many were right.

    Args:
        head: an :class:`lipogram.analytic.AnalyticClassifier`.
        data: folder of ``extract``, an ``.npz`` or a ``.csv``.
        out: CSV; None is standard output.
        options: passed to the head's ``predict`` and ``predict_proba``.

    Raises:
        InvalidFeatures: rows that cannot be read.
        IncompatibleFeatures: features of another backbone than the head's.
    """
    import csv
    import io

    from lipogram.analytic.metrics import accuracy, balanced_accuracy
    from lipogram.analytic.sources import check_space, read_rows
    from lipogram.files import write_atomically

    rows, labels, space = read_rows(data)
    check_space(head.space, space, data)
    predicted = head.predict(rows, **options)
    confidence = head.predict_proba(rows, **options).max(1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "label", "share"])
    writer.writerows(
        (i, label, f"{share:.6f}")
        for i, (label, share) in enumerate(zip(predicted.tolist(), confidence, strict=True))
    )
    if out is None:
        typer.echo(text.getvalue(), nl=False)
    else:
        write_atomically(out, text.getvalue().encode())
    if labels is not None:
        typer.echo(
            f"accuracy {accuracy(labels, predicted):.4f}, "
            f"balanced {balanced_accuracy(labels, predicted):.4f}",
            err=True,
        )


def add_merge(app: typer.Typer, load: "Load") -> None:
    """The command ``merge``: one head of several.

    Args:
        app: gets the command.
        load: reads a head from its file.
    """

    @app.command()
    def merge(
        heads: Annotated[list[Path], typer.Argument(metavar="HEAD…", help="Two or more heads.")],
        out: Annotated[Path, typer.Option(help="Where the sum goes.")] = Path("merged.safetensors"),
    ) -> None:
        """Add what several heads have learnt: the same as one head that saw everything."""
        from lipogram.errors import InvalidSetting

        if len(heads) < 2:
            raise InvalidSetting("merging takes at least two heads")
        total = load(heads[0])
        for path in heads[1:]:
            total.merge(load(path))
        total.save(out)
        typer.echo(f"{total.n_samples_seen_} rows, {len(total.classes_)} classes: {out}")


def add_forget(app: typer.Typer, load: "Load") -> None:
    """The command ``forget``: rows or classes taken out of a head.

    Args:
        app: gets the command.
        load: reads a head from its file.
    """

    @app.command()
    def forget(
        head: HeadFile,
        data: Annotated[Path | None, typer.Argument(metavar="DATA", help="Rows to forget.")] = None,
        drop: Annotated[
            list[str] | None, typer.Option(help="Class to drop; may be repeated.")
        ] = None,
        out: Annotated[
            Path | None, typer.Option(help="Where the result goes; default: over HEAD.")
        ] = None,
    ) -> None:
        """Unlearn rows or whole classes exactly."""
        from lipogram.analytic.sources import check_space
        from lipogram.errors import InvalidSetting

        if data is None and not drop:
            raise InvalidSetting("name DATA with the rows to forget, or --drop CLASS")
        model = load(head)
        if data is not None:
            rows, labels, space = labelled_rows(
                data, "forgetting needs to know which class loses rows"
            )
            check_space(model.space, space, data)
            model.forget(rows, labels)
        if drop:
            whole = model.classes_.dtype.kind in "iu"
            model.drop_classes([number(name) if whole else name for name in drop])
        model.save(out or head)
        typer.echo(
            f"{model.n_samples_seen_} rows, {len(model.classes_)} classes left: {out or head}"
        )


def add_inspect(app: typer.Typer, load: "Load", describe: "Describe") -> None:
    """The command ``inspect``: what a head holds.

    Args:
        app: gets the command.
        load: reads a head from its file.
        describe: facts of a head, beside those that all have, and a table with a row a class.
    """

    @app.command()
    def inspect(head: HeadFile, as_json: AsJson = False) -> None:
        """What a head has seen, what each class weighs, and how well its system is conditioned."""
        import json

        from lipogram.report import Table

        model = load(head)
        facts, classes = describe(model)
        facts = head_facts(model) | facts
        if as_json:
            typer.echo(json.dumps({**facts, "class_weight": classes.rows}, indent=2))
            return
        rows: list[list[str | int | float | None]] = [[n, str(v)] for n, v in facts.items()]
        show(Table(columns=["fact", "value"], rows=rows))
        show(classes)


def head_facts(head: Any) -> dict[str, Any]:
    """What every head can tell of itself, as JSON values."""
    return {
        "rows": head.n_samples_seen_,
        "classes": len(head.classes_),
        "inputs": head.n_features_in_,
        "buffer": head.buffer_size or 0,
        "gamma": head.gamma_,
        "condition": head.condition_,
        "bytes": head.nbytes_,
        "space": head.space,
    }


def labelled_rows(
    path: Path, why: str = "an .npz needs y, a .csv a last column called label"
) -> tuple["NDArray[Any]", "NDArray[Any]", str]:
    """Rows (n, d), labels (n,) and feature space of a file or folder.

    Args:
        path: folder of ``extract``, an ``.npz`` or a ``.csv``.
        why: what labels are needed for, told where there are none.

    Raises:
        InvalidLabels: there are no labels.
        FileNotFoundError, InvalidFeatures, CorruptState: see
            :func:`lipogram.analytic.sources.read_rows`.
    """
    from lipogram.analytic.sources import read_rows
    from lipogram.errors import InvalidLabels

    rows, labels, space = read_rows(path)
    if labels is None:
        raise InvalidLabels(f"{path} has no labels: {why}")
    return rows, labels, space
