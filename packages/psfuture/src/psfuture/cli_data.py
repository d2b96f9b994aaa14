"""The commands `psfuture data`: parallel text as a .tsv."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from psfuture.parallel_text import SentencePairs

app = typer.Typer(no_args_is_help=True, help="Bring parallel text, as a .tsv for the others.")

Out = Annotated[Path, typer.Option("--out", "-o", help="Where the .tsv goes.")]
Words = Annotated[str | None, typer.Option(help="Words of a source, such as 8-35.")]
Sample = Annotated[int | None, typer.Option(help="So many pairs, the same each time.", min=1)]
Swap = Annotated[bool, typer.Option("--swap", help="Translate the other way round.")]


@app.command()
def debian(
    out: Out,
    corpus: Annotated[
        str, typer.Argument(help="debian-handbook or libreoffice-help.")
    ] = "debian-handbook",
    target: Annotated[str, typer.Argument(help="pt-br or de.")] = "pt-br",
    root: Annotated[
        Path | None, typer.Option(help="Folder of unpacked packages, of any release.")
    ] = None,
    words: Words = None,
    sample: Sample = None,
    swap: Swap = False,
) -> None:
    """English text that Debian's packages hold with its translation."""
    from psfuture.debian_text import debian_pairs

    chosen: Any = (corpus, target)
    _write(debian_pairs(*chosen, root=root), out, words, sample, swap)


@app.command()
def evaluation(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the three files.")],
    target: Annotated[str, typer.Argument(help="pt-br or de.")] = "pt-br",
    swap: Swap = False,
) -> None:
    """The division that figures are made with: to tune, to choose settings, to report."""
    from psfuture.debian_text import evaluation_split

    chosen: Any = target
    text = evaluation_split(chosen)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("tuning", "pilot", "fresh"):
        _write(getattr(text, name), out / f"{name}.tsv", None, None, swap)


@app.command()
def sacrebleu(
    test_set: Annotated[str, typer.Argument(help="By sacrebleu's name, such as wmt15.")],
    languages: Annotated[str, typer.Argument(help="Such as de-en.")],
    out: Out,
    words: Words = None,
    sample: Sample = None,
    swap: Swap = False,
) -> None:
    """A test set of sacrebleu, which fetches it."""
    from psfuture.published_text import sacrebleu_pairs

    _write(sacrebleu_pairs(test_set, languages), out, words, sample, swap)


@app.command()
def hf(
    dataset: Annotated[str, typer.Argument(help="Hub id, or a folder.")],
    source: Annotated[str, typer.Argument(help="Language to translate from, or its column.")],
    target: Annotated[str, typer.Argument(help="The other.")],
    out: Out,
    split: Annotated[str, typer.Option(help="Part of the data set.")] = "test",
    config: Annotated[str | None, typer.Option(help="Subset.")] = None,
    words: Words = None,
    sample: Sample = None,
    swap: Swap = False,
) -> None:
    """A data set of the Hugging Face hub."""
    from psfuture.published_text import hub_pairs

    pairs = hub_pairs(dataset, source, target, split=split, config=config)
    _write(pairs, out, words, sample, swap)


def _write(
    pairs: SentencePairs, out: Path, words: str | None, sample: int | None, swap: bool
) -> None:
    from lipogram.errors import InvalidSetting

    if swap:
        pairs = replace(
            pairs,
            source_language=pairs.target_language,
            target_language=pairs.source_language,
            sources=pairs.targets,
            targets=pairs.sources,
        )
    if words is not None:
        least, _, most = words.partition("-")
        if not (least.isdecimal() and most.isdecimal()):
            raise InvalidSetting(f"--words takes two numbers like 8-35, not {words!r}")
        pairs = pairs.with_words(int(least), int(most))
    if sample is not None:
        pairs = pairs.sample(sample)
    pairs.write(out)
    typer.echo(f"{len(pairs)} pairs of {pairs.name}: {out}")
