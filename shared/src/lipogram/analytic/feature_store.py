"""Features on disk: an index and shards of rows that are only ever added."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipogram.errors import CorruptState, IncompatibleFeatures, MissingAsset
from lipogram.files import write_atomically

SCHEMA = "lipogram.features/1"
INDEX = "index.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MAX_INDEX_BYTES = 64 << 20


@dataclass(frozen=True)
class Shard:
    """One file of rows, as the index knows it.

    Attributes:
        file: its name in the folder.
        rows: feature vectors in it; at most `Layout.shard_rows`, fewer where images were skipped.
        bytes: its size.
        sha256: of its bytes.
    """

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Layout:
    """What a store holds and what made it; two extractions agree if their layouts do.

    Attributes:
        backbone: name, fingerprint, image_size and transform of the backbone.
        images: name, fingerprint and n of the image collection.
        class_names: one name a class.
        d: features an image.
        dtype: how a feature is stored: float32, float16 or bfloat16.
        shard_rows: images a shard covers.
    """

    backbone: dict[str, Any]
    images: dict[str, Any]
    class_names: list[str]
    d: int
    dtype: str
    shard_rows: int

    def check(self, asked: "Layout", folder: Path) -> None:
        """Refuse to go on with a store that something else made.

        Raises:
            IncompatibleFeatures: naming what differs.
        """
        held, wanted = asdict(self), asdict(asked)
        differing = [key for key in held if held[key] != wanted[key]]
        if differing:
            raise IncompatibleFeatures(
                f"{folder} holds features of another kind; they differ in "
                + "; ".join(
                    f"{key}: {_told(held[key])}, not {_told(wanted[key])}" for key in differing
                )
                + ". Extract into another folder, or delete this one"
            )


@dataclass
class Index:
    """The contents of index.json."""

    layout: Layout
    shards: list[Shard] = field(default_factory=list)
    complete: bool = False

    def write(self, folder: Path) -> None:
        """Replace the index of `folder` atomically."""
        content = {"schema": SCHEMA, **asdict(self)}
        write_atomically(folder / INDEX, json.dumps(content, indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """The index of `folder`, every value checked.

        Raises:
            MissingAsset: there is none.
            CorruptState: it is not an index that this version wrote.
        """
        path = folder / INDEX
        if not path.is_file():
            raise MissingAsset(f"{folder} holds no features: there is no {INDEX} in it")
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise CorruptState(f"{path} is larger than {MAX_INDEX_BYTES >> 20} MiB")
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise CorruptState(f"{path} is not JSON: {error}") from error
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise CorruptState(f"{path} is no index of the form {SCHEMA}")
        try:
            layout = Layout(**content["layout"])
            shards = [Shard(**shard) for shard in content["shards"]]
            index = cls(layout, shards, content["complete"])
            sound = _is_sound(index)
        except (KeyError, TypeError) as error:
            raise CorruptState(f"{path} lacks or garbles {error}") from error
        if not sound:
            raise CorruptState(f"{path} holds a value of the wrong type or out of its range")
        for i, shard in enumerate(shards):
            # A name is never taken from the file: it could point out of the folder.
            if shard.file != shard_name(i):
                raise CorruptState(f"{path} names shard {i} {shard.file!r}, not {shard_name(i)!r}")
        return index


class FeatureStore:
    """Features, labels and identifiers of an image collection, read from a folder.

    Attributes:
        folder: where the store is.
        n: rows.
        d: features a row.
        labels: (n,) int64, positions in `class_names`.
        class_names: one name a class.
        ids: identifier of each row's image.
        skipped: `id` and `reason` of each image that could not be decoded.
        backbone: name, fingerprint, image_size and transform of what made the features.
        images: name, fingerprint and n of the collection, the skipped included.
        dtype: how a feature is stored.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        """Read labels and identifiers; use `open`, which checks the files first."""
        self.folder = folder
        layout = index.layout
        self.d, self.dtype = layout.d, layout.dtype
        self.class_names, self.backbone, self.images = (
            layout.class_names,
            layout.backbone,
            layout.images,
        )
        self.ids: list[str] = []
        self.skipped: list[dict[str, str]] = []
        self._files = [folder / shard.file for shard in index.shards]
        self._starts = np.cumsum([0, *(shard.rows for shard in index.shards)])
        self.n = int(self._starts[-1])
        labels = [np.empty(0, np.int64)]
        for shard in index.shards:
            y, ids, skipped = _read_rows(folder, shard, layout)
            labels.append(y)
            self.ids += ids
            self.skipped += skipped
        self.labels: NDArray[np.int64] = np.concatenate(labels)

    @classmethod
    def open(cls, folder: Path | str, *, partial: bool = False) -> "FeatureStore":
        """The store in `folder`, after checking the size and SHA-256 of each of its files.

        Args:
            folder: where `extract` put it.
            partial: accept an extraction that was not finished.

        Raises:
            MissingAsset: there is no store.
            CorruptState: a damaged or hostile file, or an unfinished extraction.
        """
        folder = Path(folder)
        index = Index.read(folder)
        if not (index.complete or partial):
            done = sum(shard.rows for shard in index.shards)
            raise CorruptState(
                f"{folder} holds {done} rows of an extraction that was stopped; run it again to "
                "finish it, or open the store with partial=True"
            )
        for shard in index.shards:
            verify(folder, shard)
        return cls(folder, index)

    def __len__(self) -> int:
        """Rows in the store."""
        return self.n

    def features(self) -> NDArray[np.float32]:
        """All features, (n, d)."""
        return self.rows(np.arange(self.n))

    def rows(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Features (len(indices), d) of the rows `indices`, in that order.

        Only the rows asked for are read from disk.

        Raises:
            IndexError: an index outside 0..n-1.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < self.n):
            raise IndexError(
                f"rows {wanted.min()} to {wanted.max()} asked of a store of {self.n} rows"
            )
        out = np.empty((len(wanted), self.d), np.float32)
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        for k in np.unique(owner):
            here = np.flatnonzero(owner == k)
            x = mapped(self._files[k])
            out[here] = x[torch.from_numpy(wanted[here] - self._starts[k])].float().numpy()
        return out

    def batches(
        self, indices: Sequence[int] | NDArray[np.integer] | None = None, *, size: int = 1024
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Features (b, d) and labels (b,) of `indices` in that order, `size` rows at a time."""
        order = np.arange(self.n) if indices is None else np.asarray(indices, dtype=np.int64)
        for start in range(0, len(order), size):
            part = order[start : start + size]
            yield self.rows(part), self.labels[part]


def shard_name(i: int) -> str:
    """File name of shard i."""
    return f"shard-{i:05d}.safetensors"


def write_shard(
    folder: Path,
    i: int,
    x: Tensor,
    y: NDArray[np.int64],
    ids: list[str],
    skipped: list[dict[str, str]],
) -> Shard:
    """Put shard i into `folder`: x (rows, d), y (rows,), identifiers and what was skipped."""
    from safetensors.torch import save

    # One key only: the format keeps several in no fixed order, and shards are compared by bytes.
    rows = json.dumps({"ids": ids, "skipped": skipped})
    content = save({"x": x.contiguous(), "y": torch.from_numpy(y)}, metadata={"rows": rows})
    write_atomically(folder / shard_name(i), content)
    return Shard(shard_name(i), len(y), len(content), hashlib.sha256(content).hexdigest())


def verify(folder: Path, shard: Shard) -> None:
    """Compare a shard's file with the index.

    Raises:
        CorruptState: the file is missing, of another size, or has another SHA-256.
    """
    path = folder / shard.file
    remedy = f"delete {folder} and extract again"
    if not path.is_file():
        raise CorruptState(f"{path} is missing; {remedy}")
    size = path.stat().st_size
    if size != shard.bytes:
        raise CorruptState(f"{path} has {size} bytes, the index says {shard.bytes}; {remedy}")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != shard.sha256:
        raise CorruptState(f"{path} has SHA-256 {found}, the index says {shard.sha256}; {remedy}")


def mapped(path: Path) -> Tensor:
    """A shard's features (rows, d), mapped from the file rather than read."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        x: Tensor = file.get_tensor("x")
        return x


def _read_rows(
    folder: Path, shard: Shard, layout: Layout
) -> tuple[NDArray[np.int64], list[str], list[dict[str, str]]]:
    """Labels, identifiers and skipped images of a shard whose shapes and types fit the index."""
    from safetensors import SafetensorError, safe_open

    path = folder / shard.file
    try:
        with safe_open(path, framework="pt") as file:
            x, y = file.get_tensor("x"), file.get_tensor("y")
            about = json.loads(file.metadata()["rows"])
            ids, skipped = about["ids"], about["skipped"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptState(f"{path} is no shard of features: {error}") from error
    sound = (
        x.shape == (shard.rows, layout.d)
        and x.dtype == DTYPES[layout.dtype]
        and y.shape == (shard.rows,)
        and y.dtype == torch.int64
        and (not len(y) or (int(y.min()) >= 0 and int(y.max()) < len(layout.class_names)))
        and isinstance(ids, list)
        and len(ids) == shard.rows
        and all(isinstance(name, str) for name in ids)
        and isinstance(skipped, list)
        and all(_are_strings(entry, ("id", "reason")) for entry in skipped)
    )
    if not sound:
        raise CorruptState(
            f"{path} does not hold {shard.rows} labelled rows of {layout.d} {layout.dtype} features"
        )
    return y.numpy().copy(), ids, skipped


def _is_sound(index: Index) -> bool:
    """Every value of an index has the type and the range that the code relies on."""
    layout = index.layout
    rows = layout.shard_rows
    return (
        _are_strings(layout.backbone, ("name", "fingerprint", "transform"))
        and _are_strings(layout.images, ("name", "fingerprint"))
        and _is_count(layout.images.get("n"))
        and isinstance(layout.class_names, list)
        and all(isinstance(name, str) for name in layout.class_names)
        and layout.dtype in DTYPES
        and all(_is_count(value) and value > 0 for value in (layout.d, rows))
        and isinstance(index.complete, bool)
        and (not index.complete or len(index.shards) == -(-layout.images["n"] // rows))
        and all(
            _is_count(shard.rows) and _is_count(shard.bytes) and isinstance(shard.sha256, str)
            for shard in index.shards
        )
    )


def _are_strings(value: object, keys: Sequence[str]) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in keys)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _told(value: object) -> str:
    """A layout's value in a message: its name and the start of its fingerprint, or the value."""
    if isinstance(value, dict):
        return f"{value.get('name')} ({str(value.get('fingerprint'))[:12]})"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
