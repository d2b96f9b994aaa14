"""Commands that measure: audit, what a server recovers; eval, what its answers gain."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipogram.console import say, show
from privacyrestore.cli_client import Delta, Epsilon, MechanismName

if TYPE_CHECKING:
    from privacyrestore.mechanisms import Mechanism
    from privacyrestore.prompt_injection import PromptInjection
    from privacyrestore.restoration_bank import RestorationBank

Folder = Annotated[Path, typer.Option("--bank", help="Folder of the bank.")]
Questions = Annotated[
    Path, typer.Option(help="JSONL: question, question_removed, private_spans, answer, options.")
]
First = Annotated[int | None, typer.Option(help="Use the first so many questions.")]
Seed = Annotated[int, typer.Option(help="Of simulated noise and intervals.")]
Out = Annotated[Path | None, typer.Option(help="JSON file of the figures.")]


def audit(
    bank: Folder,
    questions: Questions,
    mechanism: MechanismName = "subspace",
    epsilon: Epsilon = None,
    delta: Delta = None,
    releases: Annotated[
        int, typer.Option(help="Also attack the mean of so many fresh releases.")
    ] = 1,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Allow the mechanism none.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Also ask this model, the server's, what was taken out.")
    ] = None,
    first: First = None,
    out: Out = None,
    seed: Seed = 0,
) -> None:
    """Attack simulated messages as their server could: how many spans come back?"""
    from lipogram.report import Table
    from privacyrestore.auditing import audit as run_audit
    from privacyrestore.mechanisms import make_mechanism
    from privacyrestore.restoration_bank import RestorationBank

    chosen = make_mechanism(mechanism, epsilon, delta, unsafe=unsafe)
    held = RestorationBank.load(bank)
    asked = _rows(questions, held, first)
    report = run_audit(held, chosen, [row.span_ids for row in asked], releases=releases, seed=seed)
    recoveries, figures = dict(report.recoveries), report.as_json()
    if model is not None:
        found = _injection(model, held, chosen, asked, seed)
        recoveries["prompt injection, likelihood"] = found.by_likelihood
        recoveries["prompt injection, what it writes"] = found.by_text
        figures["prompt_injection"] = asdict(found)
    rows: list[list[Any]] = [
        [name, str(found.recall), str(found.exact), f"{found.chance['recall']:.1%}"]
        for name, found in recoveries.items()
    ]
    show(Table(["attack", "spans recovered", "whole sets", "chance"], rows))
    typer.echo(report.sentence())
    if out is not None:
        _write(out, figures)


def evaluate(
    model: Annotated[str, typer.Option(help="smollm2, a folder, a GGUF file or a hub id.")],
    bank: Folder,
    questions: Questions,
    epsilons: Annotated[str, typer.Option(help="By commas.")] = "10,30,100,300",
    mechanism: MechanismName = "subspace",
    delta: Delta = None,
    template: Annotated[str | None, typer.Option(help="Prompt with {question} in it.")] = None,
    batch_size: Annotated[int, typer.Option(help="Questions a forward pass.")] = 8,
    first: First = None,
    out: Out = None,
    seed: Seed = 0,
) -> None:
    """Compare multiple choice with spans, without, and restored at each ε, beside the audit."""
    from lipogram.llm import load_model
    from lipogram.report import Table
    from privacyrestore.evaluation import evaluate as run_evaluation
    from privacyrestore.mechanisms import make_mechanism
    from privacyrestore.restoration_bank import RestorationBank
    from privacyrestore.training_rows import PromptTemplate

    numbers = _numbers(epsilons)
    chosen = [make_mechanism(mechanism, epsilon, delta) for epsilon in numbers]
    held = RestorationBank.load(bank)
    asked = _rows(questions, held, first)
    loaded = load_model(model, dtype="float32")
    found = run_evaluation(
        loaded.model,
        loaded.tokenizer,
        held,
        asked,
        chosen,
        template=PromptTemplate(template),
        batch_size=batch_size,
        seed=seed,
        progress=say,
    )
    show(Table(["given", "MC1", "MC2", "spans recovered", "worst-case local ε"], found.rows()))
    if out is not None:
        _write(out, found.as_json())


COMMANDS = (audit,)
NAMED = {"eval": evaluate}


def _injection(
    model: str, bank: RestorationBank, mechanism: Mechanism, asked: list[Any], seed: int
) -> PromptInjection:
    """The attack that asks the server's model, restored by simulated releases."""
    import torch

    from lipogram.llm import load_model
    from privacyrestore.prompt_injection import prompt_injection
    from privacyrestore.span_detector import SpanDetector
    from privacyrestore.span_removal import remove_spans

    loaded = load_model(model, dtype="float32")
    detector = SpanDetector(bank.vocabulary, bank.aliases)
    rows = [row for row in asked if row.span_ids]
    meta = torch.stack(
        [
            mechanism.restore(bank, mechanism.release(bank, bank.signal(row.span_ids), seed + i))
            for i, row in enumerate(rows)
        ]
    )
    return prompt_injection(
        loaded.model,
        loaded.tokenizer,
        bank,
        meta,
        [remove_spans(row.question, detector).text for row in rows],
        [row.span_ids for row in rows],
        seed=seed,
    )


def _rows(questions: Path, bank: RestorationBank, first: int | None) -> list[Any]:
    from privacyrestore.pri_datasets import load_questions

    return list(load_questions(questions, bank.vocabulary))[:first]


def _numbers(text: str) -> list[float]:
    from lipogram.errors import InvalidSetting

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidSetting(f"--epsilons {text!r}: numbers parted by commas") from None


def _write(path: Path, values: dict[str, Any]) -> None:
    from lipogram.files import write_atomically

    write_atomically(path, json.dumps(values, indent=2).encode())
    typer.echo(f"figures: {path}")
