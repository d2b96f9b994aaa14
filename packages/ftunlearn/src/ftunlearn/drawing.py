"""Figures of a dissection: recovery by layer, the reverse patch, and the relearning attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lipogram.errors import InvalidSetting
from lipogram.figure_style import (
    COLOURS,
    FAINT,
    INK,
    MUTED,
    beside,
    framed,
    headline,
    new_figure,
    plain,
    save,
)
from lipogram.heat_map import heat_maps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    Curve = Mapping[str, Any]

NAMES = {
    "coef": "coefficients",
    "attn": "attention output",
    "coef+attn": "coef. + attention",
    "values": "value weights",
    "keys": "key weights",
    "attn_weights": "attention weights",
    "mlp_states": "MLP output",
    "attn+mlp_states": "attention + MLP output",
    "attn_qk": "query and key weights",
    "attn_vo": "value-output weights",
    "mlp_weights": "MLP weights",
    "embed": "embeddings",
    "head": "output head",
    "all": "everything",
    "all but attn": "all but attention",
}
SCORE_NAMES = {
    "krs": "Knowledge Recovery Score",
    "krs_centered": "KRS of centred logits",
    "krs_kl": "KRS of KL divergence",
    "prob": "answer probability recovered",
    "first_token": "first token's probability recovered",
    "greedy": "greedy answers recovered",
}
_LOOKS = {
    "coef+attn": (COLOURS[1], "-"),
    "coef": (COLOURS[0], "-"),
    "attn": (COLOURS[2], "-"),
    "values": (COLOURS[5], "--"),
    "keys": (COLOURS[3], "--"),
    "attn_weights": (COLOURS[4], "--"),
}
_LOWEST = -1.0


def name_of(component: str) -> str:
    """A component as a reader is told it."""
    return NAMES.get(component, component)


def of_protocol(curves: Sequence[Curve], protocol: str) -> list[Curve]:
    """The curves of one protocol."""
    return [curve for curve in curves if curve["protocol"] == protocol]


def recovery_heat_map(curves: Sequence[Curve], path: Path) -> None:
    """Component by layer: KRS above, recovered answer probability below where it was measured."""
    shown = of_protocol(curves, "aligned") or list(curves)
    positions = sorted({layer for curve in shown for layer in curve["layers"]})
    panels = {}
    for score in ("krs", "prob"):
        rows = {}
        for curve in shown:
            if score in curve["mean"]:
                held = dict(zip(curve["layers"], curve["mean"][score], strict=True))
                rows[name_of(curve["component"])] = [held.get(p, np.nan) for p in positions]
        if rows:
            panels[SCORE_NAMES[score][:1].upper() + SCORE_NAMES[score][1:]] = rows
    heat_maps(panels, positions, path, xlabel="layer that the window is centred at")


def recovery_curves(curves: Sequence[Curve], path: Path, *, protocol: str = "aligned") -> None:
    """KRS and recovered answer probability side by side, a curve a component."""
    shown = of_protocol(curves, protocol)
    scores = [s for s in ("krs", "prob") if any(s in curve["mean"] for curve in shown)]
    figure = new_figure(4.3)
    panels = figure.subplots(1, len(scores), squeeze=False)[0].tolist()
    for axes, score in zip(panels, scores, strict=True):
        _draw(axes, [(curve, None) for curve in shown], score)
    _legend(figure, panels[0])
    save(figure, path)


def calibration_curves(
    curves: Sequence[Curve], reference: Sequence[Curve], component: str, path: Path
) -> None:
    """One component's curves for the unlearned model and for one that never knew."""

    def named(of: Sequence[Curve]) -> Curve:
        return next(c for c in of_protocol(of, "aligned") if c["component"] == component)

    pairs = [
        (named(curves), ("unlearned model", COLOURS[1], "-")),
        (named(reference), ("reference, never knew", COLOURS[5], "--")),
    ]
    figure = new_figure(4.0)
    panels = figure.subplots(1, 2).tolist()
    for axes, score in zip(panels, ("krs", "prob"), strict=True):
        _draw(axes, pairs, score)
    _legend(figure, panels[0])
    save(figure, path)


def draw_curves(curves: Sequence[Curve], score: str, axes: Axes | None = None) -> Axes:
    """One score's curves with a legend, into `axes` or new ones.

    Raises:
        InvalidSetting: no curve has the score.
    """
    shown = [c for c in of_protocol(curves, "aligned") if score in c["mean"]]
    if not shown:
        raise InvalidSetting(
            f"no curve has the score {score!r}; there are {', '.join(SCORE_NAMES)}"
        )
    axes = new_figure(4.0).add_subplot() if axes is None else axes
    _draw(axes, [(curve, None) for curve in shown], score)
    axes.legend(frameon=False, fontsize=8.5)
    return axes


def reverse_curves(reverse: Mapping[str, Any], path: Path) -> None:
    """S1 and S2 by layer, the knowledge layers shaded."""
    figure = new_figure(3.6)
    axes = framed(figure.add_subplot())
    layers = np.asarray(reverse["layers"])
    for layer in reverse["knowledge_layers"]:
        axes.axvspan(layer - 0.5, layer + 0.5, color="#eef5fa", linewidth=0, zorder=0)
    control = {"reference": "never knew", "surrogate": "mismatched prompt"}[reverse["source"]]
    ends = []
    for key, label, colour, style in (
        ("s2", "S2, unlearned", COLOURS[1], "-"),
        ("s1", f"S1, {control}", COLOURS[5], "--"),
    ):
        values = np.asarray(reverse[key], dtype=np.float64)
        axes.plot(
            layers, values, color=colour, linestyle=style, linewidth=2, marker=_marker(layers)
        )
        ends.append((float(values[-1]), label, colour))
    bottom, top = axes.get_ylim()
    gap = 0.09 * (top - bottom)
    if all(np.isfinite(end[0]) for end in ends):
        (low, *first), (high, *second) = sorted(ends)
        shift = max(0.0, gap - (high - low)) / 2
        for height, (label, colour) in ((low - shift, first), (high + shift, second)):
            beside(axes, height, label, color=colour)
    _layer_axis(axes, layers)
    headline(axes, "Answer's log-probability lost when vanilla runs on other states")
    plain(axes.set_ylabel("nats", color=MUTED, fontsize=9))
    save(figure, path)


def relearning_bars(relearn: Mapping[str, Any], path: Path) -> None:
    """Answer probability by training steps: shown, held out, control, made up."""
    arms = [
        ("facts trained on", "shown", FAINT),
        ("facts held out", "held_out", COLOURS[0]),
        ("control: unrelated training", "control", COLOURS[1]),
        ("made-up facts held out", "made_up", COLOURS[4]),
    ]
    arms = [arm for arm in arms if relearn[arm[1]] is not None]
    figure = new_figure(3.8)
    axes = framed(figure.add_subplot())
    places = np.arange(len(relearn["steps"]))
    width = 0.8 / len(arms)
    for number, (label, key, colour) in enumerate(arms):
        across = places + (number - (len(arms) - 1) / 2) * width
        values = np.asarray(relearn[key], dtype=np.float64)
        axes.bar(across, values, width * 0.92, color=colour, label=label, zorder=2)
        for x, value in zip(across, values, strict=True):
            if np.isfinite(value):
                axes.text(x, value, _text(value), ha="center", va="bottom", fontsize=7, color=INK)
    for key, label in (("vanilla", "vanilla"), ("start", "unlearned")):
        axes.axhline(relearn[key], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=3)
        beside(axes, relearn[key], f"{label} {_text(relearn[key])}", color=INK)
    axes.set_ylim(0, max(1e-3, axes.get_ylim()[1]) * 1.04)
    steps = [f"{step} step{'s' if step > 1 else ''}" for step in relearn["steps"]]
    marked = [f"{text}\n(gain)" if relearn["steps"][i] == relearn["k"] else text
              for i, text in enumerate(steps)]  # fmt: skip
    axes.set_xticks(places, marked)
    plain(axes.set_ylabel("answer probability", color=MUTED, fontsize=9))
    _legend(figure, axes)
    save(figure, path)


def _draw(
    axes: Axes, curves: Sequence[tuple[Curve, tuple[str, str, str] | None]], score: str
) -> None:
    framed(axes)
    lowest = 0.0
    for number, (curve, look) in enumerate(curves):
        if score not in curve["mean"]:
            continue
        name = curve["component"]
        colour, style = _LOOKS.get(name, (COLOURS[number % len(COLOURS)], ":"))
        label, colour, style = look or (name_of(name), colour, style)
        layers = np.asarray(curve["layers"])
        values = np.asarray(curve["mean"][score], dtype=np.float64)
        width = 2.4 if name == "coef+attn" and style == "-" else 1.6
        axes.plot(
            layers,
            values,
            color=colour,
            linestyle=style,
            linewidth=width,
            marker=_marker(layers),
            markersize=3.5,
            label=label,
            zorder=3 + (width > 2),
        )
        below = values < _LOWEST
        if below.any():
            edge = np.full(below.sum(), _LOWEST)
            axes.plot(layers[below], edge, "v", color=colour, clip_on=False)
        lowest = min(lowest, float(np.nanmin(values, initial=0.0)))
    axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
    axes.set_ylim(max(_LOWEST, lowest - 0.05), 1.05)
    _layer_axis(axes, np.asarray([layer for curve, _ in curves for layer in curve["layers"]]))
    headline(axes, SCORE_NAMES[score][:1].upper() + SCORE_NAMES[score][1:], size=10)


def _layer_axis(axes: Axes, layers: np.ndarray) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(layers.min() - 0.5, layers.max() + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    plain(axes.set_xlabel("layer", color=MUTED, fontsize=9))


def _legend(figure: Any, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=min(4, len(labels)),
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        handlelength=2.4,
    )


def _text(probability: float) -> str:
    return f"{probability:.{2 if probability >= 0.1 else 3}f}"


def _marker(layers: np.ndarray) -> str:
    return "o" if len(layers) <= 12 else ""
