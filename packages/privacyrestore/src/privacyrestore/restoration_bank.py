"""The bank of restoration vectors: one vector a span type and head, and what both sides may know.

Everything in it is public: the server holds it, every client loads it whole. Source: PrivacyRestore
(arXiv 2406.01394), section 4; the subspace and its basis are this package's own.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lipogram.errors import CorruptState, InvalidSetting, NotFinite
from lipogram.files import write_atomically
from privacyrestore.errors import BankMismatch

Rule = Literal["additive", "quadratic"]
RULES: tuple[str, ...] = get_args(Rule)
FORMAT = 1
RANK_TOLERANCE = 1e-6
"""Singular values below this share of the largest are no direction of the bank."""


@dataclass(frozen=True)
class ModelIdentity:
    """Which model a bank was made for.

    Attributes:
        name: its folder's or repository's name, for people.
        revision: of the repository; None for a folder.
        config_sha256: of its configuration (see :func:`identify`); what has to match.
        n_layers, n_heads, head_dim: its head sites.
    """

    name: str
    revision: str | None
    config_sha256: str
    n_layers: int
    n_heads: int
    head_dim: int


@dataclass(frozen=True, eq=False)
class RestorationBank:
    """Restoration vectors r [G, K, D] and the directions of R^(K·D) that they span.

    Attributes:
        vectors: [G, K, D] float32, on the CPU.
        sites: K head sites (layer, query head), in ascending order.
        vocabulary: M span types in their canonical spelling, all different.
        groups: for each span type the row of `vectors` that stands for it; 0 to M−1 in a bank with
            one vector a span, fewer rows than spans in a confusable one.
        aliases: other spellings of span types.
        model: the model that it was made for.
        rule: how a vector enters a head (see `privacyrestore.restoration`).
        gamma: the public strength γ of that rule, above 0.
        statement: what it was trained on, in a sentence.
        basis: [n, ρ] float32 with orthonormal columns: the span of the bank; from the vectors
            where it is not given.

    Raises:
        InvalidSetting: parts that do not fit each other.
        NotFinite: NaN or infinity among the numbers.
    """

    vectors: Tensor
    sites: tuple[tuple[int, int], ...]
    vocabulary: tuple[str, ...]
    groups: tuple[int, ...]
    model: ModelIdentity
    rule: Rule = "additive"
    gamma: float = 0.5
    aliases: Mapping[str, tuple[str, ...]] | None = None
    statement: str = ""
    basis: Tensor = None  # type: ignore[assignment]  # computed where it is not given

    def __post_init__(self) -> None:
        vectors = self.vectors.detach().to("cpu", torch.float32).contiguous()
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "aliases", dict(self.aliases or {}))
        self._check()
        basis = spanned(vectors.flatten(1)) if self.basis is None else self.basis
        object.__setattr__(self, "basis", basis.detach().to("cpu", torch.float32).contiguous())
        self._check_basis()

    @classmethod
    def build(
        cls,
        vectors: Tensor,
        sites: Sequence[tuple[int, int]],
        vocabulary: Sequence[str],
        model: ModelIdentity,
        **settings: Any,
    ) -> Self:
        """A bank with one vector a span type; settings as the class's."""
        return cls(
            vectors,
            tuple((int(layer), int(head)) for layer, head in sites),
            tuple(vocabulary),
            tuple(range(len(vocabulary))),
            model,
            **settings,
        )

    def with_vectors(self, vectors: Tensor, **settings: Any) -> Self:
        """The same bank with other vectors, and the basis that belongs to them."""
        return replace(self, vectors=vectors, basis=None, **settings)  # type: ignore[arg-type]

    @property
    def n(self) -> int:
        """K·D: numbers in a vector over all sites."""
        return self.vectors.shape[1] * self.vectors.shape[2]

    @property
    def rank(self) -> int:
        """ρ: dimension of the bank's span."""
        return self.basis.shape[1]

    @cached_property
    def diameter(self) -> float:
        """Δ, a bound on the distance of any two signals.

        Signals are unit vectors of the bank's cone, or 0: √2 apart at most where no two vectors of
        the bank form an obtuse angle, else 2.
        """
        rows = self.vectors.flatten(1).double()
        return math.sqrt(2) if bool((rows @ rows.T >= 0).all()) else 2.0

    @cached_property
    def stretch(self) -> float:
        """At least 1: how many times further apart `coordinates` are than their signals, at most.

        1 for an exact basis; that of a file is one to within rounding, or what passes for it.
        """
        basis = self.basis.double()
        return math.sqrt(max(1.0, float(torch.linalg.eigvalsh(basis.T @ basis)[-1])))

    @cached_property
    def _exact_basis(self) -> Tensor:
        return self.basis.double()  # once: converting it takes longer than a product with it

    @cached_property
    def sha256(self) -> str:
        """Hex digest of all that the bank says and holds."""
        digest = hashlib.sha256(json.dumps(self._manifest(), sort_keys=True).encode())
        for tensor in (self.vectors, self.basis):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def signal(self, span_ids: Sequence[int], weights: Sequence[float] | None = None) -> Tensor:
        """ẑ = Σ w_j r_j over the norm of that sum, [n] float64; zeros for no spans.

        Args:
            span_ids: indices into the vocabulary; a repeated one counts once for each time.
            weights: positive, one a span; None for equal ones.

        Raises:
            InvalidSetting: an unknown span, or weights that do not fit.
        """
        if any(not 0 <= i < len(self.vocabulary) for i in span_ids):
            raise InvalidSetting(f"span ids go from 0 to {len(self.vocabulary) - 1}")
        weights = [1.0] * len(span_ids) if weights is None else list(weights)
        if len(weights) != len(span_ids) or any(not 0 < w < math.inf for w in weights):
            raise InvalidSetting("there must be one positive finite weight for each span")
        total = torch.zeros(self.n, dtype=torch.float64)
        for i, weight in zip(span_ids, weights, strict=True):
            total += weight * self.vectors[self.groups[i]].flatten().double()
        norm = total.norm()
        return total / norm if norm > 0 else total

    def coordinates(self, flat: Tensor) -> Tensor:
        """Qᵀz: [..., n] to [..., ρ], float64; an isometry on the bank's span."""
        return flat.double() @ self._exact_basis

    def expand(self, coordinates: Tensor) -> Tensor:
        """Qc: [..., ρ] to [..., n], float64."""
        return coordinates.double() @ self._exact_basis.T

    def sites_of(self, flat: Tensor) -> Tensor:
        """[..., n] as [..., K, D]."""
        return flat.unflatten(-1, self.vectors.shape[1:])

    def save(self, folder: str | Path) -> None:
        """Write vectors, basis and, at the end, `manifest.json`, which names both files.

        A bank that is there is replaced only when all of the new one is written.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {}
        for name, tensor in (("vectors", self.vectors), ("basis", self.basis)):
            content = save({name: tensor})
            names[name] = f"{name}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
            write_atomically(folder / names[name], content)
        manifest = self._manifest() | {"sha256": self.sha256, "files": names}
        write_atomically(folder / "manifest.json", json.dumps(manifest, indent=2).encode())
        for path in folder.glob("*.safetensors"):
            if path.name not in names.values() and path.name.startswith(("vectors-", "basis-")):
                path.unlink()

    @classmethod
    def load(cls, folder: str | Path, *, expect_sha256: str | None = None) -> Self:
        """Read a saved bank and check everything in it anew.

        Raises:
            CorruptState: no bank, a broken file, or one whose parts contradict each other.
            BankMismatch: not the bank of that digest.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes())
            files = manifest["files"]
            tensors: dict[str, Tensor] = {}
            for name in ("vectors", "basis"):
                file = str(files[name])
                if Path(file).name != file:
                    raise CorruptState(f"{folder / 'manifest.json'} names a file elsewhere")
                tensors |= load((folder / file).read_bytes())
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            if isinstance(error, CorruptState):
                raise
            raise CorruptState(
                f"{folder} holds no bank that can be read ({type(error).__name__}); a bank is a "
                "folder with manifest.json and two safetensors files, as `train` writes it"
            ) from error
        return cls._checked(manifest, tensors, str(folder), expect_sha256)

    def to_bytes(self) -> bytes:
        """The whole bank as one safetensors file with the manifest in its metadata."""
        manifest = json.dumps(self._manifest() | {"sha256": self.sha256})
        return save({"vectors": self.vectors, "basis": self.basis}, {"manifest": manifest})

    @classmethod
    def from_bytes(cls, content: bytes, *, expect_sha256: str | None = None) -> Self:
        """Read :meth:`to_bytes`, from anywhere; checks and errors as in :meth:`load`."""
        try:
            size = int.from_bytes(content[:8], "little")
            manifest = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["manifest"])
            tensors = load(content)
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CorruptState(
                f"what was received is no bank ({type(error).__name__}, {len(content)} bytes)"
            ) from error
        return cls._checked(manifest, tensors, "what was received", expect_sha256)

    @classmethod
    def _checked(
        cls, manifest: Any, tensors: Mapping[str, Tensor], where: str, expect: str | None
    ) -> Self:
        try:
            if manifest["format"] != FORMAT:
                raise CorruptState(f"{where} has format {manifest['format']!r}, not {FORMAT}")
            bank = cls(
                tensors["vectors"],
                tuple((int(layer), int(head)) for layer, head in manifest["sites"]),
                tuple(map(str, manifest["vocabulary"])),
                tuple(int(g) for g in manifest["groups"]),
                ModelIdentity(**manifest["model"]),
                rule=manifest["rule"],
                gamma=float(manifest["gamma"]),
                aliases={str(k): tuple(map(str, v)) for k, v in manifest["aliases"].items()},
                statement=str(manifest["statement"]),
                basis=tensors["basis"],
            )
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            if isinstance(error, CorruptState):
                raise
            raise CorruptState(f"{where} contradicts itself: {error}") from error
        if bank.sha256 != manifest.get("sha256"):
            raise CorruptState(f"{where} was changed: its digest is not the one that it names")
        if expect is not None and bank.sha256 != expect:
            raise BankMismatch(f"{where} is bank {bank.sha256[:12]}, not {expect[:12]}")
        return bank

    def _manifest(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": asdict(self.model),
            "sites": [list(site) for site in self.sites],
            "head_dim": self.vectors.shape[2],
            "rule": self.rule,
            "gamma": self.gamma,
            "vocabulary": list(self.vocabulary),
            "groups": list(self.groups),
            "aliases": {name: list(others) for name, others in (self.aliases or {}).items()},
            "diameter": self.diameter,
            "rank": self.rank,
            "statement": self.statement,
        }

    def _check(self) -> None:
        vectors, model = self.vectors, self.model
        if vectors.ndim != 3 or 0 in vectors.shape:
            raise InvalidSetting(f"vectors must be [G, K, D], got {list(vectors.shape)}")
        if not bool(torch.isfinite(vectors).all()):
            raise NotFinite("the bank's vectors hold NaN or infinity")
        if bool((vectors.flatten(1).norm(dim=1) == 0).any()):
            raise InvalidSetting("a vector of the bank is zero")
        if len(self.sites) != vectors.shape[1] or vectors.shape[2] != model.head_dim:
            raise InvalidSetting(
                f"{len(self.sites)} sites of width {model.head_dim} and vectors "
                f"{list(vectors.shape)} do not fit"
            )
        if list(self.sites) != sorted(set(self.sites)):
            raise InvalidSetting("sites must be different and in ascending order")
        if any(
            not (0 <= layer < model.n_layers and 0 <= head < model.n_heads)
            for layer, head in self.sites
        ):
            raise InvalidSetting(
                f"sites lie in {model.n_layers} layers of {model.n_heads} heads, from 0"
            )
        if not self.vocabulary or len(set(self.vocabulary)) != len(self.vocabulary):
            raise InvalidSetting("the vocabulary must name at least one span, and none twice")
        if not all(self.vocabulary):
            raise InvalidSetting("a span type of the vocabulary is empty")
        if len(self.groups) != len(self.vocabulary) or set(self.groups) != set(range(len(vectors))):
            raise InvalidSetting(
                f"groups must give each of {len(self.vocabulary)} spans one of the "
                f"{len(vectors)} vectors, and use each vector"
            )
        if unknown := set(self.aliases or {}) - set(self.vocabulary):
            raise InvalidSetting(f"{len(unknown)} aliases are of spans not in the vocabulary")
        if self.rule not in RULES:
            raise InvalidSetting(f"rule {self.rule!r}: {' or '.join(RULES)}")
        if not 0 < self.gamma < math.inf:
            raise InvalidSetting(f"gamma is {self.gamma!r}, it must be finite and above 0")

    def _check_basis(self) -> None:
        basis, flat = self.basis.double(), self.vectors.flatten(1).double()
        if basis.ndim != 2 or basis.shape[0] != self.n or not bool(torch.isfinite(basis).all()):
            raise InvalidSetting(f"the basis must be finite and [{self.n}, ρ]")
        unit = torch.eye(basis.shape[1], dtype=torch.float64)
        if float((basis.T @ basis - unit).abs().max()) > 1e-5:
            raise InvalidSetting("the basis is not orthonormal")
        outside = (flat - flat @ basis @ basis.T).norm(dim=1) / flat.norm(dim=1)
        if float(outside.max()) > 1e-4 or basis.shape[1] > len(flat):
            raise InvalidSetting("the basis is not that of the bank's vectors")


def spanned(rows: Tensor) -> Tensor:
    """An orthonormal basis [n, ρ] of the span of `rows` [G, n], by SVD in float64."""
    _, values, right = torch.linalg.svd(rows.double(), full_matrices=False)
    return right[values > RANK_TOLERANCE * values[0]].T.float()


_NO_IDENTITY = {
    "_attn_implementation",
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "pad_token_id",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
"""Settings that differ between loads of one model."""


def identify(model: Any, name: str = "", revision: str | None = None) -> ModelIdentity:
    """What a bank notes about a loaded model.

    Two models with the same configuration (but for paths, dtypes and library versions) have the
    same identity: weights of 7 GB are not hashed at each start.

    Raises:
        UnsupportedArchitecture: a model whose heads are not found.
    """
    from lipogram.llm import describe

    arch = describe(model)
    held = arch.causal_lm.config.to_dict()
    config = {key: value for key, value in held.items() if key not in _NO_IDENTITY}
    text = json.dumps(config, sort_keys=True, default=str)
    return ModelIdentity(
        name or Path(str(held.get("_name_or_path") or arch.model_type)).name,
        revision,
        hashlib.sha256(text.encode()).hexdigest(),
        arch.n_layers,
        arch.n_heads,
        arch.head_dim,
    )
