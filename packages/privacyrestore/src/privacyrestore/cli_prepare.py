"""Commands that make a bank: heads, answers, train; and tell of one: bank-info, confuse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipogram.console import say, show

if TYPE_CHECKING:
    from privacyrestore.training_config import TrainConfig
    from privacyrestore.training_rows import PromptTemplate

Model = Annotated[str, typer.Option(help="smollm2, a folder, a GGUF file or a hub id.")]
Questions = Annotated[
    Path, typer.Option(help="JSONL: question, question_removed, private_spans, answer, options.")
]
Spans = Annotated[Path, typer.Option(help="JSON: the list of span types.")]
Template = Annotated[
    str | None, typer.Option(help="Prompt with {question} in it; the chat template if not given.")
]
MaxNewTokens = Annotated[int, typer.Option(help="Of an answer of the model.")]
First = Annotated[int | None, typer.Option(help="Use the first so many questions.")]


def world(
    out: Annotated[Path, typer.Option(help="Folder to fill.")],
    seed: Annotated[int, typer.Option(help="Of the world and its model.")] = 0,
) -> None:
    """Make the generated world: a small trained model, span types and questions to try all on."""
    from privacyrestore.world_files import write_world

    for name, path in write_world(out, seed).items():
        typer.echo(f"{name}: {path}")


def heads(
    model: Model,
    questions: Questions,
    spans: Spans,
    out: Annotated[Path, typer.Option(help="Safetensors file of the selection.")],
    k: Annotated[int | None, typer.Option(help="Heads; 17 % of all if not given.")] = None,
    first: First = None,
    seed: Annotated[int, typer.Option(help="Of the probes' split.")] = 0,
) -> None:
    """Choose the heads at which the absence of spans shows, by probes split by pair."""
    from lipogram.llm import load_model
    from lipogram.report import Table
    from privacyrestore.head_selection import SpanPair, select_heads

    vocabulary, rows = _read(questions, spans, first)
    pairs = [
        SpanPair(row.question, row.question_removed, tuple(row.span_ids))
        for row in rows
        if row.span_ids
    ]
    loaded = load_model(model, dtype="float32")
    say(f"{len(pairs)} pairs, {len(vocabulary)} span types")
    found = select_heads(loaded.model, loaded.tokenizer, pairs, len(vocabulary), k, seed=seed)
    found.save(out)
    ranks = found.mean_ranks.view(-1, found.n_heads)
    best = [(float(ranks[layer, head]), layer, head) for layer, head in found.sites]
    table = Table(
        ["layer", "head", "mean rank"],
        [[layer, head, rank] for rank, layer, head in sorted(best)[:12]],
        digits=1,
        caption=f"the best of {len(found.sites)}",
    )
    show(table)
    if found.unranked:
        say(f"{len(found.unranked)} span types had too few pairs to be ranked by")
    typer.echo(f"heads: {out}")


def answers(
    model: Model,
    questions: Questions,
    spans: Spans,
    out: Annotated[Path, typer.Option(help="JSONL that grows; started again, it goes on.")],
    template: Template = None,
    max_new_tokens: MaxNewTokens = 256,
    batch_size: Annotated[int, typer.Option(help="Questions at a time.")] = 16,
    first: First = None,
) -> None:
    """Write the frozen model's own answers, with the spans and without: what training prefers."""
    from lipogram.llm import load_model
    from privacyrestore.model_answers import answer_pairs

    _, rows = _read(questions, spans, first)
    loaded = load_model(model)
    found = answer_pairs(
        loaded.model,
        loaded.tokenizer,
        [(row.question, row.question_removed) for row in rows],
        out,
        template=_template(template),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    typer.echo(f"answers: {out} ({len(found)} pairs)")


def train(
    model: Model,
    questions: Questions,
    spans: Spans,
    selection: Annotated[Path, typer.Option("--heads", help="What `heads` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the bank; keeps the checkpoint, too.")],
    answer_file: Annotated[
        Path | None,
        typer.Option("--answers", help="What `answers` wrote, or is to be written; for orpo-lm."),
    ] = None,
    max_new_tokens: MaxNewTokens = 256,
    objective: Annotated[str, typer.Option(help="orpo-lm (the paper's) or gold.")] = "orpo-lm",
    rule: Annotated[str, typer.Option(help="additive or quadratic (the paper's).")] = "additive",
    gamma: Annotated[float, typer.Option(help="Strength of the rule.")] = 0.5,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = 1e-4,
    epochs: Annotated[int, typer.Option(help="Passes over the questions.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Questions a forward pass.")] = 4,
    accumulation: Annotated[int, typer.Option(help="Forward passes a step.")] = 1,
    detach: Annotated[
        bool, typer.Option("--detach/--whole-gradient", help="The paper's gradient, or all of it.")
    ] = True,
    template: Template = None,
    aliases: Annotated[
        Path | None, typer.Option(help="JSON: other spellings by span type.")
    ] = None,
    statement: Annotated[str, typer.Option(help="What it is trained on, in a sentence.")] = "",
    first: First = None,
    seed: Annotated[int, typer.Option(help="Of the order of the questions.")] = 42,
) -> None:
    """Train the bank: its vectors change, the model never does. Started again, it goes on."""
    from lipogram.llm import load_model
    from privacyrestore.bank_training import train_bank
    from privacyrestore.head_selection import HeadSelection
    from privacyrestore.restoration_bank import identify
    from privacyrestore.training_config import TrainConfig

    vocabulary, rows = _read(questions, spans, first)
    config = TrainConfig(
        objective=objective,  # type: ignore[arg-type]
        detach=detach,
        learning_rate=learning_rate,
        epochs=epochs,
        batch_size=batch_size,
        accumulation=accumulation,
        metric="loss",
        max_new_tokens=max_new_tokens,
        template=_template(template),
        seed=seed,
    )
    loaded = load_model(model, dtype="float32")
    begun = HeadSelection.load(selection).bank(
        vocabulary,
        identify(loaded.model, Path(model).name if Path(model).exists() else model),
        rule=rule,
        gamma=gamma,
        aliases=_aliases(aliases),
        statement=statement or f"{len(rows)} questions of {questions.name}",
    )
    trained = train_bank(
        loaded.model,
        loaded.tokenizer,
        _training_rows(rows, loaded, answer_file, config),
        begun,
        config,
        folder=out,
    )
    trained.save(out)
    typer.echo(f"bank: {out} ({trained.sha256[:12]})")


def bank_info(bank: Annotated[Path, typer.Argument(help="Folder of the bank.")]) -> None:
    """Print what a bank is for and holds, and what a release with it can promise."""
    from lipogram.report import Table
    from privacyrestore.mechanisms import Subspace
    from privacyrestore.restoration_bank import RestorationBank

    held = RestorationBank.load(bank)
    rows: list[list[Any]] = [
        ["model", f"{held.model.name}, {held.model.n_layers} layers of {held.model.n_heads} heads"],
        ["span types", str(len(held.vocabulary))],
        ["vectors", str(len(held.vectors))],
        ["sites", str(len(held.sites))],
        ["n, ρ", f"{held.n}, {held.rank}"],
        ["Δ", f"{held.diameter:.4g}"],
        ["rule, γ", f"{held.rule}, {held.gamma:g}"],
        ["trained on", held.statement or "not said"],
    ]
    show(Table(["", "bank"], rows))
    typer.echo(f"sha256: {held.sha256}")
    typer.echo(f"A release at ε = 30, say. {Subspace(30.0).guarantee(held).sentence()}")


def confuse(
    bank: Annotated[Path, typer.Argument(help="Folder of a bank with one vector a span type.")],
    out: Annotated[Path, typer.Option(help="Folder of the new bank.")],
    groups: Annotated[
        Path | None, typer.Option(help="JSON: lists of span types that share a vector.")
    ] = None,
    n_groups: Annotated[
        int | None, typer.Option(help="Groups to cluster the vectors into instead.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the clustering.")] = 0,
) -> None:
    """Let span types share vectors, so that a message cannot tell them apart."""
    from privacyrestore.confusable import cluster_groups, confusable_bank, named_groups
    from privacyrestore.restoration_bank import RestorationBank

    held = RestorationBank.load(bank)
    numbers = (
        cluster_groups(held, n_groups, seed=seed) if groups is None else named_groups(held, groups)
    )
    made = confusable_bank(held, numbers)
    made.save(out)
    typer.echo(
        f"bank: {out} ({made.sha256[:12]}): {len(made.vocabulary)} span types share "
        f"{len(made.vectors)} vectors"
    )


COMMANDS = (world, heads, answers, train, confuse)
NAMED = {"bank-info": bank_info}


def _read(questions: Path, spans: Path, first: int | None) -> tuple[tuple[str, ...], list[Any]]:
    from privacyrestore.pri_datasets import load_questions, load_spans

    vocabulary = tuple(load_spans(spans))
    return vocabulary, list(load_questions(questions, vocabulary))[:first]


def _template(text: str | None) -> PromptTemplate:
    from privacyrestore.training_rows import PromptTemplate

    return PromptTemplate(text)


def _aliases(path: Path | None) -> dict[str, tuple[str, ...]]:
    import json

    from lipogram.errors import InvalidSetting

    if path is None:
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): tuple(map(str, others)) for name, others in held.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        raise InvalidSetting(f"{path} is no JSON object of lists of spellings") from None


def _training_rows(
    rows: list[Any], loaded: Any, answer_file: Path | None, config: TrainConfig
) -> list[Any]:
    """The questions with the model's own answers, written first where they are missing."""
    from lipogram.errors import InvalidSetting
    from privacyrestore.model_answers import answer_pairs
    from privacyrestore.training_rows import TrainingRow

    own: list[Any] = [None] * len(rows)
    if config.objective == "orpo-lm":
        if answer_file is None:
            raise InvalidSetting("orpo-lm prefers the model's own answers: name a file, --answers")
        own = answer_pairs(
            loaded.model,
            loaded.tokenizer,
            [(row.question, row.question_removed) for row in rows],
            answer_file,
            template=config.template,
            max_new_tokens=config.max_new_tokens,
        )
    return [
        TrainingRow(
            row.question_removed,
            tuple(row.span_ids),
            f" {row.answer}.",
            preferred=said and said.preferred_ids,
            rejected=said and said.rejected_ids,
        )
        for row, said in zip(rows, own, strict=True)
    ]
