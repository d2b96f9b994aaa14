"""The demonstration's page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lipogram.figure_style import framed, headline, new_figure, save
from lipogram.report import Section, Table, write_report
from lipogram.runs import Run
from rewardds.accounting import epsilon
from rewardds.audit_report import AuditReport
from rewardds.pipeline import PipelineResult
from rewardds.plan import PrivacyPlan
from rewardds.privacy_loss import Release
from rewardds.text_classifier import ClassifierScore

LEAD = (
    "Posts about stress, real and sensitive, train two small proxies under differential privacy: "
    "one writes posts and their labels, one judges these. Only the proxies leave. From them come "
    "synthetic posts, the better-judged are kept, and a classifier that has seen no real post is "
    "held against one that has. No text is shown here."
)


def write_demo_report(
    run: Run,
    done: PipelineResult,
    plan: PrivacyPlan,
    scores: Mapping[str, Mapping[str, ClassifierScore]],
    tuned: tuple[float, float, int],
    audit: AuditReport,
    overlap: Mapping[str, Any],
) -> Path:
    """One page: worth, ε, audit."""
    bars, spent = run.figure("worth.svg"), run.figure("epsilon.svg")
    _plot_worth(scores, bars)
    _plot_epsilon(plan, spent)
    table = Table(
        ["learnt from", "texts", "accuracy", "± (one s.e.)", "accuracy by words"],
        [
            [
                name,
                both["embeddings"].n_train,
                both["embeddings"].accuracy,
                both["embeddings"].standard_error,
                both["words"].accuracy,
            ]
            for name, both in scores.items()
        ],
        highlight=(0,),
        caption=f"Logistic regression on MiniLM's embeddings, and on TF-IDF weights of words; on "
        f"{scores['filtered']['words'].n_test} real held-out posts.",
    )
    after, before, n = tuned
    rows, bundle = overlap["rows"], overlap["bundle"]
    return write_report(
        run,
        title="Synthetic posts, and what they cost in privacy",
        lead=LEAD,
        key_figures={
            "ε of everything together": done.epsilon,
            "accuracy, filtered": scores["filtered"]["embeddings"].accuracy,
            "accuracy, unfiltered": scores["as many unfiltered"]["embeddings"].accuracy,
            "accuracy, all real posts": scores["all real posts"]["embeddings"].accuracy,
        },
        sections=[
            Section(
                "What the synthetic posts are worth",
                table=table,
                figure=bars,
                caption="Accuracy on real held-out posts; whiskers are one standard error.",
            ),
            Section(
                "The server's language model",
                f"Tuned on the synthetic posts, it names the label of {after:.3f} of {n} real "
                f"held-out posts; before, of {before:.3f}.",
            ),
            Section(
                "What leaves is private",
                done.sentence,
                figure=spent,
                caption="ε of each training by itself and of both together, step by step.",
            ),
            Section("What an attacker proves", audit.sentence()),
            Section(
                "Copied words",
                f"Runs of eight private words: {bundle['hits']} places in the bundle "
                f"({bundle['grams']} runs looked up), {rows['hits']} of {rows['texts']} synthetic "
                "posts.",
            ),
        ],
    )


def _plot_worth(scores: Mapping[str, Mapping[str, ClassifierScore]], path: Path) -> None:
    names = list(scores)[::-1]
    best = {name: both["embeddings"] for name, both in scores.items()}
    figure = new_figure(0.34 * len(names) + 1.2)
    axes = framed(figure.add_subplot())
    values = [best[name].accuracy for name in names]
    errors = [best[name].standard_error for name in names]
    colours = ["tab:orange" if name == "filtered" else "tab:gray" for name in names]
    axes.barh(names, values, xerr=errors, color=colours, height=0.6)
    axes.axvline(best["majority"].accuracy, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlim(0.3, 1.0)
    headline(axes, "Accuracy on real posts")
    save(figure, path)


def _plot_epsilon(plan: PrivacyPlan, path: Path) -> None:
    assert plan.delta is not None
    figure = new_figure(3.0)
    axes = framed(figure.add_subplot())
    curves: dict[str, list[float]] = {"generator": [], "reward": [], "both together": []}
    parts = np.linspace(0.1, 1.0, 8)
    for part in parts:
        runs = [
            Release(each.sigma, each.sample_rate, max(round(part * each.steps), 1))
            for each in plan.releases
        ]
        for name, some in zip(curves, (runs[:1], runs[1:], runs), strict=True):
            curves[name].append(epsilon(some, plan.delta))
    for name, values in curves.items():
        axes.plot(100 * parts, values, label=name)
    axes.set_xlabel("steps taken, %")
    axes.legend(frameon=False)
    headline(axes, f"ε at δ = {plan.delta:.2g}")
    save(figure, path)
