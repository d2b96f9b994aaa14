"""Unlearning in one call."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ftunlearn.trainer import UnlearnTrainer
from ftunlearn.unlearn_config import UnlearnConfig
from lipogram.errors import InvalidSetting
from lipogram.files import move_folder
from lipogram.llm.loaded import LoadedModel
from lipogram.llm.quiet import quiet
from lipogram.progress import bar
from lipogram.settings import plain


@dataclass(frozen=True)
class Unlearned:
    """What came of an unlearning run.

    Attributes:
        model: the unlearned model, in evaluation mode; a PEFT model where an adapter was trained.
        tokenizer: its tokenizer.
        config: the settings.
        log: one entry for each logged step: "step", "loss", "forget_loss", "retain_loss",
            "forget_prob", "forget_nll", ... (:class:`~ftunlearn.trainer.UnlearnTrainer`); step 0 is
            the vanilla model.
        stopped: "target_prob", "max_forget_loss", or "steps" if training ran to its end.
    """

    model: Any
    tokenizer: Any
    config: UnlearnConfig
    log: list[dict[str, float]]
    stopped: str

    @property
    def steps(self) -> int:
        """Optimiser steps taken."""
        return int(max((entry["step"] for entry in self.log), default=0))

    @property
    def forget_prob(self) -> dict[int, float]:
        """Step → mean probability of the forget answers, where it was measured."""
        return {int(e["step"]): e["forget_prob"] for e in self.log if "forget_prob" in e}

    def save(self, folder: str | Path) -> None:
        """Write a model folder (an adapter folder for a PEFT model), whole or not at all.

        It holds safetensors, the tokenizer, and `unlearning.json` with settings and log.

        Raises:
            InvalidSetting: `folder` is there and not empty.
            OSError: the disk is full or cannot be written.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InvalidSetting(f"{folder} is there and not empty: choose another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".part-{folder.name}-", dir=folder.parent))
        try:
            with quiet():
                self.model.save_pretrained(part)
            self.tokenizer.save_pretrained(part)
            run = {"stopped": self.stopped, "config": self.config.to_sanitized_dict()}
            (part / "unlearning.json").write_text(
                json.dumps(plain(run | {"log": self.log}, "log"), indent=1, allow_nan=False)
            )
            part.chmod(0o755)
            move_folder(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def unlearn(
    model: Any,
    tokenizer: Any,
    forget: Any,
    retain: Any,
    config: UnlearnConfig,
    *,
    peft_config: Any = None,
    in_place: bool = False,
    resume: bool = False,
) -> Unlearned:
    """Make a model unlearn some items and retain others.

    Args:
        model: a causal language model, or a :class:`~lipogram.llm.loaded.LoadedModel`. A copy of it
            is trained, and it serves as the vanilla model. With an adapter, `peft_config` or a PEFT
            model, the model itself is wrapped or trained: the weights under the adapter stay as
            they are, bit for bit.
        tokenizer: of the model; None for that of a LoadedModel.
        forget: probes, (prompt, answer) pairs, articles, or tokenised examples.
        retain: the same; None where the method retains nothing.
        config: settings; checkpoints, if any, go to its `output_dir`.
        peft_config: of an adapter to be trained (:func:`lipogram.llm.tuning.lora_config`).
        in_place: train the given model instead of a copy.
        resume: go on from the newest whole checkpoint in `config.output_dir`.

    Raises:
        InvalidProbes: items that cannot be trained on.
        InvalidSetting: settings that fit neither model nor data, or no tokenizer.
        NotFinite: loss or gradient diverged.
        CorruptState: nothing whole to resume from.
    """
    if isinstance(model, LoadedModel):
        model, tokenizer = model.model, tokenizer or model.tokenizer
    if tokenizer is None:
        raise InvalidSetting("a model without its tokenizer cannot be trained: give the tokenizer")
    vanilla = None
    if peft_config is None and not hasattr(model, "peft_config") and not in_place:
        vanilla, model = model, copy.deepcopy(model)
    keeps = config.save_strategy != "no" or config.output_dir not in (None, "trainer_output")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as shown:
        args = config if keeps else replace(config, output_dir=scratch)
        trainer = UnlearnTrainer(
            model=model,
            args=args,
            train_dataset={"forget": forget} | ({} if retain is None else {"retain": retain}),
            processing_class=tokenizer,
            peft_config=peft_config,
            ref_model=vanilla,
            callbacks=[_Steps(shown)],
        )
        trainer.train(resume_from_checkpoint=resume)
    log = [entry for entry in trainer.state.log_history if "train_runtime" not in entry]
    return Unlearned(trainer.model.eval(), tokenizer, config, log, trainer.stopped or "steps")


class _Steps(TrainerCallback):
    """Shows the steps taken; `shown` ends the showing."""

    def __init__(self, shown: ExitStack):
        self._shown = shown

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps = bar("unlearning", state.max_steps, state.global_step)
        self._advance = self._shown.enter_context(steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._advance(1)
