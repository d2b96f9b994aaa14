"""Pseudo-features and what they are compared with on one stream, over seeds, in a run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from aefocl.baselines import METHODS, learner
from aefocl.classifier import AEFOCLClassifier
from aefocl.online import TestPoint, evaluate_online, point_lines, write_points
from aefocl.pseudo_feature_figure import draw_pseudo_features
from aefocl.pseudo_features import Sampler
from aefocl.stream import Stream
from aefocl.stream_names import stream_of
from lipogram.errors import InvalidSetting
from lipogram.files import write_atomically
from lipogram.options import choice
from lipogram.runs import Run

HEAD = "head.safetensors"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides the result of a comparison.

    Attributes:
        stream: see :data:`aefocl.stream_names.NAMES`.
        batch: rows a batch; CLAD-C allows 10 at most.
        segments: test points of a stream that does not bring its own.
        boundaries: times at which a segment begins, of a table.
        skip_malformed: leave malformed rows of a table out.
        backbone, image_size: for pictures.
        gamma, buffer_size: of every method that has them; None for no buffer.
        noise, budget, sampler: of pseudo-features, see :class:`aefocl.AEFOCLClassifier`.
        methods: what is compared.
        seeds: of split, order, buffer and draws.
        source: where the settings come from.
    """

    stream: str = "digits"
    batch: int = 10
    segments: int = 6
    boundaries: tuple[str | float, ...] = ()
    skip_malformed: bool = False
    backbone: str = "effnet-lite0"
    image_size: int = 128
    gamma: float = 1.0
    buffer_size: int | None = None
    noise: float = 1.0
    budget: int | None = None
    sampler: str = "iid"
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (0,)
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot run.

        Raises:
            InvalidSetting: naming the setting.
        """
        for name in ("methods", "seeds"):
            held = getattr(self, name)
            if not held:
                raise InvalidSetting(f"{name} is empty: name at least one")
            if len(set(held)) < len(held):
                raise InvalidSetting(f"{name} names one twice: {', '.join(map(str, held))}")
        for method in self.methods:
            choice("method", method, METHODS)
        choice("sampler", self.sampler, get_args(Sampler))
        for name in ("batch", "segments", "image_size"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"{name} is {getattr(self, name)}, it must be at least 1")
        for seed in self.seeds:
            model = learner("aefocl", **self.of_learner(seed))
            assert isinstance(model, AEFOCLClassifier)
            model.check_settings()

    def of_learner(self, seed: int) -> dict[str, Any]:
        """The settings that :func:`aefocl.baselines.learner` takes."""
        names = ("gamma", "buffer_size", "noise", "budget", "sampler")
        return {**{name: getattr(self, name) for name in names}, "seed": seed}


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "gamma": 0.1,
        "buffer_size": 8192,
        "batch": 10,
        "source": "command-line defaults of ZHUANGHP/Analytic-continual-learning at 0afd6bf; "
        "batches as CLAD-C allows them",
    },
}


@dataclass(frozen=True)
class Cell:
    """One method on one stream."""

    seed: int
    method: str


def cells(experiment: Experiment) -> Iterator[Cell]:
    """Every method on every stream, streams outermost."""
    for seed in experiment.seeds:
        for method in experiment.methods:
            yield Cell(seed, method)


def run_experiment(
    experiment: Experiment,
    folder: Path,
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> Run:
    """Run what is not done yet; every head at every test point is a line of ``metrics.jsonl``.

    Killed at any instant and started again with the same settings, it ends with the same figures.
    ``amca.json`` and ``per_point.csv`` say what came of it, ``head.safetensors`` is what the first
    seed's ``aefocl`` has learnt, and ``pseudo-features-*.png`` show what is drawn for a rare class.

    Args:
        experiment: the settings.
        folder: of the run.
        progress: told what is worked on.

    Raises:
        RunMismatch: the folder holds a run with other settings.
        InvalidSetting, MissingAsset: see :func:`aefocl.stream_names.stream_of`.
    """
    held: dict[int, Stream] = {}
    if not Path(folder).exists():  # a stream that is not there shall leave no run behind
        held = {experiment.seeds[0]: _stream(experiment, experiment.seeds[0], progress)}
    run = Run.create(folder, experiment, package="lipogram-aefocl")
    done = {Cell(event["seed"], event["method"]) for event in run.events("done")}
    for cell in cells(experiment):
        if cell in done:
            continue
        progress(f"{experiment.stream}, seed {cell.seed}: {cell.method}")
        if cell.seed not in held:
            held = {cell.seed: _stream(experiment, cell.seed, progress)}
        _run_cell(run, experiment, cell, held[cell.seed])
    run.summary(summarise(run))
    _write_files(run)
    return run


def summarise(run: Run) -> dict[str, Any]:
    """Means over the seeds of each method's figures, and AMCA gained over the plain head."""
    done = run.events("done")
    methods: dict[str, dict[str, float]] = {}
    gains: dict[str, dict[str, float]] = {}
    by_seed = {(event["seed"], event["method"]): event["figures"] for event in done}
    seeds = sorted({event["seed"] for event in done})
    for method in dict.fromkeys(event["method"] for event in done):
        mine = [by_seed[seed, method] for seed in seeds]
        methods[method] = {name: float(np.mean([f[name] for f in mine])) for name in mine[0]}
        if method != "plain" and (seeds[0], "plain") in by_seed:
            gained = [
                by_seed[seed, method]["amca"] - by_seed[seed, "plain"]["amca"] for seed in seeds
            ]
            gains[method] = {"amca": float(np.mean(gained)), "worst": min(gained)}
    first = done[0]
    return {
        "stream": first["stream"],
        "methods": methods,
        "gain_over_plain": gains,
        "seeds": len(seeds),
        "test_points": first["test_points"],
        "rows": dict(zip(first["class_names"], first["sizes"], strict=True)),
        "duplicates": first["duplicates"],
        "remarks": first["remarks"],
        "absent": first["absent"],
    }


def picture(run: Run, method: str) -> Path:
    """Where the figure of what a method draws belongs; not every stream has one."""
    return run.figure(f"pseudo-features-{method}")


def points_of(run: Run) -> list[dict[str, Any]]:
    """Lines of :func:`aefocl.online.point_lines` with seed and method, of the cells that are done.

    Of a cell that was begun twice, those of the second time.
    """
    lines: dict[Cell, list[dict[str, Any]]] = {}
    kept: list[dict[str, Any]] = []
    for event in run.events():
        if event["event"] not in ("point", "done"):
            continue
        cell = Cell(event["seed"], event["method"])
        if event["event"] == "point":
            told = {name: value for name, value in event.items() if name not in ("event", "time")}
            lines.setdefault(cell, []).append(told)
        else:
            kept += lines.get(cell, [])[-event["lines"] :]
    return kept


def _run_cell(run: Run, experiment: Experiment, cell: Cell, stream: Stream) -> None:
    model = learner(cell.method, space=stream.data.space, **experiment.of_learner(cell.seed))
    told: list[dict[str, Any]] = []

    def log(point: TestPoint) -> None:
        for line in point_lines(point):
            told.append(line)
            run.log("point", seed=cell.seed, method=cell.method, **line)

    result = evaluate_online(model, stream, experiment.batch, progress=log)
    if cell.seed == experiment.seeds[0] and isinstance(model, AEFOCLClassifier):
        if cell.method == "aefocl":
            model.save(run.folder / HEAD)
        draw_pseudo_features(model, stream, picture(run, cell.method))
    run.log(
        "done",
        seed=cell.seed,
        method=cell.method,
        lines=len(told),
        figures=result.figures(),
        stream=result.stream,
        test_points=len(result.points),
        class_names=list(result.class_names),
        sizes=list(result.class_counts),
        duplicates=result.duplicates,
        remarks=list(result.remarks),
        absent=list(result.amca.absent),
    )


def _write_files(run: Run) -> None:
    result, done = run.result, run.events("done")
    assert result is not None, "files are written from a finished run"
    by_method: dict[str, dict[str, float]] = {}
    for event in done:
        by_method.setdefault(event["method"], {})[str(event["seed"])] = event["figures"]["amca"]
    about = ("stream", "test_points", "absent", "rows", "duplicates", "remarks")
    told = {
        "amca": {method: figures["amca"] for method, figures in result["methods"].items()},
        "amca_by_seed": by_method,
        **{name: result[name] for name in about},
    }
    text = json.dumps(told, indent=2, ensure_ascii=False)
    write_atomically(run.folder / "amca.json", text.encode())
    write_points(run.folder / "per_point.csv", points_of(run), done[0]["class_names"])


def _stream(experiment: Experiment, seed: int, progress: Callable[[str], None]) -> Stream:
    boundaries: Sequence[str | float] | None = experiment.boundaries or None
    stream = stream_of(
        experiment.stream,
        backbone=experiment.backbone,
        image_size=experiment.image_size,
        segments=experiment.segments,
        boundaries=boundaries,
        skip_malformed=experiment.skip_malformed,
        seed=seed,
        progress=progress,
    )
    for remark in stream.remarks:
        progress(remark)
    return stream
