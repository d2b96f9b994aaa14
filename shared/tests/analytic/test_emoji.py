import json

import numpy as np
import pytest
from PIL import Image

from lipogram import assets
from lipogram.analytic.emoji import VENDORS, emoji_features, emoji_groups
from lipogram.analytic.sources import held_out
from lipogram.errors import InvalidSetting, MissingAsset

GROUPS = {"Flags": 8, "Food & Drink": 12, "Symbols": 4}


def table():
    """Emoji of three groups, in another order than Unicode's, and what must not be among them."""
    entries = [
        {"image": f"{1000 * g + i:x}.png", "category": group, "sort_order": 100 * g + i}
        for g, (group, n) in enumerate(GROUPS.items(), 1)
        for i in range(n)
    ]
    entries.append({"image": "1f3fb.png", "category": "Component", "sort_order": 1})
    entries.append({"image": "1f468-200d-1f692.png", "category": "Flags", "sort_order": 2})
    return entries[::-1]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Drawings by all vendors, in the colour of the vendor, brighter by emoji."""
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path / "cache"))
    roots = {}
    for number, vendor in enumerate(VENDORS):
        root = roots[vendor.name] = tmp_path / vendor.asset
        for place, entry in enumerate(table()):
            file = root / vendor.file.format(entry["image"].removesuffix(".png"))
            file.parent.mkdir(parents=True, exist_ok=True)
            colour = [0, 0, 0]
            colour[number] = 100 + 5 * place
            Image.new("RGB", (4, 4), tuple(colour)).save(file, lossless=True)
    (roots["Google"] / "emoji.json").write_text(json.dumps(table()))
    return roots


def loaded(folders, **settings):
    return emoji_features(backbone="pixels", image_size=4, folders=folders, **settings)


def test_skin_tones_and_joined_sequences_are_no_emoji_of_their_own(folders):
    groups = emoji_groups(folders["Google"] / "emoji.json")
    assert list(groups.values()) == [name for name, n in GROUPS.items() for _ in range(n)]
    assert list(groups)[:2] == ["3e8", "3e9"]
    assert not [code for code in groups if "200d" in code or code == "1f3fb"]


def test_every_row_is_that_vendors_drawing_of_that_emoji(folders):
    features = loaded(folders)
    assert features.rows.shape == (3, 24, 48)
    assert features.vendors == ("Google", "Twitter", "Microsoft")
    names = [features.class_names[label] for label in features.labels]
    assert dict(zip(features.codes, names, strict=True)) == emoji_groups(
        folders["Google"] / "emoji.json"
    )
    brightness = {
        entry["image"].removesuffix(".png"): (100 + 5 * place) / 255
        for place, entry in enumerate(table())
    }
    for number, rows in enumerate(features.rows):
        pixels = rows.reshape(-1, 3, 16)
        expected = np.zeros((24, 3))
        expected[:, number] = [brightness[code] for code in features.codes]
        np.testing.assert_allclose(pixels, expected[:, :, None].repeat(16, 2), atol=0.51 / 255)


def test_no_emoji_is_trained_on_and_tested_by_any_vendor(folders):
    features = loaded(folders)
    codes = np.array(features.codes)
    train, test = set(codes[~features.held_out]), set(codes[features.held_out])
    assert not train & test
    again = loaded(folders)
    np.testing.assert_array_equal(again.held_out, features.held_out)
    np.testing.assert_array_equal(again.rows, features.rows)
    assert (loaded(folders, seed=1).held_out != features.held_out).any()


@pytest.mark.parametrize("seed", range(3))
def test_the_same_share_of_each_class_is_held_out_and_never_none(seed):
    labels = np.repeat([0, 1, 2], [8, 12, 1])
    test = held_out(labels, test_share=0.25, seed=seed)
    assert np.bincount(labels[test]).tolist() == [2, 3, 1]


def test_an_emoji_that_one_vendor_does_not_draw_is_left_out(folders):
    whole = loaded(folders)
    (folders["Microsoft"] / "assets" / "3e9.webp").unlink()
    features = loaded(folders)
    np.testing.assert_array_equal(features.rows[:, 1:], whole.rows[:, 2:])
    assert "3e9" not in features.codes
    assert features.rows.shape[:2] == (3, 23)
    assert len(features.labels) == len(features.held_out) == 23


def test_a_drawing_that_cannot_be_read_is_named(folders):
    (folders["Twitter"] / "img/twitter/64/3e9.png").write_bytes(b"no picture")
    with pytest.raises(MissingAsset, match=r"3e9\.png of Twitter is not read"):
        loaded(folders)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(InvalidSetting, match="test_share"):
        held_out(np.zeros(3, dtype=np.int64), test_share=share, seed=0)


def test_the_real_emoji_are_those_that_all_vendors_draw():
    roots = {vendor.name: assets.find(vendor.asset) for vendor in VENDORS}
    if None in roots.values():
        pytest.skip("needs the emoji: `afl demo` fetches them with npm")
    groups = emoji_groups(roots["Google"] / "emoji.json")
    drawn = [
        code
        for code in groups
        if all((roots[v.name] / v.file.format(code)).is_file() for v in VENDORS)
    ]
    assert (len(groups), len(drawn)) == (1658, 1634)
    assert len({groups[code] for code in drawn}) == 9
