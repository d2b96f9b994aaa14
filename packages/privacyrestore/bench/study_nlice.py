"""SmolLM2-135M on Pri-NLICE: what restoring gives a real model, by rule and ε, beside a control.

The data set states no licence and is not here: `--data` names the folder with its
`pri_nlice_test.jsonl`. Heads are chosen on its first 300 questions, banks trained on the first 400
(gold answers alone), and 160 from the 450th on are asked: an option's score is its log-probability
after the question less that after no question. About 25 minutes on one core; banks are kept in
`--folder`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipogram.console import say, show
from lipogram.llm import load_model
from lipogram.report import Table
from privacyrestore.bank_training import train_bank
from privacyrestore.evaluation import option_scores
from privacyrestore.head_selection import HeadSelection, SpanPair, select_heads
from privacyrestore.mechanisms import Subspace
from privacyrestore.restoration_bank import RestorationBank, identify
from privacyrestore.training_config import TrainConfig
from privacyrestore.training_rows import PromptTemplate, TrainingRow
from privacyrestore.utility_curve import CurvePoint, at_equal_recovery, utility_recovery_curve

GAMMA = {"additive": 0.5, "quadratic": 20.0}
EPSILONS = (20.0, 40.0, 100.0, 300.0)
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
PAIRS, TRAINED, FIRST = 300, 400, 450
ASK, ALONE = (
    "{question}\nAnswer: The likely diagnosis is",
    "{question}Answer: The likely diagnosis is",
)


def spans_of(row: dict[str, Any], ids: dict[str, int]) -> tuple[int, ...]:
    """A row's span types, but for those that no pair has shown."""
    return tuple(ids[span] for span in row["private_spans"] if span in ids)


def trained(loaded: Any, rows: list[dict[str, Any]], rule: str, folder: Path) -> RestorationBank:
    """The rule's bank, from the folder if it was made before."""
    if (folder / rule / "manifest.json").exists():
        return RestorationBank.load(folder / rule)
    vocabulary = sorted({span for row in rows[:PAIRS] for span in row["private_spans"]})
    ids = {span: i for i, span in enumerate(vocabulary)}
    if not (folder / "heads").exists():
        pairs = [
            SpanPair(row["question"], row["question_removed"], spans_of(row, ids))
            for row in rows[:PAIRS]
            if row["private_spans"]
        ]
        folder.mkdir(parents=True, exist_ok=True)
        select_heads(loaded.model, loaded.tokenizer, pairs, len(vocabulary)).save(folder / "heads")
    bank = HeadSelection.load(folder / "heads").bank(
        vocabulary, identify(loaded.model, "smollm2"), rule=rule, gamma=GAMMA[rule]
    )
    config = TrainConfig(
        objective="gold",
        detach=False,
        learning_rate=0.03,
        epochs=2,
        batch_size=8,
        metric="loss",
        template=PromptTemplate(ASK),
    )
    taught = [
        TrainingRow(row["question_removed"], spans_of(row, ids), f" {row['answer']}.")
        for row in rows[:TRAINED]
    ]
    bank = train_bank(
        loaded.model, loaded.tokenizer, taught, bank, config, folder=folder / f"{rule}-training"
    )
    bank.save(folder / rule)
    return bank


class Questions:
    """The questions that are asked, and which of them are answered right."""

    def __init__(self, loaded: Any, rows: list[dict[str, Any]]):
        self.loaded, self.rows = loaded, rows
        self.options = [[f" {option}." for option in row["options"]] for row in rows]
        self.alone: list[Tensor] = []

    def scores(
        self, bank: RestorationBank, texts: list[str], meta: Tensor | None, template: str
    ) -> list[Tensor]:
        """Σ log p of each option."""
        return option_scores(
            self.loaded.model,
            self.loaded.tokenizer,
            bank,
            texts,
            self.options,
            meta,
            template=PromptTemplate(template),
            batch_size=32,
        )

    def right(self, bank: RestorationBank, field: str, meta: Tensor | None = None) -> Tensor:
        """[n] 1 where the gold option gains most by the question."""
        if not self.alone:
            self.alone = self.scores(bank, [""] * len(self.rows), None, ALONE)
        found = self.scores(bank, [row[field] for row in self.rows], meta, ASK)
        gains = [(said - alone).argmax() for said, alone in zip(found, self.alone, strict=True)]
        gold = [row["answer_index"] for row in self.rows]
        return torch.tensor([float(g == k) for g, k in zip(gains, gold, strict=True)])


def paired(one: Tensor, other: Tensor) -> str:
    """Mean difference with a 95 % bootstrap interval over questions."""
    values, draw = (one - other).numpy(), np.random.default_rng(0)
    means = [draw.choice(values, len(values)).mean() for _ in range(2000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/privacyrestore-nlice"))
    parser.add_argument("--questions", type=int, default=160)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = (options.data / "pri_nlice_test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    loaded = load_model("smollm2", dtype="float32")
    loaded.model.requires_grad_(False)
    asked = Questions(loaded, rows[FIRST : FIRST + options.questions])
    table: list[list[Any]] = []
    curves: dict[str, list[CurvePoint]] = {}
    for rule in GAMMA:
        say(rule)
        bank = trained(loaded, rows, rule, options.folder)
        ids = {span: i for i, span in enumerate(bank.vocabulary)}
        sets = [spans_of(row, ids) for row in asked.rows]
        signals = torch.stack([bank.signal(spans) for spans in sets])
        if not table:
            fields = ("question", "question_removed")
            table = [["plain", name, float(asked.right(bank, name).mean()), ""] for name in fields]
        own = asked.right(bank, "question_removed", signals)
        control = asked.right(bank, "question_removed", signals.roll(1, 0))
        table.append([rule, "restored, no noise", float(own.mean()), ""])
        table.append([rule, "restored by another's", float(control.mean()), paired(own, control)])
        curves[rule] = utility_recovery_curve(
            bank,
            [Subspace(epsilon) for epsilon in EPSILONS],
            lambda meta, bank=bank: asked.right(bank, "question_removed", meta),
            sets,
        )
        for point in curves[rule]:
            told = f"{point.recovery:.3f} recovered"
            table.append([rule, f"ε {point.epsilon:g}", point.utility, told])
    show(Table(["rule", "given", "right", "own − another's; spans"], table))
    compared = at_equal_recovery(curves["additive"], curves["quadratic"], LEVELS)
    show(
        Table(
            ["at recovery", "additive − quadratic"],
            [[row.recovery, str(row.difference)] for row in compared],
            digits=1,
        )
    )


if __name__ == "__main__":
    main()
