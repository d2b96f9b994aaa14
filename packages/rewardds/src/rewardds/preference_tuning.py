"""Tuning by pairs of answers, through TRL; what it leaves on a model is taken off again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from lipogram.errors import MissingExtra
from lipogram.llm.loaded import LoadedModel
from lipogram.llm.objectives import IGNORED
from lipogram.llm.text import context_length
from lipogram.llm.tuning import training_args
from lipogram.llm.wrappers import unwrap
from rewardds.finetuning import Tuning, run_trainer, trainer_settings
from rewardds.rows import Sequence as Tokens


def preference_tune(
    loaded: LoadedModel, pairs: Sequence[Sequence[Tokens]], tuning: Tuning, folder: str
) -> tuple[int, tuple[float, ...]]:
    """Train on (chosen, rejected) conversations, in place.

    The tokens are ours, not TRL's, so that both methods are trained behind the very prompt that is
    asked later. The reference of "dpo" is the model as it comes.

    Args:
        loaded: prepared for tuning.
        pairs: of conversations that share their prompt.
        tuning: method "orpo" or "dpo".
        folder: that nothing is written to.

    Returns:
        The number of updates, and each epoch's mean loss.

    Raises:
        MissingExtra: TRL is not installed.
    """
    try:
        import datasets
        import trl  # noqa: F401 - the trainers come from its parts
    except ImportError as error:
        raise MissingExtra("trl", "pip install 'lipogram-rewardds[tune]'") from error
    columns = [_columns(*pair) for pair in pairs]
    dataset = datasets.Dataset.from_list(columns)
    train = _dpo if tuning.method == "dpo" else _orpo
    with _untouched(loaded.model), _without_bars(datasets):
        return run_trainer(train(loaded, dataset, tuning, folder))


def _dpo(loaded: LoadedModel, dataset: Any, tuning: Tuning, folder: str) -> Any:
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    class TokenisedDPOTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    args = training_args(
        DPOConfig, **trainer_settings(tuning, folder), beta=tuning.beta, max_length=None
    )
    # Of a whole model TRL would load the reference by name, not as it is.
    adapted = hasattr(loaded.model, "peft_config")
    reference = None if adapted else copy.deepcopy(loaded.model).requires_grad_(False)
    return TokenisedDPOTrainer(
        model=loaded.model,
        ref_model=reference,
        args=args,
        train_dataset=dataset,
        processing_class=loaded.tokenizer,
    )


def _orpo(loaded: LoadedModel, dataset: Any, tuning: Tuning, folder: str) -> Any:
    with warnings.catch_warnings():  # its interface may change: this module alone uses it
        warnings.simplefilter("ignore")
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    class TokenisedORPOTrainer(ORPOTrainer):
        def tokenize_row(self, feature: Mapping[str, Any], model: Any = None) -> dict[str, Any]:
            prompt = feature["prompt_ids"]
            found = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
            for name in ("chosen", "rejected"):
                answer = feature[f"{name}_ids"]
                found[f"{name}_input_ids"] = prompt + answer
                found[f"{name}_attention_mask"] = [1] * len(prompt + answer)
                found[f"{name}_labels"] = [IGNORED] * len(prompt) + answer
            return found

    longest = context_length(loaded.model) or max(
        len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        for row in dataset
    )
    args = training_args(
        ORPOConfig, **trainer_settings(tuning, folder), beta=tuning.beta, max_length=longest
    )
    return TokenisedORPOTrainer(
        model=loaded.model, args=args, train_dataset=dataset, processing_class=loaded.tokenizer
    )


def _columns(chosen: Tokens, rejected: Tokens) -> dict[str, Any]:
    """What TRL's collators read. A template's text behind the end token is not trained."""
    start = chosen.scored.index(True)
    answers = [
        one.ids[start : len(one.ids) - one.scored[::-1].index(True)] for one in (chosen, rejected)
    ]
    texts = {"prompt": "", "chosen": "", "rejected": ""}  # which ORPO's trainer looks for
    ids = {"prompt_ids": chosen.ids[:start], "chosen_ids": answers[0], "rejected_ids": answers[1]}
    return texts | ids


@contextmanager
def _untouched(model: Any) -> Iterator[None]:
    """TRL leaves a forward pass of its own, a second adapter, dropout of 0 and tags behind."""
    inner = unwrap(model)
    forward = inner.__dict__.get("forward")
    dropouts = [(m, m.p) for m in model.modules() if isinstance(m, nn.Dropout)]
    try:
        yield
    finally:
        inner.__dict__.pop("forward", None)
        if forward is not None:
            inner.forward = forward
        if "ref" in getattr(model, "peft_config", {}):
            model.delete_adapter("ref")
        for module, p in dropouts:
            module.p = p


@contextmanager
def _without_bars(datasets: Any) -> Iterator[None]:
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
