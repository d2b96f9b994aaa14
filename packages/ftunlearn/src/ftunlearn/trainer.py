"""The trainer of all unlearning methods."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback

from ftunlearn import losses
from ftunlearn.reference import VanillaModel, logits_of, summed_logps
from ftunlearn.unlearn_config import UnlearnConfig
from ftunlearn.unlearning_data import ForgetRetain, PairCollator, PairSampler, as_examples
from lipogram.errors import InvalidProbes, InvalidSetting, NotFinite
from lipogram.llm.architecture import describe
from lipogram.llm.objectives import sequence_logps
from lipogram.llm.recording import record
from lipogram.llm.seeds import rng
from lipogram.llm.text import pad_id
from lipogram.llm.trainer_checkpoints import CheckpointedTrainer
from lipogram.llm.tuning import prepare_lora


class UnlearnTrainer(CheckpointedTrainer):
    """Unlearns in place: `model`, or a fresh adapter on it.

    `log_history` holds for each logged step the loss and its parts (`forget_loss`, `retain_loss`),
    and for each measured one `forget_prob`, the mean over forget examples of exp(mean log p of the
    answer's tokens), and `forget_nll`, the mean of −log p over their tokens.

    Args:
        model: a causal language model, or a PEFT model whose adapter is trained.
        args: settings.
        train_dataset: {"forget": ..., "retain": ...}, each probes, (prompt, answer) pairs,
            articles, or examples with "input_ids" and "labels" (and "alternative" where the method
            prefers another answer), also as a `datasets.Dataset`. "retain" may be left out where
            the method has no use for it.
        processing_class: the tokenizer.
        peft_config: of an adapter to be put on `model`; it alone is trained then.
        ref_model: the vanilla model, where it is at hand; it spares a copy.
        callbacks: as in `Trainer`.

    Raises:
        InvalidProbes: data that cannot be trained on.
        InvalidSetting: settings that fit neither model nor data.
        MissingExtra: `peft_config` without peft.
    """

    args: UnlearnConfig
    train_dataset: Any

    loss_is_scaled_for_ga = False  # a batch mean: the Trainer divides by the accumulated batches

    def __init__(
        self,
        model: Any,
        args: UnlearnConfig,
        train_dataset: Mapping[str, Any],
        processing_class: Any,
        peft_config: Any = None,
        ref_model: Any = None,
        callbacks: list[TrainerCallback] | None = None,
    ):
        self._pad_id = pad_id(processing_class)
        data = _paired(processing_class, args, train_dataset)
        if peft_config is not None:
            with torch.random.fork_rng():
                torch.manual_seed(args.seed)
                checkpointing = bool(args.activation_checkpointing)
                model = prepare_lora(model, peft_config, checkpointing=checkpointing)
        self._layer = _rmu_layer(args, model) if args.method == "rmu" else -1
        restrict_training(model, args, self._layer)
        use_cache = model.config.use_cache
        self._sampler = PairSampler(len(data), len(data.retain or ()), args.seed)
        self._terms: dict[str, list[float]] = defaultdict(list)
        super().__init__(
            model=model,
            args=args,
            data_collator=PairCollator(self._pad_id),
            train_dataset=data,
            processing_class=processing_class,
            callbacks=[*(callbacks or []), _Watch(self)],
        )
        self.model.config.use_cache = use_cache  # which Trainer turns off for good
        self.model_accepts_loss_kwargs = False
        self.remove_callback(PrinterCallback)
        self.stopped: str | None = None
        self._vanilla: Any = self._reference(data, ref_model) if args.needs_reference else None
        if args.method == "rmu":
            width = describe(model).width
            control = losses.control_vector(width, args.rmu_coefficient, rng("rmu", args.seed))
            self._control = control.to(args.device)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """γ·forget loss + α·retain loss of a batch, a scalar.

        Raises:
            NotFinite: the loss is NaN or infinite. The weights are those of the last good step.
        """
        forget = self._forget_loss(model, inputs)
        gamma: Any = self.args.gamma  # the configuration has put the method's own for None
        loss = gamma * forget
        self._terms["forget_loss"].append(float(forget.detach()))
        if self.args.retain_loss != "none":
            retain = self._retain_loss(model, inputs["retain"])
            loss = loss + self.args.alpha * retain
            self._terms["retain_loss"].append(float(retain.detach()))
        if not torch.isfinite(loss):
            self._diverged("loss")
        return (loss, {}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`, with the parts of the loss averaged since the last entry."""
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self._terms.items()}
            self._terms.clear()
        super().log(logs, start_time)

    def measure(self) -> dict[str, float]:
        """`forget_prob` and `forget_nll` of the model as it is, over all forget examples."""
        with self.accelerator.autocast():
            sums, counts = summed_logps(
                self.model,
                self.train_dataset.forget,
                self._pad_id,
                self.args.per_device_eval_batch_size,
            )
        prob = (sums / counts.clamp(min=1)).exp().mean()
        return {"forget_prob": float(prob), "forget_nll": float(-sums.sum() / counts.sum())}

    def _get_train_sampler(self, train_dataset: Any = None) -> PairSampler:
        return self._sampler

    def _forget_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        args, forget = self.args, inputs["forget"]
        labels, beta = forget["labels"], args.beta or 0.0  # the methods that have one have it > 0
        if args.method == "idk":
            refusal = inputs["alternative"]
            return losses.idk(logits_of(model, refusal), refusal["labels"])
        if args.method == "rmu":
            return losses.distance(self._hidden(model, forget), self._control, labels)
        if args.method == "undial":
            vanilla = self._vanilla_logits(forget)
            return losses.undial(logits_of(model, forget), vanilla, labels, beta=beta)
        logits = logits_of(model, forget)
        if args.method in ("ga", "graddiff"):
            return losses.ga(logits, labels)
        logps, counts = sequence_logps(logits, labels)
        if args.method == "simnpo":
            return losses.simnpo(logps, counts, beta=beta, delta=args.delta)
        if args.method == "npo":
            return losses.npo(logps, self._vanilla_logps(forget), beta=beta)
        other = inputs["retain" if args.chosen == "retain" else "alternative"]
        chosen, _ = sequence_logps(logits_of(model, other), other["labels"])
        before = self._vanilla_logps(other), self._vanilla_logps(forget)
        return losses.dpo(chosen, logps, *before, beta=beta)

    def _retain_loss(self, model: Any, retain: dict[str, Tensor]) -> Tensor:
        labels = retain["labels"]
        if self.args.retain_loss == "embed":
            with self._vanilla.running() as vanilla, self.accelerator.autocast():
                target = self._hidden(vanilla, retain)
            return losses.distance(self._hidden(model, retain), target, labels)
        if self.args.retain_loss == "kl":
            vanilla = self._vanilla_logits(retain)
            return losses.kl(logits_of(model, retain), vanilla, labels)
        return losses.nll(logits_of(model, retain), labels)

    def _hidden(self, model: Any, batch: dict[str, Tensor]) -> Tensor:
        """[b, t, d] residual stream behind the block that RMU steers."""
        with record(model, [("resid_out", self._layer)], detach=False) as recording:
            logits_of(model, batch)
        return recording["resid_out", self._layer]

    def _vanilla_logits(self, batch: dict[str, Tensor]) -> Tensor:
        with self._vanilla.running() as vanilla, self.accelerator.autocast():
            return logits_of(vanilla, batch)

    def _vanilla_logps(self, batch: dict[str, Tensor]) -> Tensor:
        if "ref_logps" in batch:
            return batch["ref_logps"]
        return sequence_logps(self._vanilla_logits(batch), batch["labels"])[0]

    def _reference(self, data: ForgetRetain, given: Any) -> VanillaModel | None:
        adapted = hasattr(self.model, "disable_adapter")
        kind = self.args.ref or ("adapter_off" if adapted and given is None else "copy")
        if given is not None:
            given.to(self.args.device)
        if kind != "precomputed":
            return VanillaModel(self.model, kind, given)
        examples: dict[str, Any] = {"forget": data.forget}
        if self.args.method == "dpo":
            role = self.args.chosen
            examples[role] = (
                data.retain if role == "retain" else [row["alternative"] for row in data.forget]
            )
        model = self.model if given is None else given
        for role, rows in examples.items():
            size = self.args.per_device_eval_batch_size
            with self.accelerator.autocast():
                data.ref_logps[role] = summed_logps(model, rows, self._pad_id, size)[0]
        return None

    def _diverged(self, what: str) -> None:
        raise NotFinite(
            f"the {what} of {self.args.method} is not finite after {self.state.global_step} steps; "
            "the model is as the last good step left it. Lower learning_rate, or set target_prob "
            "or max_forget_loss to stop in time"
        )


class _Watch(TrainerCallback):
    """Orders the pairs, measures what is forgotten, and stops in time."""

    def __init__(self, trainer: UnlearnTrainer):
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.stopped = None
        if args.measure_steps and not state.global_step:
            self._trainer.log(self._trainer.measure())

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer._sampler.epoch = int(state.epoch)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gradients = [p.grad for p in self._trainer.model.parameters() if p.grad is not None]
        scaled = getattr(self._trainer.accelerator, "scaler", None) is not None  # checks by itself
        if not scaled and not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            self._trainer._diverged("gradient")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not args.measure_steps or state.global_step % args.measure_steps:
            return
        found = self._trainer.measure()
        for name, value in found.items():
            self._trainer._terms[name] = [value]
        if args.target_prob is not None and found["forget_prob"] < args.target_prob:
            self._trainer.stopped = "target_prob"
        elif args.max_forget_loss is not None and found["forget_nll"] > args.max_forget_loss:
            self._trainer.stopped = "max_forget_loss"
        if self._trainer.stopped:
            control.should_training_stop = control.should_log = True


def restrict_training(model: Any, args: UnlearnConfig, layer: int) -> None:
    """Freeze what `args.trainable` leaves out; what was frozen before stays frozen.

    Args:
        model: changed in place.
        args: settings.
        layer: of RMU.

    Raises:
        InvalidSetting: nothing would be left to train.
        UnsupportedArchitecture: "values" for a model whose down projections cannot be found.
    """
    wanted = args.trainable or ("values" if args.method == "rmu" else "all")
    if wanted == "all":
        return
    if wanted == "values":
        behind = args.trainable is None  # RMU's own choice
        layers = range(max(layer - 2, 0), layer + 1) if behind else None
        parts = describe(model).parts("values", layers)
        kept = {id(p) for part in parts for p in part.module.parameters()}
    else:
        kept = {
            id(p) for name, p in model.named_parameters() if re.search(wanted, _plain_name(name))
        }
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InvalidSetting(
            f"trainable = {wanted!r} leaves nothing to train in this model; an adapter has to be "
            "on the layers meant (target='mlp' or 'all-linear' for down projections)"
        )


def _plain_name(name: str) -> str:
    """The name of the parameter that an adapter's parameter changes."""
    return re.sub(r"\.lora_\w+\..*$", ".weight", name.removeprefix("base_model.model."))


def _rmu_layer(args: UnlearnConfig, model: Any) -> int:
    n_layers = describe(model).n_layers
    if args.rmu_layer is None:
        return min(max(round(7 / 32 * n_layers), 1), n_layers - 1)
    if not 0 <= args.rmu_layer < n_layers:
        raise InvalidSetting(f"rmu_layer is {args.rmu_layer}: there are layers 0 to {n_layers - 1}")
    return args.rmu_layer


def _paired(tokenizer: Any, args: UnlearnConfig, data: Mapping[str, Any]) -> ForgetRetain:
    unknown = set(data) - {"forget", "retain"}
    if unknown or "forget" not in data:
        raise InvalidProbes(
            f"train_dataset has the keys {sorted(data)}, must have 'forget' and 'retain'"
        )
    refusals = args.needs_alternative
    forget = as_examples(tokenizer, data["forget"], refusals=refusals, seed=args.seed)
    if refusals and "alternative" not in forget[0]:
        raise InvalidProbes(f"{args.method!r} needs an 'alternative' in each forget example")
    retain = data.get("retain")
    if retain is not None and len(retain) and args.needs_retain:
        return ForgetRetain(forget, as_examples(tokenizer, retain))
    if args.needs_retain:
        raise InvalidProbes(
            f"{args.method!r} with retain_loss={args.retain_loss!r} needs examples to retain; "
            "without any, use method='ga' or retain_loss='none'"
        )
    return ForgetRetain(forget, None)
