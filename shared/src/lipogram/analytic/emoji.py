"""Emoji as several vendors draw them: one concept, several styles, so real domain shift.

The classes are Unicode's groups of emoji (smileys, animals, flags and so on). Sequences joined by
U+200D are left out: they draw one thing for a man, a woman and a person, so that nearly the same
picture would be trained and tested on. The drawings are Google's (Noto Emoji, Apache-2.0),
Twitter's (Twemoji, © Twitter, Inc and other contributors, CC BY 4.0) and Microsoft's (Fluent Emoji,
MIT). Apple's and Facebook's are not free to use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipogram.analytic.backbones import Backbone, load_backbone
from lipogram.analytic.features import PATIENCE, FeatureStore, extract
from lipogram.analytic.images import FileImages
from lipogram.analytic.sources import held_out
from lipogram.assets import cache_folder, get
from lipogram.errors import MissingAsset

CREDITS = (
    "Drawings: Google (Noto Emoji, Apache-2.0), Twitter, Inc and other contributors (Twemoji, "
    "CC BY 4.0), Microsoft (Fluent Emoji, MIT)."
)
_JOINER = "200d"
_NO_GROUP = "Component"  # skin tones, which are no emoji of their own


@dataclass(frozen=True)
class Vendor:
    """Who draws.

    Attributes:
        name: of the client.
        asset: key in :data:`lipogram.assets.ASSETS`.
        file: path of a drawing in the asset; ``{}`` is the emoji's code.
    """

    name: str
    asset: str
    file: str


VENDORS = (
    Vendor("Google", "emoji-google", "img/google/64/{}.png"),
    Vendor("Twitter", "emoji-twitter", "img/twitter/64/{}.png"),
    Vendor("Microsoft", "emoji-fluent", "assets/{}.webp"),
)


@dataclass(frozen=True)
class EmojiFeatures:
    """The same n emoji as v vendors draw them.

    Attributes:
        rows: (v, n, d) features.
        labels: (n,) positions in ``class_names``.
        held_out: (n,) True for emoji to test on, which no vendor trains on.
        codes: code points of each emoji, hexadecimal and joined by ``-``.
        class_names: (k,) groups of emoji.
        vendors: v names.
        space: identity of the features.
        drawings: the images behind each vendor's rows; image i is emoji i.
    """

    rows: NDArray[np.float64]
    labels: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    codes: tuple[str, ...]
    class_names: tuple[str, ...]
    vendors: tuple[str, ...]
    space: str
    drawings: tuple[FileImages, ...]


def emoji_groups(table: Path) -> dict[str, str]:
    """Group of each emoji in an ``emoji.json``, by its code, in Unicode's order.

    Skin tones and sequences joined by U+200D are left out.

    Args:
        table: as the npm packages ``emoji-datasource-*`` hold it.
    """
    entries = sorted(json.loads(table.read_bytes()), key=lambda entry: entry["sort_order"])
    codes = ((entry["image"].removesuffix(".png"), entry["category"]) for entry in entries)
    return {
        code: group
        for code, group in codes
        if group != _NO_GROUP and _JOINER not in code.split("-")
    }


def emoji_features(
    *,
    backbone: str = "effnet-lite0",
    image_size: int = 112,
    test_share: float = 0.25,
    seed: int = 0,
    folders: Mapping[str, Path] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> EmojiFeatures:
    """Features of the emoji that every vendor draws, with a split by emoji.

    They are extracted once and kept in the cache.

    Args:
        backbone: registry name, see :func:`lipogram.analytic.load_backbone`.
        image_size: side in pixels.
        test_share: share of each group that is held out, of all vendors alike.
        seed: of the split.
        folders: where each vendor's drawings lie, by the vendor's name; None fetches them.
        progress: told which vendor is worked on.

    Raises:
        MissingAsset: drawings or the backbone's weights that cannot be had or read.
        AssetMismatch: they are not the ones that were examined.
        InvalidSetting: a share outside (0, 1).
    """
    roots = {v.name: folders[v.name] if folders else get(v.asset) for v in VENDORS}
    groups = {
        code: group
        for code, group in emoji_groups(roots[VENDORS[0].name] / "emoji.json").items()
        if all((roots[v.name] / v.file.format(code)).is_file() for v in VENDORS)
    }
    class_names = sorted(set(groups.values()))
    labels = np.array([class_names.index(group) for group in groups.values()], dtype=np.int64)
    tested = held_out(labels, test_share=test_share, seed=seed)
    model = load_backbone(backbone, image_size=image_size)
    rows: list[NDArray[np.float64]] = []
    drawings: list[FileImages] = []
    for vendor in VENDORS:
        progress(f"emoji as {vendor.name} draws them")
        files = [vendor.file.format(code) for code in groups]
        images = FileImages(vendor.asset, roots[vendor.name], files, labels, class_names)
        store = _stored(model, images)
        if store.skipped:
            first = store.skipped[0]
            raise MissingAsset(f"{first['id']} of {vendor.name} is not read: {first['reason']}")
        rows.append(store.features().astype(np.float64))
        drawings.append(images)
    return EmojiFeatures(
        np.stack(rows),
        labels,
        tested,
        tuple(groups),
        tuple(class_names),
        tuple(vendor.name for vendor in VENDORS),
        model.fingerprint,
        tuple(drawings),
    )


def _stored(model: Backbone, images: FileImages) -> FeatureStore:
    key = hashlib.sha256(f"{images.fingerprint} {model.fingerprint}".encode()).hexdigest()[:16]
    folder = cache_folder() / "features" / f"{images.name}-{key}"
    return extract(model, images, folder, wait_seconds=PATIENCE)
