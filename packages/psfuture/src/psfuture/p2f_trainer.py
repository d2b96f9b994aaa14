"""Prefix-to-Full training on transformers' own trainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback

from lipogram.errors import InvalidSetting, NotFinite
from lipogram.llm.trainer_checkpoints import CheckpointedTrainer
from psfuture.bergamot_training import BergamotForTraining
from psfuture.multipath import draw_k, reading
from psfuture.p2f_batches import IGNORED, P2FCollator, PrefixEpochs
from psfuture.units import Unit


class P2FTrainer(CheckpointedTrainer, Seq2SeqTrainer):
    """Trains a translation model on whole sources and on prefixes of them.

        L = CE(y | x) + w CE(y | x_1..j)

    with the full target y both times (Prefix-to-Full, PsFuture; w = 1 is a guess, the paper's value
    is not known). Each cross-entropy is the mean over the target tokens of a step, accumulated
    batches and other devices included. The logs hold both as `full_loss` and `prefix_loss`, nats a
    token. Checkpoints hold no pickle.

    Args:
        model: of transformers, or a :class:`~psfuture.bergamot_training.BergamotForTraining`.
        args: as in `Seq2SeqTrainer`; columns are never removed from the data.
        train_dataset: what :class:`~psfuture.p2f_batches.P2FCollator` takes.
        processing_class: the tokenizer, of transformers or a
            :class:`~psfuture.p2f_batches.PairTokenizer`.
        p2f_weight: w; with 0 there is no second pass.
        full_loss: whether CE(y | x) counts.
        prefix_dist: how j is drawn, see :func:`~psfuture.prefix_draw.draw_prefix`.
        prefix_eos: whether prefixes are closed with the end of sentence.
        unit: of j, "word" or "char".
        wait_k: train multi-path wait-k instead (Elbayad et al. 2020): one pass over whole sources,
            of which target token t sees the first k + t tokens; k is drawn for each batch.
        unidirectional: of `wait_k`: the encoder does not look ahead either.
        callbacks: as in `Trainer`.
        kwargs: further ones of `Seq2SeqTrainer`.

    Raises:
        InvalidSetting: a setting outside its range, or that does not go with this trainer.
    """

    args: Seq2SeqTrainingArguments
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any,
        args: Seq2SeqTrainingArguments,
        *,
        train_dataset: Any,
        processing_class: Any,
        p2f_weight: float = 1.0,
        full_loss: bool = True,
        prefix_dist: str = "uniform",
        prefix_eos: bool = True,
        unit: Unit = "word",
        wait_k: bool = False,
        unidirectional: bool = False,
        callbacks: Sequence[TrainerCallback] = (),
        **kwargs: Any,
    ):
        if not 0 <= p2f_weight < float("inf"):
            raise InvalidSetting(f"p2f_weight is {p2f_weight}, must be finite and at least 0")
        if not (full_loss or p2f_weight) and not wait_k:
            raise InvalidSetting("full_loss=False and p2f_weight=0 leave nothing to learn")
        if unidirectional and not wait_k:
            raise InvalidSetting("unidirectional belongs to wait_k")
        if args.predict_with_generate:
            raise InvalidSetting("predict_with_generate: translate with a backend after training")
        if args.dataloader_persistent_workers:
            raise InvalidSetting(
                "dataloader_persistent_workers would cut each sentence after the same word in "
                "every epoch: leave it off"
            )
        args.remove_unused_columns = False
        collator = P2FCollator(
            processing_class,
            prefix_dist=prefix_dist,
            prefix_eos=prefix_eos,
            unit=unit,
            seed=args.seed,
        )
        self.p2f_weight, self.full_loss = p2f_weight, full_loss
        self.wait_k, self.unidirectional = wait_k, unidirectional
        self._sums: dict[str, tuple[float, int]] = {}
        saved = processing_class if hasattr(processing_class, "save_pretrained") else None
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=collator,
            processing_class=saved,
            callbacks=[PrefixEpochs(collator), _Finite(self), *callbacks],
            **kwargs,
        )
        self.model_accepts_loss_kwargs = True  # has it count the tokens of accumulated batches
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """L of a batch, a scalar.

        Args:
            model: wrapped or not.
            inputs: of :class:`~psfuture.p2f_batches.P2FCollator`.
            return_outputs: give the model's outputs for the whole sources too.
            num_items_in_batch: target tokens of the whole step; None for those of the batch.
            kwargs: of no use here.

        Raises:
            NotFinite: the loss is NaN or infinite. The weights are those of the last good step.
        """
        labels = inputs["labels"]
        tokens = labels.ne(IGNORED).sum()
        share = self._devices() / (tokens if num_items_in_batch is None else num_items_in_batch)
        loss, outputs = labels.new_zeros((), dtype=torch.float32), {}
        if self.wait_k:
            outputs = self._wait_k_outputs(model, inputs)
            loss = loss + self._nll("full_loss", outputs, labels, tokens) * share
        else:
            if self.full_loss or return_outputs:
                outputs = _run(model, inputs, "")
            if self.full_loss:
                loss = loss + self._nll("full_loss", outputs, labels, tokens) * share
            if self.p2f_weight:
                cut = self._nll("prefix_loss", _run(model, inputs, "prefix_"), labels, tokens)
                loss = loss + self.p2f_weight * cut * share
        if not torch.isfinite(loss).all():
            self.diverged("loss")
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`, with the parts of the loss averaged since the last entry."""
        if "loss" in logs:
            logs |= {name: total / count for name, (total, count) in self._sums.items()}
            self._sums.clear()
        super().log(logs, start_time)

    def diverged(self, what: str) -> None:
        """Raise NotFinite, saying after how many steps."""
        raise NotFinite(
            f"the {what} is not finite after {self.state.global_step} steps; the model is as the "
            "last good step left it, and so are the checkpoints. Lower the learning rate, and "
            "resume or begin anew"
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if isinstance(self.model, BergamotForTraining):
            self.model.read(Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _wait_k_outputs(self, model: Any, inputs: dict[str, Any]) -> Any:
        kept = inputs["attention_mask"]
        k = draw_k(inputs["input_ids"], kept, seed=self.args.seed, step=self.state.global_step)
        bare: Any = self.accelerator.unwrap_model(model)
        if isinstance(bare, BergamotForTraining):
            settings = {"wait_k": k, "unidirectional": self.unidirectional}
            return _run(model, inputs | settings, "", *settings)
        with reading(bare, k, unidirectional=self.unidirectional):
            return _run(model, inputs, "")

    def _nll(self, name: str, outputs: Any, labels: Tensor, tokens: Tensor) -> Tensor:
        """Sum of the labels' negative log-likelihoods."""
        total = cross_entropy(
            outputs["logits"].float().flatten(0, 1),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.args.label_smoothing_factor,
        )
        if self.model.training:
            before, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (before + float(total.detach()), count + int(tokens))
        return total

    def _devices(self) -> int:
        # Gradients are averaged over the processes, and the tokens counted over all of them.
        return self.accelerator.num_processes if self.args.average_tokens_across_devices else 1


class _Finite(TrainerCallback):
    """Stops before a step that would spoil the weights."""

    def __init__(self, trainer: P2FTrainer):
        self._trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = cast(nn.Module, self._trainer.model)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        scaled = getattr(self._trainer.accelerator, "scaler", None) is not None  # checks by itself
        if not scaled and not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            self._trainer.diverged("gradient")


def _run(model: Any, inputs: dict[str, Any], name: str, *more: str) -> Any:
    return model(
        input_ids=inputs[f"{name}input_ids"],
        attention_mask=inputs[f"{name}attention_mask"],
        labels=inputs["labels"],
        **{key: inputs[key] for key in more},
    )
