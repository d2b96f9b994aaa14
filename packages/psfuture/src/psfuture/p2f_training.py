"""A Prefix-to-Full training run: a folder that says what was done and holds what came of it."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import Seq2SeqTrainingArguments, TrainerCallback

from lipogram.errors import CorruptState, InvalidSetting
from lipogram.files import move_folder
from lipogram.llm.quiet import quiet
from lipogram.llm.trainer_checkpoints import last_checkpoint
from lipogram.llm.tuning import training_args
from lipogram.progress import bar
from lipogram.runs import Run
from psfuture import models
from psfuture.backend import Backend
from psfuture.bergamot import BergamotBackend
from psfuture.bergamot_training import BergamotForTraining, BergamotPairTokenizer
from psfuture.hf_backend import HFBackend
from psfuture.hf_languages import language_codes
from psfuture.p2f_batches import HFPairTokenizer, PairTokenizer, examples_of, token_batches
from psfuture.p2f_losses import held_out_losses
from psfuture.p2f_settings import P2FSettings
from psfuture.p2f_targets import kept_translations
from psfuture.p2f_trainer import P2FTrainer
from psfuture.units import source_words, split

Pairs = Sequence[tuple[str, str]]
MODEL, CHECKPOINTS, TARGETS = "model", "checkpoints", "targets.jsonl"


def train_p2f(
    backend: Backend | str | Path,
    pairs: Pairs,
    out: str | Path,
    settings: P2FSettings | None = None,
) -> dict[str, Any]:
    """Train a model on prefixes; killed at any instant, the same call goes on where it was.

    `out` is a run's folder (:class:`lipogram.runs.Run`) with the trained model in `model`, which
    :func:`psfuture.models.load` reads (a Bergamot model as `bergamot:OUT/model`).

    Args:
        backend: a Bergamot model or one of transformers, which is trained in place, so that it has
            to be loaded anew for the same call again; or what :func:`psfuture.models.load` takes.
        pairs: sentences and their translations; the last `settings.held_out` are measured on.
        out: of this run alone.
        settings: how to train.

    Returns:
        What `summary.json` holds: `steps`, `seconds` of training (since the last start), `pairs`
        trained on, `left_out` ones (a side without words or with too many tokens), and `held_out`:
        nats a token `before` and `after`, of the "full" sentences and their "prefix"es, j ~ U.

    Raises:
        InvalidSetting: settings that do not fit, a backend that cannot be trained, or no pairs.
        RunMismatch: `out` holds a run with other settings, pairs or model.
        CorruptState: files in `out` that are not of such a run.
        NotFinite: training diverged; the last checkpoint is still there.
    """
    settings, out = settings or P2FSettings(), Path(out)
    if isinstance(backend, str | Path):
        backend = models.load(backend)
    model, tokenizer = _trainable(backend, settings)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    kept, left_out = _fitting(tokenizer, pairs, settings)
    cut = len(kept) - settings.held_out
    train, held = kept[:cut], kept[cut:]
    if cut < 1:
        raise InvalidSetting(
            f"{len(kept)} pairs that fit, of which {settings.held_out} are held out: none is left "
            "to train on"
        )
    config = asdict(settings) | {"model": backend.name, "pairs": _digest(pairs)}
    run = Run.create(out, config, package="lipogram-psfuture")
    if run.result is not None and (out / MODEL).is_dir():
        return run.result
    train = _enough(tokenizer, train, settings)
    if settings.targets == "model":
        train = _own_targets(backend, train, out / TARGETS, settings)
    lengths = [len(tokenizer.target_ids(target)) for _, target in train]
    batches = token_batches(examples_of(train), lengths, settings.tokens, settings.seed)

    def measured() -> dict[str, float | None]:
        closed, unit = settings.prefix_eos, settings.unit
        return held_out_losses(model, tokenizer, held, prefix_eos=closed, unit=unit)

    before = run.events("held_out")
    if before:
        losses = {name: before[0][name] for name in ("full", "prefix")}
    else:
        losses = measured()
        run.log("held_out", step=0, **losses)
    with ExitStack() as shown, quiet():
        trainer = _trainer(run, model, tokenizer, batches, settings, shown)
        start = time.monotonic()
        trainer.train(resume_from_checkpoint=_resumable(out / CHECKPOINTS))
        seconds = time.monotonic() - start
    after = measured()
    run.log("held_out", step=settings.steps, **after)
    with quiet():
        _save(model, tokenizer, out / MODEL)
    summary = {
        "steps": settings.steps,
        "seconds": round(seconds, 1),
        "pairs": len(train),
        "left_out": left_out,
        "held_out": {"pairs": len(held), "before": losses, "after": after},
        "model": MODEL,
    }
    run.summary(summary)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return summary


def _trainable(backend: Backend, settings: P2FSettings) -> tuple[Any, PairTokenizer]:
    if isinstance(backend, BergamotBackend):
        model = BergamotForTraining(backend, freeze_embeddings=settings.freeze_embeddings)
        return model, BergamotPairTokenizer(backend)
    if not isinstance(backend, HFBackend):
        raise InvalidSetting(
            f"{type(backend).__name__} cannot be trained: Bergamot models and those of "
            "transformers can"
        )
    for embeddings in (
        backend.model.get_input_embeddings(),
        backend.model.get_encoder().get_input_embeddings(),
        backend.model.get_decoder().get_input_embeddings(),
    ):
        embeddings.requires_grad_(not settings.freeze_embeddings)
    direction, tokenizer = backend.direction, backend.tokenizer
    if codes := language_codes(tokenizer):
        tokenizer.src_lang = direction.src_lang
        names = {code: name for name, code in codes.items()}
        tokenizer.tgt_lang = names[direction.start[-1]]
    return backend.model, HFPairTokenizer(tokenizer, prefix=direction.prefix)


def _fitting(
    tokenizer: PairTokenizer, pairs: Pairs, settings: P2FSettings
) -> tuple[list[tuple[str, str]], int]:
    """Pairs with words on both sides and not too many tokens, and the number of the others."""
    kept = []
    for source, target in pairs:
        if not split(source, settings.unit) or not split(target, settings.unit):
            continue
        words = source_words(split(source, settings.unit), settings.unit)
        tokens = tokenizer.source_ids(words, closed=True), tokenizer.target_ids(target)
        if max(map(len, tokens)) <= settings.longest:
            kept.append((source, target))
    return kept, len(pairs) - len(kept)


def _enough(
    tokenizer: PairTokenizer, pairs: list[tuple[str, str]], settings: P2FSettings
) -> list[tuple[str, str]]:
    """As many pairs, of those drawn by the seed, as the steps will see once, and some more."""
    order = random.Random(settings.seed).sample(range(len(pairs)), len(pairs))
    chosen, tokens = [], 0
    for at in order:
        if tokens > 1.1 * settings.steps * settings.tokens:
            break
        chosen.append(pairs[at])
        tokens += len(tokenizer.target_ids(pairs[at][1]))
    return chosen


def _own_targets(
    backend: Backend, pairs: list[tuple[str, str]], path: Path, settings: P2FSettings
) -> list[tuple[str, str]]:
    sources = [source for source, _ in pairs]
    with bar("translating", len(sources)) as advance:
        found = kept_translations(backend, sources, path, unit=settings.unit, progress=advance)
    kept = [pair for pair in zip(sources, found, strict=True) if pair[1].split()]
    if not kept:
        raise InvalidSetting(
            f"the model translates none of {len(sources)} sources into anything: train it with "
            "targets='reference'"
        )
    return kept


def _trainer(
    run: Run,
    model: Any,
    tokenizer: PairTokenizer,
    batches: list[Any],
    settings: P2FSettings,
    shown: ExitStack,
) -> P2FTrainer:
    args = training_args(
        Seq2SeqTrainingArguments,
        output_dir=str(run.folder / CHECKPOINTS),
        max_steps=settings.steps,
        per_device_train_batch_size=1,  # of batches
        learning_rate=settings.learning_rate,
        warmup_steps=round(settings.warmup * settings.steps),
        lr_scheduler_type="linear",
        save_steps=settings.save_every,
        save_total_limit=2,
        logging_steps=settings.log_every,
        disable_tqdm=True,
        seed=settings.seed,
    )
    return P2FTrainer(
        model,
        args,
        train_dataset=batches,
        processing_class=tokenizer,
        p2f_weight=settings.prefix_weight,
        full_loss=settings.full_loss,
        prefix_dist=settings.prefix_dist,
        prefix_eos=settings.prefix_eos,
        unit=settings.unit,
        wait_k=settings.objective == "multipath",
        unidirectional=settings.unidirectional,
        callbacks=[_Events(run, shown)],
    )


class _Events(TrainerCallback):
    """Shows the steps on a terminal and logs the losses; `shown` ends the showing."""

    def __init__(self, run: Run, shown: ExitStack):
        self._run, self._shown = run, shown
        self._logged = max((event["step"] for event in run.events("train")), default=0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps = bar("training", state.max_steps, state.global_step)
        self._advance = self._shown.enter_context(steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._advance(1)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        if "loss" in logs and state.global_step > self._logged:  # steps retaken are not logged anew
            self._logged = state.global_step
            self._run.log("train", step=state.global_step, **logs)


def _resumable(folder: Path) -> str | None:
    """The newest whole checkpoint, if a former start left one."""
    try:
        return last_checkpoint(folder)
    except CorruptState:
        return None


def _save(model: Any, tokenizer: Any, home: Path) -> None:
    """Write the model, whole or not at all."""
    part = Path(tempfile.mkdtemp(prefix=f".part-{home.name}-", dir=home.parent))
    try:
        model.save_pretrained(part)
        if isinstance(tokenizer, HFPairTokenizer):
            tokenizer.tokenizer.save_pretrained(part)
        part.chmod(0o755)
        shutil.rmtree(home, ignore_errors=True)
        move_folder(part, home)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _digest(pairs: Pairs) -> str:
    text = json.dumps([list(pair) for pair in pairs], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
