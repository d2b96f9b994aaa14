"""The reward proxy: a causal language model's hidden states and one linear head over them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lipogram.llm.forward import evaluating
from lipogram.llm.objectives import precise
from lipogram.llm.seeds import rng
from lipogram.llm.wrappers import unwrap
from rewardds.losses import activation_dtype
from rewardds.rows import PackedBatch


class RewardModel(nn.Module):
    """A reward at every position; that of a sequence is read at its last token.

    The head is on all positions, so several sequences can stand in one row. The model's own
    vocabulary head is not used and not trained.

    Args:
        lm: a causal language model, with or without an adapter; it is used as it is.
        seed: of the head's weights, N(0, 1/width): a public start.

    Attributes:
        lm: the model.
        head: Linear(width, 1) without bias (a bias would cancel in every pair), float32.
    """

    def __init__(self, lm: Any, *, seed: int = 0):
        super().__init__()
        self.lm = lm
        causal = unwrap(lm)
        if (unused := causal.get_output_embeddings()) is not None:
            shared = {id(weight) for weight in causal.get_input_embeddings().parameters()}
            for weight in unused.parameters():
                if id(weight) not in shared:
                    weight.requires_grad_(False)
        width = causal.config.get_text_config().hidden_size
        device = next(lm.parameters()).device
        self.head: nn.Linear = nn.utils.skip_init(nn.Linear, width, 1, bias=False, device=device)
        start = torch.randn(1, width, generator=rng("reward head", seed)) / width**0.5
        with torch.no_grad():
            self.head.weight.copy_(start)

    @property
    def backbone(self) -> nn.Module:
        """The model without its vocabulary head, adapters included: it gives hidden states."""
        causal = unwrap(self.lm)
        backbone: nn.Module = getattr(causal, causal.base_model_prefix)
        return backbone

    @property
    def trained_below(self) -> bool:
        """Whether more than the head is trained: the model has an adapter or trainable weights."""
        return hasattr(self.lm, "peft_config") or any(p.requires_grad for p in self.lm.parameters())

    def forward(self, **inputs: Any) -> Tensor:
        """(b, t) float32 rewards, from what the backbone takes (b, t)."""
        rewards: Tensor = self.head(self._hidden(inputs))
        return rewards.squeeze(-1)

    def states(self, batch: PackedBatch, dtype: torch.dtype) -> Tensor:
        """(b, s, width): the head's input at the last token of each sequence, without a graph.

        Where a row has fewer than s sequences the values mean nothing.

        Args:
            batch: on the model's device.
            dtype: of the activations.
        """
        with evaluating(self):
            hidden = self._hidden(batch.inputs(dtype))
        places = batch.last[:, :, None].expand(-1, -1, hidden.shape[-1])
        return hidden.gather(1, places)

    def _hidden(self, inputs: dict[str, Any]) -> Tensor:
        hidden = self.backbone(**{"use_cache": False} | inputs).last_hidden_state
        states: Tensor = hidden.to(self.head.weight.dtype)
        return states

    def of_sequences(self, batch: PackedBatch) -> Tensor:
        """(b, s) float32: the reward of each sequence of each row, without a graph.

        Where a row has fewer than s sequences the value means nothing.
        """
        with evaluating(self):
            rewards = self(**batch.inputs(activation_dtype(self)))
        return precise(rewards).gather(1, batch.last)
