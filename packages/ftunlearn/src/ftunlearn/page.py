"""A dissection as a person reads it: the verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftunlearn import drawing
from ftunlearn.drawing import name_of, of_protocol
from ftunlearn.tables import as_text, tables
from lipogram.report import Cell, Section, Table, page

if TYPE_CHECKING:
    from ftunlearn.dissection_report import DissectionReport

TITLES = {
    "not_forgotten": "Not forgotten",
    "suppressed": "Suppressed, not erased",
    "no_trace_found": "No trace found",
    "inconclusive": "Inconclusive",
}
MEANINGS = {
    "not_forgotten": "The model still gives the answers: there is no forgetting to be dissected.",
    "suppressed": (
        "This is evidence of recoverability: somebody who has the weights can bring the answers "
        "back. It does not say how much effort a given attacker needs."
    ),
    "no_trace_found": (
        "This is only absence of evidence under these tests. It is not proof that the knowledge is "
        "gone: another attack, more steps or other probes may find it."
    ),
    "inconclusive": (
        "The tests do not agree, or one that is needed was skipped. Neither 'suppressed' nor "
        "'no trace found' is supported."
    ),
}
TESTS = {
    "forgetting": "forgetting F",
    "gain": "relearning gain G",
    "depth": "reverse-patch depth",
}
_MOST_ANSWERS = 40


def draw(report: DissectionReport, folder: Path) -> dict[str, Path]:
    """Every figure that the findings allow, by name, into `folder`."""
    found, figures = report.content, {}

    def put(name: str, function: Any, *arguments: Any, **options: Any) -> None:
        figures[name] = folder / f"{name}.png"
        function(*arguments, figures[name], **options)

    if found["curves"]:
        put("heatmap", drawing.recovery_heat_map, found["curves"])
        put("curves", drawing.recovery_curves, found["curves"])
        put("paper", drawing.recovery_curves, found["curves"], protocol="paper")
    if found["reverse"] is not None:
        put("reverse", drawing.reverse_curves, found["reverse"])
    if found["relearn"] is not None:
        put("relearn", drawing.relearning_bars, found["relearn"])
    if found["calibration"]:
        names = [curve["component"] for curve in found["curves"]]
        shown = "coef+attn" if "coef+attn" in names else names[0]
        arguments = found["curves"], found["calibration"], shown
        put("calibration", drawing.calibration_curves, *arguments)
    return figures


def render(report: DissectionReport, figures: Mapping[str, Path]) -> bytes:
    """The page: self-contained, escaped, verdict first."""
    found = report.content
    verdict = found["verdict"]
    sections = [_why(found)]
    if found["curves"]:
        sections += _recovery(found, figures)
    sections += [
        *_whole(found),
        *_reverse(found, figures),
        *_relearn(found, figures),
        *_calibration(found, figures),
        *_tables(found["side_effects"], "Side effects"),
        *_tables(found.get("membership"), "Membership inference"),
        *_attacks(found["attacks"]),
        *_paper(found, figures),
        *_probes(report),
        *_models(found),
    ]
    return page(
        title=TITLES[verdict["label"]],
        lead=verdict["sentence"],
        sections=sections,
        key_figures={
            f"{TESTS.get(name, name)} ({as_text(part['low'])} to {as_text(part['high'])})": as_text(
                part["value"]
            )
            for name, part in verdict["numbers"].items()
        },
        settings=found["settings"],
        environment=found["environment"],
    )


def _why(found: Mapping[str, Any]) -> Section:
    verdict, lines = found["verdict"], found["verdict"]["thresholds"]
    rules = {
        "forgetting": f"at least {lines['forgotten']:g} to speak of forgetting",
        "gain": f"from {lines['gain']:g}: suppressed; below {lines['no_gain']:g}: nothing found",
        "depth": f"up to {lines['shallow']:g}: suppressed; from {lines['deep']:g}: nothing found",
    }
    rows: list[list[Cell]] = [
        [TESTS.get(name, name), part["value"], part["low"], part["high"], rules.get(name, "")]
        for name, part in verdict["numbers"].items()
    ]
    skipped = [[TESTS.get(name, name), None, None, None, f"skipped: {reason}"]
               for name, reason in found["skipped"].items()]  # fmt: skip
    return Section(
        heading="What this rests on",
        text=MEANINGS[verdict["label"]],
        table=Table(
            columns=["test", "value", "from", "to", "how it is read"],
            rows=rows + skipped,
            caption=(
                "Intervals: 95 % bootstrap over probes. F is the share of the answers' probability "
                "that was lost; G is what training on some forgotten facts brings back of others, "
                "beyond unrelated training; depth is the share of what carries the knowledge that "
                "the reverse patch finds missing."
            ),
        ),
    )


def _recovery(found: Mapping[str, Any], figures: Mapping[str, Path]) -> list[Section]:
    window = found["curves"][0]["window"]
    return [
        Section(
            heading="Where vanilla's states or weights bring the answers back",
            text=(
                "Each cell replaces one kind of state or weight in a window of "
                f"{window} layers of the unlearned model by the vanilla model's. 1 is full "
                "recovery, 0 is none, below 0 (orange) is further away than before.\n\nThis "
                "describes where the two models differ. It is not evidence that the knowledge is "
                "still there: patched states carry what the vanilla model computed, so these "
                "values are also high for a model that never knew the facts."
            ),
            figure=figures["heatmap"],
            caption=(
                "At the right of each row its best value and the layer. Grey: no probe defines the "
                "score there."
            ),
        ),
        Section(
            heading="Recovery by layer",
            figure=figures["curves"],
            caption=(
                "Solid: states are patched. Dashed: weights are restored. Means over probes; a "
                "triangle marks a value below −1."
            ),
            table=_best(found["curves"]),
        ),
    ]


def _best(curves: Iterable[Mapping[str, Any]]) -> Table:
    scores = ("krs", "krs_centered", "krs_kl", "prob", "first_token")
    rows: list[list[Cell]] = []
    for curve in of_protocol(list(curves), "aligned"):
        values = np.asarray(curve["mean"]["krs"], dtype=np.float64)
        if not np.isfinite(values).any():
            rows.append([name_of(curve["component"]), *([None] * (2 + len(scores)))])
            continue
        best = int(np.nanargmax(values))
        cells = [curve["mean"][score][best] if score in curve["mean"] else None for score in scores]
        place, counted = curve["layers"][best], curve["n"]["krs"][best]
        rows.append([name_of(curve["component"]), place, *cells, counted])
    return Table(
        columns=["replaced", "layer", "KRS", "centred", "KL", "prob.", "first token", "probes"],
        rows=rows,
        digits=2,
        caption="All scores of the window with the best KRS, and the probes that define it.",
    )


def _whole(found: Mapping[str, Any]) -> list[Section]:
    scores = ("krs", "krs_centered", "krs_kl", "prob", "first_token", "greedy")
    rows: list[list[Cell]] = [
        [name_of(row["component"]), *(row["mean"].get(score) for score in scores)]
        for row in found["whole"]
    ]
    if not rows:
        return []
    table = Table(
        columns=[
            "replaced in all layers",
            "KRS",
            "centred",
            "KL",
            "prob.",
            "first token",
            "greedy",
        ],
        rows=rows,
        digits=2,
        caption="'nothing' must be exactly 0 and 'everything' exactly 1.",
    )
    return [Section(heading="All layers at once", table=table)]


def _reverse(found: Mapping[str, Any], figures: Mapping[str, Path]) -> list[Section]:
    reverse = found["reverse"]
    if reverse is None:
        return []
    control = (
        "of a reference model that never knew"
        if reverse["source"] == "reference"
        else "of the vanilla model on another prompt of the same kind, for want of a reference"
    )
    text = (
        "The vanilla model runs on the unlearned model's states (S2): what it loses is missing "
        f"from them. S1 is the same with states {control}; layers where it exceeds 0.05 nats carry "
        f"the knowledge. Depth: {as_text(reverse['depth'])}; 0 is none of it missing, 1 is all."
    )
    other = reverse.get("unrelated")
    if other:
        text += (
            f" On unrelated probes, which nothing should be missing for: {as_text(other['depth'])}."
        )
    caption = "Mean over probes of the drop in log-probability, in nats. Shaded: knowledge layers."
    heading = "What the unlearned model's states still carry"
    return [Section(heading=heading, text=text, figure=figures["reverse"], caption=caption)]


def _relearn(found: Mapping[str, Any], figures: Mapping[str, Path]) -> list[Section]:
    relearn = found["relearn"]
    if relearn is None:
        return []
    text = (
        "A copy of the unlearned model is trained on half of the forgotten facts and asked for the "
        "other half, which it is not shown. The control is trained as long on known facts that "
        f"have nothing to do with them. Gain at {relearn['k']} steps: {as_text(relearn['gain'])}."
    )
    if relearn["made_up"] is not None:
        text += " Facts that nobody can know, trained the same way, show what guessing brings."
    caption = "Mean answer probability by training steps."
    heading = "Relearning attack"
    return [Section(heading=heading, text=text, figure=figures["relearn"], caption=caption)]


def _attacks(found: Mapping[str, Mapping[str, list[float]]]) -> list[Section]:
    """A row a layer: what the residual stream says there, or what ablating its direction brings."""
    explained = {
        "logit_lens": "The answers' probability read from the residual stream after each block.",
        "direction_ablation": "The unlearned model with the direction that tells forgotten prompts "
        "from others, taken after each block, projected out everywhere.",
    }
    sections = []
    for name, columns in found.items():
        rows: list[list[Cell]] = [
            [layer, *values] for layer, values in enumerate(zip(*columns.values(), strict=True))
        ]
        table = Table(columns=["layer", *columns], rows=rows, caption="Mean answer probability.")
        heading = name.replace("_", " ").capitalize()
        sections.append(Section(heading=heading, text=explained[name], table=table))
    return sections


def _calibration(found: Mapping[str, Any], figures: Mapping[str, Path]) -> list[Section]:
    if not found["calibration"]:
        return []
    rows: list[list[Cell]] = []
    reference = {c["component"]: c for c in of_protocol(found["calibration"], "aligned")}
    for curve in of_protocol(found["curves"], "aligned"):
        other = reference.get(curve["component"])
        if other is not None:
            cells = [_peak(of, score) for score in ("krs", "prob") for of in (curve, other)]
            rows.append([name_of(curve["component"]), *cells])
    return [
        Section(
            heading="Calibration: a model that never knew",
            text=(
                "The same interventions on the reference model, which was never taught the facts. "
                "What is as high there says nothing about knowledge that is left."
            ),
            table=Table(
                columns=[
                    "replaced",
                    "KRS, unlearned",
                    "reference",
                    "prob., unlearned",
                    "reference",
                ],
                rows=rows,
                digits=2,
                caption="Best window of each.",
            ),
            figure=figures["calibration"],
            caption="Unlearned model (solid) and reference (dashed).",
        )
    ]


def _peak(curve: Mapping[str, Any], score: str) -> float | None:
    values = np.asarray(curve["mean"].get(score, []), dtype=np.float64)
    return float(np.nanmax(values)) if np.isfinite(values).any() else None


def _tables(found: Mapping[str, Any] | None, heading: str) -> list[Section]:
    return [
        Section(heading=heading if number == 0 else f"{heading}, continued", table=table)
        for number, table in enumerate(tables(found or {}))
    ]


def _paper(found: Mapping[str, Any], figures: Mapping[str, Path]) -> list[Section]:
    if not of_protocol(found["curves"], "paper"):
        return []
    return [
        Section(
            heading="The same by the paper's slicing",
            text=(
                "The notebooks of arXiv 2410.06606 score the last rows of the logits: the row that "
                "predicts the answer's first token is left out, one after the answer is taken in."
            ),
            figure=figures["paper"],
            caption="KRS on the paper's rows.",
        )
    ]


def _probes(report: DissectionReport) -> list[Section]:
    found, sections = report.content, []
    left_out = [[p["id"], p["excluded"]] for p in found["probes"] if p["excluded"]]
    left_out += [["", problem] for problem in found["problems"]]
    if left_out:
        table = Table(columns=["probe", "why it was left out"], rows=left_out)
        sections.append(Section(heading="Excluded probes", table=table))
    rows: list[list[Cell]] = [
        [p["id"], p["prompt"], p["answer"], p["p_vanilla"], p["p_unlearned"]]
        for p in found["probes"]
        if not p["excluded"]
    ]
    columns = ["probe", "prompt", "answer", "p vanilla", "p unlearned"]
    sections.append(_first("Probes", Table(columns, rows[:_MOST_ANSWERS]), len(rows)))
    if report.answers:
        columns = ["probe", "vanilla says", "unlearned says"]
        said: list[list[Cell]] = [
            [item["id"], item.get("vanilla"), item.get("unlearned")] for item in report.answers
        ]
        sections.append(_first("Answers", Table(columns, said[:_MOST_ANSWERS]), len(said)))
    return sections


def _first(heading: str, table: Table, n: int) -> Section:
    more = "" if n <= len(table.rows) else f"The first {len(table.rows)} of {n}."
    return Section(heading=heading, text=more, table=table)


def _models(found: Mapping[str, Any]) -> list[Section]:
    rows: list[list[Cell]] = [
        [role, part["spec"], (part["fingerprint"].get("config") or "")[:12]]
        for role, part in found["pair"].items()
    ]
    for role, means in found["baseline"].items():
        for row in rows:
            if row[0] == role:
                row += [means.get("probability"), means.get("greedy")]
    full = [row + [None] * (5 - len(row)) for row in rows]
    columns = ["", "model", "configuration", "answer probability", "greedy answers right"]
    caption = "SHA-256 of every parameter group is in report.json."
    return [Section(heading="Models", table=Table(columns, full, caption=caption))]
