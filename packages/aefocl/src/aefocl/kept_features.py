"""Features that stay in the cache, by what they were made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lipogram.analytic.backbones import Backbone
from lipogram.analytic.features import PATIENCE, FeatureStore, extract
from lipogram.analytic.images import FileImages, Images
from lipogram.assets import cache_folder


def kept_features(
    images: Images, backbone: Backbone, *, where: str = "", progress: bool = True
) -> FeatureStore:
    """Features of a collection, extracted now or found in the cache.

    Where another process is extracting them, it is waited for.

    Args:
        images: the collection.
        backbone: what turns an image into a vector.
        where: tells collections apart that look the same by names and sizes, see :func:`origin`.
        progress: show a bar while features are extracted.

    Raises:
        FolderInUse: another process has been extracting them for an hour.
    """
    key = hashlib.sha256(
        f"{images.fingerprint} {backbone.fingerprint} {where}".encode()
    ).hexdigest()[:16]
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in images.name)[:40]
    folder = cache_folder() / "features" / f"{name}-{key}"
    return extract(backbone, images, folder, progress=progress, wait_seconds=PATIENCE)


def origin(images: FileImages) -> str:
    """Where a person's pictures lie and when the newest was written.

    A camera's uncompressed frames all have the same size, so that their names and sizes alone would
    take another recording, or the same one mended, for this one.
    """
    newest = max(file.stat().st_mtime_ns for file in (images.root / i for i in images.ids))
    return f"{images.root.resolve()} {newest}"


def undecoded(skipped: Sequence[dict[str, str]], what: str = "pictures") -> tuple[str, ...]:
    """What a stream remarks of pictures that could not be decoded: nothing if there are none."""
    if not skipped:
        return ()
    first = skipped[0]
    return (f"{what} not decoded: {len(skipped)}, the first {first['id']} ({first['reason']})",)
