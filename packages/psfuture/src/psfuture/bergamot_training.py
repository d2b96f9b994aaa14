"""Bergamot's models as something that the trainers of transformers train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import Seq2SeqLMOutput

from psfuture.bergamot import BergamotBackend
from psfuture.bergamot_folder import read_folder
from psfuture.bergamot_network import BergamotNetwork
from psfuture.multipath import causal_mask, wait_k_mask
from psfuture.p2f_batches import IGNORED


class BergamotPairTokenizer:
    """A :class:`~psfuture.p2f_batches.PairTokenizer` of a Bergamot model's vocabularies.

    Args:
        backend: whose vocabularies.
    """

    def __init__(self, backend: BergamotBackend):
        self._backend = backend
        self.pad = backend.source_pieces.eos_id()

    def source_ids(self, words: Sequence[str], *, closed: bool) -> list[int]:
        """As :meth:`~psfuture.bergamot.BergamotBackend.source_ids`."""
        return self._backend.source_ids(words, closed=closed)

    def target_ids(self, text: str) -> list[int]:
        """Labels; what the vocabulary has no piece for is not to be learnt."""
        backend = self._backend
        ids: list[int] = [*backend.pieces.encode(text), backend.eos]
        return [IGNORED if token == backend.unknown else token for token in ids]


class BergamotForTraining(nn.Module):
    """A Bergamot model behind the interface of transformers' sequence-to-sequence models.

    Args:
        backend: whose network is trained in place. There is no dropout.
        freeze_embeddings: leave source and target embeddings, which the output layer may share, as
            they are.
    """

    def __init__(self, backend: BergamotBackend, *, freeze_embeddings: bool = True):
        super().__init__()
        self._backend = backend
        self.network: BergamotNetwork = backend.network
        self.network.requires_grad_(True)
        for table in (self.network.source_table, self.network.target_table):
            table.requires_grad_(not freeze_embeddings)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        wait_k: int | None = None,
        unidirectional: bool = False,
        **_: Any,
    ) -> Seq2SeqLMOutput:
        """Mean cross-entropy of the labels, and the logits (B, T, V).

        Args:
            input_ids: (B, S) source tokens, padded at the right.
            attention_mask: (B, S), not 0 where there is one.
            labels: (B, T) target tokens; -100 where there is none to be learnt.
            wait_k: k of :func:`~psfuture.multipath.wait_k_mask`; None sees the whole source.
            unidirectional: the encoder does not look ahead.
        """
        network, kept = self.network, attention_mask.bool()
        with _causal(network, causal_mask(kept)) if unidirectional else nullcontext():
            states = network.encode(input_ids, kept)
        whole = kept[:, None, None, :]
        mask = whole if wait_k is None else wait_k_mask(wait_k, labels.shape[1], kept)
        before = labels[:, :-1].masked_fill(labels[:, :-1] < 0, self._backend.unknown)
        hidden = network.replay(before, network.context(states), mask)[0]
        logits = network.logits(hidden)
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        return Seq2SeqLMOutput(loss=loss, logits=logits)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write what :meth:`~psfuture.bergamot.BergamotBackend.load` reads."""
        self._backend.save(Path(folder))

    def read(self, folder: Path) -> None:
        """Take over the weights in a folder of :meth:`save_pretrained`.

        Raises:
            CorruptState: see :func:`~psfuture.bergamot_folder.read_folder`.
        """
        self.network.load_state_dict(read_folder(folder)[0].state_dict())


@contextmanager
def _causal(network: BergamotNetwork, mask: Tensor) -> Iterator[None]:
    def narrowed(_: nn.Module, inputs: tuple[Any, ...]) -> Any:
        return inputs[0], mask

    hooks = [layer.register_forward_pre_hook(narrowed) for layer in network.encoder]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
