"""The two models that are compared: before unlearning and after it."""

import copy
import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lipogram.errors import IdenticalModels, IncompatiblePair, NotFinite
from lipogram.llm.adapters import without_adapter
from lipogram.llm.architecture import describe
from lipogram.llm.loaded import LoadedModel
from lipogram.llm.loading import load_model
from lipogram.llm.restoring import restore

MOST_ADDED_ROWS = 64
"""Rows by which a resized embedding may differ; the scores are taken on the common vocabulary."""

FINGERPRINTED = ("values", "keys", "attn", "norms", "embed", "head")


@dataclass(frozen=True)
class ModelPair:
    """A vanilla model, the same model after unlearning, and perhaps one that never knew.

    Attributes:
        vanilla: before.
        unlearned: after; a PEFT model over `vanilla` where unlearning left an adapter, so that only
            one base is in memory.
        tokenizer: of both.
        reference: a model that was never taught what is to be forgotten, or None.
        names: what each was loaded from, for reports.
    """

    vanilla: Any
    unlearned: Any
    tokenizer: Any
    reference: Any = None
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_fit(self.vanilla, self.unlearned)
        if self.reference is not None:
            _check_fit(self.vanilla, self.reference)
        for role in ("vanilla", "unlearned", "reference"):
            model = getattr(self, role)
            if model is not None:
                model.eval()
                _check_finite(model, role)
        if self._same():
            raise IdenticalModels(
                "the unlearned model's parameters are the vanilla model's, bit for bit: "
                "nothing was unlearned, or the same model was named twice"
            )

    @classmethod
    def load(
        cls,
        vanilla: Any,
        unlearned: Any,
        *,
        reference: Any = None,
        dtype: str = "float32",
        device: str | None = None,
        device_map: Any = None,
        tokenizer: Any = None,
        bin_weights: bool = False,
    ) -> "ModelPair":
        """Load a pair at one dtype, on one device, with one attention kernel.

        Args:
            vanilla: a model, a :class:`~lipogram.llm.loading.LoadedModel`, or what
                :func:`lipogram.llm.load_model` takes: a hub id, a folder, a GGUF file, `smollm2`.
            unlearned: the same, or an adapter: its folder, or a PeftModel.
            reference: the same as `vanilla`, or None.
            dtype: of all; the analysis is meant for float32.
            device: of all.
            device_map: for models larger than a device.
            tokenizer: where a model is given that does not bring one.
            bin_weights: read `.bin` checkpoints (with `weights_only`).

        Raises:
            ModelNotFound, UnsafeCheckpoint, NotFinite: of the loader.
            IncompatiblePair: they differ in architecture, shape, vocabulary or tokenizer.
            IdenticalModels: they do not differ at all.
        """

        def loaded(spec: Any) -> LoadedModel:
            if isinstance(spec, LoadedModel):
                return spec
            return load_model(
                spec,
                dtype=dtype,
                device=device,
                device_map=device_map,
                tokenizer=tokenizer,
                bin_weights=bin_weights,
            )

        first = loaded(vanilla)
        names = {"vanilla": first.info.spec}
        adapter = _adapter_over(first, unlearned)
        if adapter is None:
            second = loaded(unlearned)
            names["unlearned"] = second.info.spec
            _check_tokenizers(first.tokenizer, second.tokenizer)
            unlearned = _merged(second.model, is_ours=second is not unlearned)
        else:
            unlearned, names["unlearned"] = adapter, f"adapter {unlearned}"
        third = None if reference is None else loaded(reference)
        if third is not None:
            names["reference"] = third.info.spec
            _check_tokenizers(first.tokenizer, third.tokenizer)
        return cls(
            first.model, unlearned, first.tokenizer, None if third is None else third.model, names
        )

    @property
    def has_adapter(self) -> bool:
        """Whether the unlearned model is an adapter over the vanilla one."""
        return _is_peft(self.unlearned)

    @property
    def vocabulary(self) -> int:
        """Tokens that both models have a row for."""
        return min(_vocabulary(self.vanilla), _vocabulary(self.unlearned))

    @property
    def resized(self) -> bool:
        """Whether one model's vocabulary has rows that the other's lacks."""
        return _vocabulary(self.vanilla) != _vocabulary(self.unlearned)

    @property
    def n_layers(self) -> int:
        """Blocks of each model."""
        return describe(self.unlearned).n_layers

    @property
    def device(self) -> torch.device:
        """Where inputs belong."""
        device: torch.device = next(self.unlearned.parameters()).device
        return device

    @contextmanager
    def as_vanilla(self) -> Iterator[Any]:
        """The vanilla model, ready to run."""
        with self.unlearned.disable_adapter() if self.has_adapter else nullcontext():
            yield self.unlearned if self.has_adapter else self.vanilla

    @contextmanager
    def restored(
        self, groups: Sequence[str], layers: Sequence[int] | None = None
    ) -> Iterator[None]:
        """Give the unlearned model the vanilla model's parameters of some groups.

        Args:
            groups: of :data:`lipogram.llm.architecture.GROUPS`.
            layers: blocks; None is all of them and what lies outside them.
        """
        if self.has_adapter:
            with without_adapter(self.unlearned, groups, layers):
                yield
        else:
            with restore(self.unlearned, self.vanilla, groups, layers):
                yield

    def _same(self) -> bool:
        if self.has_adapter:
            updates = [p for name, p in self.unlearned.named_parameters() if ".lora_B." in name]
            return all(not bool(update.any()) for update in updates)
        other = dict(self.unlearned.named_parameters())
        return all(
            name in other and torch.equal(parameter, other[name])
            for name, parameter in self.vanilla.named_parameters()
        )

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """SHA-256 of each model's configuration and of the tensors of each parameter group."""
        prints = {"vanilla": fingerprint(self.vanilla), "unlearned": fingerprint(self.unlearned)}
        if self.reference is not None:
            prints["reference"] = fingerprint(self.reference)
        return prints


def fingerprint(model: Any) -> dict[str, str]:
    """SHA-256 of a model's configuration, its parameter groups, and its adapter if it has one."""
    architecture = describe(model)
    config = architecture.causal_lm.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):  # where it lay is not what it is
        config.pop(name, None)
    prints = {"config": hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())}
    for group in FINGERPRINTED:
        digest = hashlib.sha256()
        for part in architecture.parameters(group):
            digest.update(_bytes(part.value))
        prints[group] = digest
    if hasattr(model, "disable_adapter"):
        digest = hashlib.sha256()
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                digest.update(name.encode() + _bytes(parameter))
        prints["adapter"] = digest
    return {name: digest.hexdigest() for name, digest in prints.items()}


def _bytes(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return plain.numpy().tobytes()


def _adapter_over(vanilla: LoadedModel, unlearned: Any) -> Any:
    """A PEFT model over the vanilla model's own weights; None if `unlearned` is no adapter."""
    if isinstance(unlearned, nn.Module):
        peft: Any = unlearned
        shares = _is_peft(peft) and peft.get_base_model() is vanilla.model
        return unlearned if shares else None
    if isinstance(unlearned, (str, Path)) and (Path(unlearned) / "adapter_config.json").is_file():
        return load_model(vanilla.model, adapter=unlearned, tokenizer=vanilla.tokenizer).model
    return None


def _is_peft(model: Any) -> bool:
    return hasattr(model, "disable_adapter") and hasattr(model, "get_base_model")


def _merged(model: Any, *, is_ours: bool) -> Any:
    """A plain model: an adapter over another base than the vanilla model's is merged into it."""
    if not _is_peft(model):
        return model
    return (model if is_ours else copy.deepcopy(model)).merge_and_unload()


def _vocabulary(model: Any) -> int:
    head: Any = describe(model).head
    return int(head.weight.shape[0])


def _check_fit(vanilla: Any, other: Any) -> None:
    a, b = describe(vanilla), describe(other)
    for name in ("model_type", "n_layers", "width", "mlp_width", "n_heads", "n_kv_heads"):
        if getattr(a, name) != getattr(b, name):
            raise IncompatiblePair(name, getattr(a, name), getattr(b, name))
    rows = _vocabulary(vanilla), _vocabulary(other)
    if abs(rows[0] - rows[1]) > MOST_ADDED_ROWS:
        raise IncompatiblePair("vocabulary", *rows)
    if rows[0] != rows[1]:
        warnings.warn(
            f"the vocabularies have {rows[0]} and {rows[1]} rows: scores are taken on the first "
            f"{min(rows)}, which both have",
            stacklevel=4,
        )
    for name, first, second in (
        ("dtype", vanilla.dtype, other.dtype),
        ("attention kernel", *(m.config._attn_implementation for m in (vanilla, other))),
    ):
        if first != second:
            raise IncompatiblePair(name, first, second)


def _check_tokenizers(a: Any, b: Any) -> None:
    vocabularies = a.get_vocab(), b.get_vocab()
    differing = vocabularies[0].items() ^ vocabularies[1].items()
    if len({token for token, _ in differing}) > MOST_ADDED_ROWS:
        example = min(differing)
        raise IncompatiblePair(
            "tokenizer", f"{len(vocabularies[0])} tokens", f"{len(vocabularies[1])} ({example})"
        )
    sample = "The capital of Éire is 17 — naïve?\n Answer:"
    if a(sample)["input_ids"] != b(sample)["input_ids"]:
        raise IncompatiblePair("tokenizer", a(sample)["input_ids"], b(sample)["input_ids"])


def _check_finite(model: Any, role: str) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise NotFinite(
                f"{name} of the {role} model holds NaN or infinity: the training has diverged"
            )
