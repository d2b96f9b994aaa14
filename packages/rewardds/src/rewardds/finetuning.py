"""The server's model learns from synthetic rows: by their best answers, or by best over worst."""

from __future__ import annotations

import math
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lipogram.errors import InvalidSetting, NotFinite
from lipogram.llm.loaded import LoadedModel
from lipogram.llm.objectives import IGNORED
from lipogram.llm.text import context_length, pad_id
from lipogram.llm.tuning import lora_config, training_args
from rewardds.errors import InvalidRows
from rewardds.prompts import Prompts, sequence
from rewardds.proxy_models import trainable
from rewardds.rows import Sequence as Tokens
from rewardds.synthetic import SyntheticRow

Method = Literal["sft", "orpo", "dpo"]


@dataclass(frozen=True)
class Tuning:
    """How a model is tuned. The defaults are the paper's for a stage after the first.

    Attributes:
        method: "sft" on each row's best answer; "orpo" (arXiv 2403.07691) or "dpo" (arXiv
            2305.18290) on best over worst, through TRL.
        epochs: passes over the rows.
        batch: rows an update.
        micro_batch: of them at a time; must divide `batch`.
        lr: of AdamW, falling linearly to 0. A LoRA adapter usually wants 10 to 50 times the
            paper's, which is for all weights.
        beta: of "orpo" (weight of the odds ratio) and "dpo" (of the reference).
        checkpointing: recompute activations, to save memory.
        seed: of the order of the rows and of dropout.

    Raises:
        InvalidSetting: a value outside its range.
    """

    method: Method = "sft"
    epochs: int = 3
    batch: int = 64
    micro_batch: int = 8
    lr: float = 4e-5
    beta: float = 0.1
    checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InvalidSetting(
                f"method is {self.method!r}; there are {', '.join(get_args(Method))}"
            )
        for name in ("epochs", "batch", "micro_batch"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.batch % self.micro_batch:
            raise InvalidSetting(
                f"micro_batch is {self.micro_batch}: it must divide the batch of {self.batch}"
            )
        for name in ("lr", "beta"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidSetting(f"{name} is {getattr(self, name)}: it must be finite and > 0")


@dataclass(frozen=True)
class TuningReport:
    """What a tuning did.

    Attributes:
        method: as asked.
        rows: that were learnt from.
        too_long: rows that were left out: with their prompt they exceed the model's context.
        unpaired: rows that were left out of "orpo" or "dpo": they have no other answer.
        steps: updates of the weights.
        losses: of each epoch, the mean over its updates; of synthetic rows, so nothing private.
    """

    method: Method
    rows: int
    too_long: int
    unpaired: int
    steps: int
    losses: tuple[float, ...]


def prepare_for_tuning(
    loaded: LoadedModel, *, rank: int | None = 8, checkpointing: bool = False, seed: int = 0
) -> LoadedModel:
    """Make a model trainable, in place.

    Args:
        loaded: a causal language model; one that has an adapter keeps it, and it is trained.
        rank: of a fresh LoRA adapter on all linear layers of the blocks; None trains all weights
            but the embeddings (and a head tied to them), as the paper does.
        checkpointing: whether :class:`Tuning` will ask for it.
        seed: of the adapter's start.

    Raises:
        InvalidSetting: a rank below 1, or None for a model with an adapter.
        MissingExtra: peft is not installed.
    """
    model = loaded.model
    adapted = hasattr(model, "peft_config")
    if rank is None and adapted:
        raise InvalidSetting("the model has an adapter: rank=None would train the weights under it")
    if adapted:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name or "modules_to_save" in name)
    elif rank is None:
        model = trainable(model, "full", None, seed)
    else:
        model = trainable(model, "lora", lora_config(model, r=rank, alpha=2 * rank), seed)
    if checkpointing and rank is not None:
        model.enable_input_require_grads()
    return LoadedModel(model, loaded.tokenizer, loaded.info)


def finetune(
    loaded: LoadedModel, rows: Sequence[SyntheticRow], tuning: Tuning, prompts: Prompts
) -> TuningReport:
    """Tune a model in place; it comes back in evaluation mode.

    Args:
        loaded: its parameters that require gradients are trained; see :func:`prepare_for_tuning`.
        rows: ranked. The same question may be there several times.
        tuning: how.
        prompts: its `answer_turns` are what is trained, the answer and its end token scored.

    Raises:
        InvalidRows: rows that are not ranked, or none that can be learnt from.
        InvalidSetting: a model without a trainable parameter.
        MissingExtra: "orpo" or "dpo" without TRL.
        NotFinite: a loss that is NaN or infinite. The model has diverged; load it again.
    """
    if not any(parameter.requires_grad for parameter in loaded.model.parameters()):
        raise InvalidSetting(
            "no parameter of the model is trainable: prepare_for_tuning() it first"
        )
    paired = tuning.method != "sft"
    examples, too_long, unpaired = [], 0, 0
    longest = context_length(loaded.model)
    for row in rows:
        answers = [row.answer] if row.worst is None or not paired else [row.answer, row.worst]
        if paired and len(answers) == 1:
            unpaired += 1
            continue
        example = [_tokens(loaded, prompts, row.question, answer) for answer in answers]
        if longest is not None and max(len(one.ids) for one in example) > longest:
            too_long += 1
        else:
            examples.append(example)
    if not examples:
        raise InvalidRows(
            f"none of {len(rows)} rows can be learnt from by {tuning.method}: {too_long} exceed "
            f"the model's context, {unpaired} have no second answer"
        )
    with _contained(loaded.model, tuning.seed), tempfile.TemporaryDirectory() as folder:
        if paired:
            from rewardds.preference_tuning import preference_tune

            steps, losses = preference_tune(loaded, examples, tuning, folder)
        else:
            steps, losses = _supervised(loaded, [one for (one,) in examples], tuning, folder)
    for loss in losses:
        if not math.isfinite(loss):
            raise NotFinite(
                f"the loss of {tuning.method} is {loss}: the model has diverged; load it again and "
                f"lower lr = {tuning.lr:g}"
            )
    return TuningReport(tuning.method, len(examples), too_long, unpaired, steps, losses)


def _tokens(loaded: LoadedModel, prompts: Prompts, question: str, answer: str) -> Tokens:
    turns = prompts.answer_turns(question, answer)
    return sequence(loaded.tokenizer, turns, sys.maxsize)[0]


def _supervised(
    loaded: LoadedModel, examples: list[Tokens], tuning: Tuning, folder: str
) -> tuple[int, tuple[float, ...]]:
    """Updates and losses of a training on the scored tokens of all examples."""
    from transformers import Trainer, TrainingArguments

    padding = pad_id(loaded.tokenizer)

    def collate(batch: list[Tokens]) -> dict[str, Tensor]:
        t = max(len(one.ids) for one in batch)
        ids = torch.full((len(batch), t), padding)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for i, one in enumerate(batch):
            n, row = len(one.ids), torch.tensor(one.ids)
            ids[i, :n], mask[i, :n] = row, 1
            labels[i, :n] = row.where(torch.tensor(one.scored), torch.tensor(IGNORED))
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    trainer = Trainer(
        model=loaded.model,
        args=training_args(TrainingArguments, **trainer_settings(tuning, folder)),
        train_dataset=examples,
        data_collator=collate,
    )
    return run_trainer(trainer)


def trainer_settings(tuning: Tuning, folder: str) -> dict[str, Any]:
    """What any trainer of transformers or TRL is told; nothing is written to `folder`."""
    return {
        "output_dir": folder,
        "num_train_epochs": tuning.epochs,
        "per_device_train_batch_size": tuning.micro_batch,
        "gradient_accumulation_steps": tuning.batch // tuning.micro_batch,
        "learning_rate": tuning.lr,
        "activation_checkpointing": tuning.checkpointing,
        "seed": tuning.seed,
        "remove_unused_columns": False,
        "save_strategy": "no",
        "logging_strategy": "epoch",
        "logging_nan_inf_filter": False,  # which would report the last finite loss instead
        "disable_tqdm": True,
    }


def run_trainer(trainer: Any) -> tuple[int, tuple[float, ...]]:
    """Train; the number of updates, and each epoch's mean loss."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()
    history = trainer.state.log_history
    losses = tuple(float(entry["loss"]) for entry in history if "loss" in entry)
    return int(trainer.state.global_step), losses


@contextmanager
def _contained(model: Any, seed: int) -> Iterator[None]:
    """Global generators are seeded inside, for the libraries, and afterwards as they were.

    So are the cache setting, which Trainer turns off for good, and the model's mode.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    use_cache = model.config.use_cache
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        # of transformers, which PEFT and TRL still ask by the old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            model.config.use_cache = use_cache
            model.eval()
