"""A causal language model whose rows are restored by vectors of one or several banks."""

import threading
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from lipogram.errors import InvalidSetting
from lipogram.llm import load_model
from privacyrestore.errors import BankMismatch, InvalidPayload
from privacyrestore.restoration import Restoration, as_flat, check_model
from privacyrestore.restoration_bank import RestorationBank


class SteeredModel:
    """A model with its tokenizer and the banks that were made for it.

    Args:
        model: a causal language model of `lipogram.llm.describe`, also inside PEFT.
        tokenizer: its tokenizer.
        banks: one bank, several, or none: then every row is plain.

    Attributes:
        banks: by their sha256.
        lock: held through each forward pass; whoever runs the model beside this object takes it.

    Raises:
        BankMismatch: a bank of another model (its configuration's hash, layers, heads, width).
        InvalidSetting: two banks that are the same.
        UnsupportedArchitecture: a model whose heads are not found.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        banks: RestorationBank | Sequence[RestorationBank] = (),
    ):
        given = (banks,) if isinstance(banks, RestorationBank) else tuple(banks)
        for bank in given:
            check_model(model, bank)
        self.model, self.tokenizer = model, tokenizer
        self.banks = {bank.sha256: bank for bank in given}
        if len(self.banks) < len(given):
            raise InvalidSetting("a bank is given twice")
        self.lock = threading.RLock()
        self._restoration = self.restoration()

    @classmethod
    def from_pretrained(
        cls,
        spec: Any,
        banks: RestorationBank | Sequence[RestorationBank] = (),
        **options: Any,
    ) -> Self:
        """Load a model by name and check the banks against it.

        Args:
            spec: as :func:`lipogram.llm.load_model` takes it.
            banks: as above.
            options: of `load_model`, such as dtype, device, device_map or revision.

        Raises:
            BankMismatch, InvalidSetting, UnsupportedArchitecture: as above.
            ModelNotFound, UnsafeCheckpoint, CorruptState, NotFinite: as `load_model`.
        """
        loaded = load_model(spec, **options)
        return cls(loaded.model, loaded.tokenizer, banks)

    @property
    def device(self) -> torch.device:
        """Where the embedding is, and so where tokens have to be."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    def restoration(self) -> Restoration:
        """A restoration of this model by these banks, for one user of it."""
        return Restoration(self.model, tuple(self.banks.values()))

    def bank_index(self, bank: str | None) -> int:
        """The place among the banks of the one with that sha256; None for the only one.

        Raises:
            BankMismatch: no such bank, or not exactly one where none is named.
        """
        if bank is None and len(self.banks) == 1:
            return 0
        if bank is None or bank not in self.banks:
            raise BankMismatch(
                f"this model has {len(self.banks)} banks, and "
                + ("none is named" if bank is None else "none with the sha256 that is named")
            )
        return list(self.banks).index(bank)

    def vector(self, meta: Tensor, bank: str | None = None) -> Tensor:
        """One row's vector, [n] float32 on the CPU, from [n], [ρ] or [K, D].

        Raises:
            BankMismatch: as :meth:`bank_index`.
            InvalidPayload: another shape, or numbers that are not finite.
        """
        held = list(self.banks.values())[self.bank_index(bank)]
        sizes = [(held.n,), (held.rank,), tuple(held.vectors.shape[1:])]
        if tuple(meta.shape) not in sizes:
            raise InvalidPayload(
                f"a vector of shape {list(meta.shape)}; it must be one of {list(map(list, sizes))}"
            )
        meta = meta.detach().to("cpu", torch.float32)
        if not bool(meta.isfinite().all()):
            raise InvalidPayload("a vector with numbers that are not finite")
        return as_flat(held, meta[None])[0]

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        meta: Tensor | Sequence[Tensor | None] | None = None,
        *,
        banks: Sequence[str | None] | None = None,
        **gen: Any,
    ) -> Any:
        """The model's own `generate`, with row i restored by its vector at every position.

        Args:
            input_ids: [b, t] int64, padded on the left.
            attention_mask: [b, t], 0 on padding; all ones if not given.
            meta: for each row a vector [n], [ρ] or [K, D], as one tensor with b rows or as a
                sequence in which None is a plain row; None for plain rows only.
            banks: for each row its bank's sha256; may be left out with one bank.
            gen: options of `generate`; beams and several samples a row work too.

        Returns:
            What `generate` returns.

        Raises:
            BankMismatch, InvalidPayload: as :meth:`vector`.
            InvalidSetting: not one vector, or not one bank, for each row.
        """
        rows = [None] * len(input_ids) if meta is None else list(meta)
        named = [None] * len(rows) if banks is None else list(banks)
        if len(rows) != len(input_ids) or len(named) != len(input_ids):
            raise InvalidSetting(
                f"{len(input_ids)} rows with {len(rows)} vectors and {len(named)} banks"
            )
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        vectors = [
            None if row is None else (self.vector(row, bank), self.bank_index(bank))
            for row, bank in zip(rows, named, strict=True)
        ]
        with self.lock:
            set_rows(self._restoration, vectors)
            with self._restoration.attach():
                return self.model.generate(input_ids, attention_mask=mask, **gen)


def set_rows(restoration: Restoration, rows: Sequence[tuple[Tensor, int] | None]) -> None:
    """Choose the rows' vectors, each [n] of its own bank with that bank's index; None is plain."""
    steered = [row for row in rows if row is not None]
    if not steered:
        restoration.set(None)
        return
    meta = torch.zeros(len(rows), max(len(vector) for vector, _ in steered))
    for i, row in enumerate(rows):
        if row is not None:
            meta[i, : len(row[0])] = row[0]
    restoration.set(meta, [None if row is None else row[1] for row in rows])
