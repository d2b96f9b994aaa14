"""What a loaded model is."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

Source = Literal["instance", "folder", "adapter", "gguf", "smollm2", "tiny-random", "hub"]


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without running it.

    Attributes:
        spec: what was asked for; for an instance its own name.
        source: which kind of place it came from.
        model_type: the architecture, as its configuration names it.
        revision: commit of the hub repository; None elsewhere.
        dtype: of the weights, such as "float32"; as stored where no weights were loaded, and None
            where the configuration does not say.
        parameters: number of weights, each shared one counted once; None where it is not known
            without loading them.
    """

    spec: str
    source: Source
    model_type: str
    revision: str | None = None
    dtype: str | None = None
    parameters: int | None = None


@dataclass
class LoadedModel:
    """A model with its tokenizer.

    Attributes:
        model: a PreTrainedModel in evaluation mode, or a PeftModel around one.
        tokenizer: its tokenizer.
        info: where it came from.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    info: ModelInfo


def describe_weights(model: torch.nn.Module) -> tuple[str, int]:
    """The dtype of the first weight, and how many weights there are; shared ones count once."""
    parameters = list(model.parameters())
    return str(parameters[0].dtype).removeprefix("torch."), sum(p.numel() for p in parameters)
