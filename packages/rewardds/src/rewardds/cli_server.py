"""Commands of the server, who has a bundle and nothing private."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from lipogram.console import say

Bundle = Annotated[Path, typer.Argument(help="Folder of the bundle.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda …")]
Dtype = Annotated[str, typer.Option(help="auto, fast, float32, bfloat16 …")]
Base = Annotated[
    str | None, typer.Option(help="The proxies' base, where it is not by the name in the bundle.")
]
Alpha = Annotated[float, typer.Option(help="Weight of the reward's rank beside perplexity's.")]


def sample(
    bundle: Bundle,
    out: Annotated[Path, typer.Option(help="Folder of draws and of rows.jsonl.")] = Path(
        "rewardds-rows"
    ),
    n: Annotated[int, typer.Option(help="Questions.")] = 3000,
    candidates: Annotated[int, typer.Option(help="Answers a question.")] = 6,
    seeds: Annotated[
        Path | None, typer.Option(help="Public or synthetic questions, one a line.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(help="Public answers, one a line, in place of drawn ones: names of labels."),
    ] = None,
    backend: Annotated[str, typer.Option(help="hf or vllm.")] = "hf",
    question_tokens: Annotated[int, typer.Option(help="Of a question, at most.")] = 512,
    answer_tokens: Annotated[int, typer.Option(help="Of an answer, at most.")] = 768,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    base: Base = None,
    device: Device = "auto",
    dtype: Dtype = "fast",
) -> None:
    """Draw questions and candidate answers from the generation proxy; a killed run goes on."""
    from rewardds.backends import make_backend
    from rewardds.bundle import GENERATOR, read_bundle
    from rewardds.errors import InvalidRows
    from rewardds.sampling import Sampler, SamplingSettings
    from rewardds.synthetic import write_rows
    from rewardds.taint import ReleaseGate
    from rewardds.verification import verify

    say(verify(bundle).sentence())
    held = read_bundle(bundle)
    if backend == "hf":
        engine = make_backend("hf", held.load_generator(base, **_how(device, dtype)))
    else:
        engine = make_backend(backend, base or held.base, adapter=held.folder / GENERATOR)
    sampler = Sampler(
        engine,
        held.prompts,
        seeds=_lines(seeds),
        answers=_lines(answers),
        posed=held.posed,
        settings=SamplingSettings(
            candidates=candidates,
            question_tokens=question_tokens,
            answer_tokens=answer_tokens,
            seed=seed,
        ),
        gate=ReleaseGate(ngrams_beside(bundle)),
        folder=str(out / "draws"),
        source=held.digest,
    )
    rows, counts = sampler.rows(n)
    if not rows:
        raise InvalidRows(
            f"no row out of {counts.attempts} questions and {counts.answers} answers; dropped were "
            f"questions: {_reasons(counts.questions_dropped)}; answers: "
            f"{_reasons(counts.answers_dropped)}"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_rows(out / "rows.jsonl", rows)
    typer.echo(json.dumps(asdict(counts)))
    typer.echo(f"rows: {out / 'rows.jsonl'}")


def filter_rows(
    bundle: Bundle,
    rows: Annotated[Path, typer.Argument(help="rows.jsonl of `rewardds sample`.")],
    out: Annotated[Path, typer.Option(help="Folder of the pool.")] = Path("rewardds-pool"),
    keep: Annotated[float, typer.Option(help="Share of the questions that stays.")] = 1 / 8,
    alpha: Alpha = 0.5,
    select: Annotated[
        str, typer.Option(help="Questions compete by reward (the paper's), margin or posed.")
    ] = "reward",
    batch_size: Annotated[int, typer.Option(help="Candidates scored at a time.")] = 32,
    base: Base = None,
    device: Device = "auto",
    dtype: Dtype = "fast",
) -> None:
    """Score all candidates by reward and perplexity, rank them, keep the best questions."""
    from rewardds.bundle import read_bundle
    from rewardds.pool import check_selection, first_pool
    from rewardds.pool_files import write_pool
    from rewardds.scoring import Scorer
    from rewardds.synthetic import read_rows

    check_selection(keep, select)
    held, drawn = read_bundle(bundle), read_rows(rows)
    _check_source(rows, held.digest)
    how = _how(device, dtype)
    scorer = Scorer(
        held.load_generator(base, **how),
        held.load_reward(base, **how),
        held.prompts,
        batch_size=batch_size,
    )
    scored = scorer.score(drawn, alpha=alpha).rows
    pool = first_pool(scored, keep=keep, select=select)  # type: ignore[arg-type]  # checked there
    write_pool(out, pool)
    typer.echo(
        f"{len(pool.kept)} of {len(pool.rows)} questions kept, by {select} from {pool.floor:.3f}"
    )
    typer.echo(f"pool: {out}")


def refine(
    bundle: Bundle,
    pool: Annotated[Path, typer.Argument(help="Folder of a pool.")],
    llm: Annotated[str, typer.Option(help="The model to tune.")] = "smollm2",
    out: Annotated[Path, typer.Option(help="Folder of the new pool and the model.")] = Path(
        "rewardds-refined"
    ),
    stages: Annotated[int, typer.Option(help="At least 0.")] = 2,
    threshold: Annotated[str, typer.Option(help="quantile or floor (the paper's).")] = "quantile",
    dedupe: Annotated[str, typer.Option(help="latest, best or keep (the paper's).")] = "latest",
    candidates: Annotated[int, typer.Option(help="Improved answers a question.")] = 6,
    answer_tokens: Annotated[int, typer.Option(help="Of an improved answer, at most.")] = 768,
    alpha: Alpha = 0.5,
    epochs: Annotated[int | None, typer.Option(help="Of each tuning.")] = None,
    lr: Annotated[float, typer.Option(help="Of each tuning, with --epochs.")] = 1e-3,
    base: Base = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Tune the model on the pool, have it improve the answers, score again: stage by stage."""
    from lipogram.llm.loading import load_model
    from rewardds.finetuning import Tuning
    from rewardds.pool_files import write_pool
    from rewardds.refinement import RefinementSettings
    from rewardds.server import RewardDSServer

    tuning = None if epochs is None else Tuning(epochs=epochs, lr=lr)
    settings = RefinementSettings(
        threshold=threshold,  # type: ignore[arg-type]  # checked there
        dedupe=dedupe,  # type: ignore[arg-type]
        candidates=candidates,
        answer_tokens=answer_tokens,
    )
    first, how = _pool(pool), _how(device, dtype)
    loaded = None if base is None else load_model(base, **how)
    server = RewardDSServer(llm, bundle, base=loaded, **how)
    found = server.refine(first, stages, alpha=alpha, settings=settings, tuning=tuning)
    report = server.finetune(found, tuning=tuning)
    write_pool(out, found)
    _save(server.llm, out / "model")
    for stage in server.stages:
        typer.echo(f"stage {stage.stage}: {stage.pool} rows, mean reward {stage.reward:.3f}")
    typer.echo(f"tuned on {report.rows} rows, losses {[round(x, 3) for x in report.losses]}")
    typer.echo(f"model: {out / 'model'}")


def finetune(
    bundle: Bundle,
    pool: Annotated[Path, typer.Argument(help="Folder of a pool.")],
    llm: Annotated[str, typer.Option(help="The model to tune.")] = "smollm2",
    out: Annotated[Path, typer.Option(help="Folder of the model.")] = Path("rewardds-model"),
    method: Annotated[str, typer.Option(help="sft, orpo or dpo.")] = "sft",
    epochs: Annotated[int, typer.Option(help="Passes over the rows.")] = 8,
    batch: Annotated[int, typer.Option(help="Rows an update.")] = 64,
    micro_batch: Annotated[int, typer.Option(help="Of them at a time.")] = 8,
    lr: Annotated[float, typer.Option(help="Of AdamW.")] = 4e-5,
    rank: Annotated[int, typer.Option(help="Of the adapter; 0 trains all weights.")] = 8,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Tune a model on the rows that a pool keeps."""
    from lipogram.llm.loading import load_model
    from rewardds.bundle import read_bundle
    from rewardds.finetuning import Tuning, prepare_for_tuning
    from rewardds.finetuning import finetune as tune

    prompts = read_bundle(bundle).prompts
    tuning = Tuning(
        method=method,  # type: ignore[arg-type]  # checked there
        epochs=epochs,
        batch=batch,
        micro_batch=micro_batch,
        lr=lr,
    )
    rows = _pool(pool).kept
    loaded = prepare_for_tuning(
        load_model(llm, trainable=True, **_how(device, dtype)), rank=rank or None
    )
    report = tune(loaded, rows, tuning, prompts)
    _save(loaded, out)
    typer.echo(f"tuned on {report.rows} rows, losses {[round(x, 3) for x in report.losses]}")
    typer.echo(f"model: {out}")


def run(
    config: Annotated[Path, typer.Argument(help="TOML: [data], [public], [pipeline].")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/rewardds"),
    device: Device = "auto",
) -> None:
    """Client and server in one go, for whoever is both; a killed run goes on."""
    from rewardds.pipeline import run_pipeline
    from rewardds.pipeline_file import read_pipeline

    records, public, settings = read_pipeline(config)
    done = run_pipeline(
        records,
        settings,
        out,
        public=public,
        progress=say,
        device=None if device == "auto" else device,
    )
    typer.echo(done.sentence)
    typer.echo(f"{len(done.pool.kept)} rows kept, by {done.pool.select} from {done.pool.floor:.3f}")
    typer.echo(f"rows: {out / 'pool' / 'kept.jsonl'}")


def ngrams_beside(bundle: Path) -> Any:
    """Of the private set, where the bundle still lies in its client's folder; else None."""
    from lipogram.errors import CorruptState
    from rewardds.client import NGRAMS
    from rewardds.private_ngrams import PrivateNgrams

    path = bundle.resolve().parent / "private" / NGRAMS
    try:
        return PrivateNgrams.load(path) if path.is_file() else None
    except CorruptState as error:
        warnings.warn(f"{error}. Nothing is held against the private set", stacklevel=2)
        return None


def _check_source(rows: Path, digest: str) -> None:
    """Raises RunMismatch where rows lie beside draws from another bundle."""
    from lipogram.errors import RunMismatch

    try:
        drawn = json.loads((rows.parent / "draws" / "shards.json").read_bytes())
        source = drawn["settings"]["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if source != digest:
        raise RunMismatch(
            f"{rows} was drawn from another bundle: score it with that one, or, if another is to "
            "judge it, move it out of its folder"
        )


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{reason} {n}" for reason, n in dropped.items()) or "none"


def _how(device: str, dtype: str) -> dict[str, Any]:
    return {"device": None if device == "auto" else device, "dtype": dtype}


def _lines(path: Path | None) -> list[str]:
    from lipogram.errors import MissingAsset

    if path is None:
        return []
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise MissingAsset(f"{path} cannot be read: {error.strerror}") from error


def _pool(folder: Path) -> Any:
    from lipogram.errors import MissingAsset
    from rewardds.pool_files import read_pool

    pool = read_pool(folder)
    if pool is None:
        raise MissingAsset(f"{folder} holds no pool: make one by `rewardds filter`")
    return pool


def _save(loaded: Any, folder: Path) -> None:
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


COMMANDS = (sample, refine, finetune, run)
NAMED = {"filter": filter_rows}
