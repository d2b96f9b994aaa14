"""The rule by which vectors enter heads, in every forward pass, each row with its own.

A site is a query head's part x of the attention output projection's input. With y_k a row's vector
at site k, K the number of sites and γ the bank's strength, for every position, prompt or generated:

- quadratic:  x ← x + γ·‖x‖·⟨x, y_k⟩·y_k   (PrivacyRestore, arXiv 2406.01394, and its code)
- additive:   x ← x + γ·√K·‖x‖·y_k          (the rule of inference-time intervention, 2306.03341)

All sites of a layer are one dense operation over [b, t, H, D] with zeros at the other heads: a
kernel more or less costs more than the zeros do.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lipogram.errors import InvalidSetting, PatchMismatch
from lipogram.llm import describe
from lipogram.llm.hooks import hooked
from privacyrestore.errors import BankMismatch
from privacyrestore.restoration_bank import RestorationBank


class Restoration:
    """Restores a model's rows by vectors that may change between forward passes.

    Args:
        model: a causal language model of `lipogram.llm.describe`, also inside PEFT.
        banks: one bank, or several: rows of different banks share a forward pass.
        detach: with gradients on, let them reach a vector only through the last factor y_k, and
            none pass a steered head's x, as the authors train; False for the whole derivative.

    Raises:
        BankMismatch: a bank of other sites than the model has.
        UnsupportedArchitecture: a model whose heads are not found.
    """

    def __init__(
        self, model: Any, banks: RestorationBank | Sequence[RestorationBank], *, detach: bool = True
    ):
        self._architecture = describe(model)
        self.banks = (banks,) if isinstance(banks, RestorationBank) else tuple(banks)
        self.detach = detach
        heads, width = self._architecture.n_heads, self._architecture.head_dim
        for bank in self.banks:
            if (bank.model.n_layers, bank.model.n_heads, bank.model.head_dim) != (
                self._architecture.n_layers,
                heads,
                width,
            ):
                raise BankMismatch(
                    f"the bank is for {bank.model.n_layers} layers of {bank.model.n_heads} heads "
                    f"of {bank.model.head_dim}; the model has {self._architecture.n_layers} of "
                    f"{heads} of {width}"
                )
        self.layers = sorted({layer for bank in self.banks for layer, _ in bank.sites})
        row = {layer: number for number, layer in enumerate(self.layers)}
        self._places = [
            torch.tensor([row[layer] * heads + head for layer, head in bank.sites])
            for bank in self.banks
        ]
        self._dense: Tensor | None = None  # [b, layers, 1, H, D]; zeros where nothing is added
        self._strength: Tensor | None = None  # [b, 1, 1, 1]
        self._quadratic: Tensor | bool = False  # bool [b, 1, 1, 1] where rows differ in their rule
        self._moved: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def set(self, meta: Tensor | None, of: Sequence[int | None] | None = None) -> None:
        """Choose the rows' vectors for the forward passes that follow.

        Args:
            meta: [b, n], or [b, ρ] in the basis of the bank, or [b, K, D], float; a zero row is
                left alone to the bit. None to restore nothing. With rows of several banks, [b, n]
                where a shorter row ends in zeros.
            of: for each row the index of its bank, None for a plain row; the first bank's if not
                given.

        Raises:
            PatchMismatch: another shape, or `of` of another length.
        """
        self._moved = {}
        if meta is None:
            self._dense = None
            return
        of = [0] * len(meta) if of is None else list(of)
        if len(of) != len(meta):
            raise PatchMismatch(f"{len(of)} banks are named for {len(meta)} rows")
        heads, width = self._architecture.n_heads, self._architecture.head_dim
        dense = meta.new_zeros(len(meta), len(self.layers) * heads, width)
        for number, bank in enumerate(self.banks):
            rows = torch.tensor([i for i, b in enumerate(of) if b == number])
            if not len(rows):
                continue
            vectors = bank.sites_of(as_flat(bank, meta[rows], strict=len(self.banks) == 1))
            places = self._places[number]
            dense = dense.index_put((rows[:, None], places[None]), vectors.to(dense.dtype))
        self._dense = dense.view(len(meta), len(self.layers), 1, heads, width)
        banks = [self.banks[0 if b is None else b] for b in of]
        strengths = [bank.gamma * _scale(bank) for bank in banks]
        self._strength = meta.new_tensor(strengths).view(-1, 1, 1, 1)
        rules = {bank.rule for bank in banks}
        self._quadratic = rules == {"quadratic"}
        if len(rules) > 1:
            kinds = [bank.rule == "quadratic" for bank in banks]
            self._quadratic = torch.tensor(kinds, device=meta.device).view(-1, 1, 1, 1)

    @contextmanager
    def attach(self) -> Iterator["Restoration"]:
        """Inside the `with`, forward passes of the model are restored as :meth:`set` says."""
        places = {
            ("head_in", layer): self._change(number) for number, layer in enumerate(self.layers)
        }
        with hooked(self._architecture, places):
            yield self

    def _change(self, number: int) -> Any:
        return lambda activation: self._restored(number, activation)

    def _restored(self, number: int, activation: Tensor) -> Tensor | None:
        if self._dense is None:
            return None
        dense, strength = self._for(activation)
        samples, rest = divmod(len(activation), len(dense))
        if rest:
            raise PatchMismatch(
                f"vectors for {len(dense)} rows; the batch has {len(activation)}: call set() with "
                "one row a row of the batch"
            )
        y = dense[:, number]
        if samples > 1:  # beams, or several samples a prompt
            y, strength = (part.repeat_interleave(samples, 0) for part in (y, strength))
        x = activation.unflatten(-1, y.shape[-2:])
        if self.detach and torch.is_grad_enabled():
            steered = (y.detach() != 0).any(-1, keepdim=True)
            x = torch.where(steered, x.detach(), x)
        coefficient = torch.linalg.vector_norm(x, dim=-1, keepdim=True).mul(strength)
        if self._quadratic is not False:
            dot = torch.linalg.vecdot(x, y).unsqueeze(-1)
            if isinstance(self._quadratic, Tensor):
                kinds = self._quadratic.repeat_interleave(samples, 0)
                dot = torch.where(kinds.to(dot.device), dot, 1)
            coefficient = coefficient * dot
        if self.detach:
            coefficient = coefficient.detach()
        return torch.addcmul(x, coefficient, y).flatten(-2)

    def _for(self, activation: Tensor) -> tuple[Tensor, Tensor]:
        """The dense vectors and strengths where the activation is, moved once."""
        assert self._dense is not None
        assert self._strength is not None
        kind = (activation.device, activation.dtype)
        if kind not in self._moved:
            self._moved[kind] = (self._dense.to(*kind), self._strength.to(*kind))
        return self._moved[kind]


@contextmanager
def restored(
    model: Any, bank: RestorationBank, meta: Tensor, *, detach: bool = True
) -> Iterator[Restoration]:
    """Inside the `with`, row i of every batch is restored by row i of `meta`.

    Args:
        model: as in :class:`Restoration`.
        bank: made for that model.
        meta: [b, n], [b, ρ] or [b, K, D] float.
        detach: as in :class:`Restoration`.

    Raises:
        BankMismatch, PatchMismatch, UnsupportedArchitecture: as there.
    """
    restoration = Restoration(model, bank, detach=detach)
    restoration.set(meta)
    with restoration.attach():
        yield restoration


def as_flat(bank: RestorationBank, meta: Tensor, *, strict: bool = True) -> Tensor:
    """[b, n] from [b, n], [b, ρ] or [b, K, D]; differentiable.

    Raises:
        PatchMismatch: another shape.
    """
    if meta.shape[1:] == bank.vectors.shape[1:]:
        return meta.flatten(1)
    if meta.ndim == 2 and (meta.shape[1] == bank.n or (not strict and meta.shape[1] > bank.n)):
        return meta[:, : bank.n]
    if meta.ndim == 2 and meta.shape[1] == bank.rank:
        return meta @ bank.basis.to(meta).T
    raise PatchMismatch(
        f"vectors of shape {list(meta.shape)}; they must be [rows, {bank.n}], [rows, {bank.rank}] "
        f"or [rows, {', '.join(map(str, bank.vectors.shape[1:]))}]"
    )


def check_model(model: Any, bank: RestorationBank) -> None:
    """Refuse a bank that was made for another model.

    Raises:
        BankMismatch: naming what differs.
        InvalidSetting: no causal language model.
    """
    from privacyrestore.restoration_bank import identify

    if not hasattr(model, "config"):
        raise InvalidSetting(f"{type(model).__name__} is no language model with a configuration")
    found = identify(model)
    for field in ("n_layers", "n_heads", "head_dim", "config_sha256"):
        ours, theirs = getattr(bank.model, field), getattr(found, field)
        if ours != theirs:
            raise BankMismatch(
                f"the bank was made for {bank.model.name} ({field} {str(ours)[:12]}); this model "
                f"has {str(theirs)[:12]}"
            )


def _scale(bank: RestorationBank) -> float:
    return math.sqrt(len(bank.sites)) if bank.rule == "additive" else 1.0
