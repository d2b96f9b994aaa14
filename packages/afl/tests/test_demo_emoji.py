from pathlib import Path

import numpy as np
import pytest

from afl import demo_emoji
from afl.demo_emoji import EmojiSettings, compare_vendors, headline_of, run_emoji
from afl.page_emoji import draw_examples, emoji_sections
from lipogram import assets
from lipogram.analytic.emoji import EmojiFeatures, emoji_features
from lipogram.analytic.sources import held_out
from lipogram.errors import AssetMismatch, MissingAsset
from lipogram.runs import Run


class Blank:
    """Drawings that need no file."""

    def load(self, i):
        return np.full((8, 8, 3), i, dtype=np.uint8)


@pytest.fixture(scope="module")
def features():
    """Three vendors; each tells the four classes apart in a subspace of its own."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(4), 60)
    rows = rng.normal(size=(3, 240, 24)) * 0.3
    for vendor in range(3):
        rows[vendor, np.arange(240), 8 * vendor + labels] += 2
    return EmojiFeatures(
        rows,
        labels,
        held_out(labels, test_share=0.25, seed=0),
        tuple(f"{i:x}" for i in range(240)),
        ("Animals & Nature", "Flags", "Food & Drink", "Symbols"),
        ("Google", "Twitter", "Microsoft"),
        "toy",
        (Blank(),) * 3,
    )


@pytest.fixture(scope="module")
def compared(features):
    return compare_vendors(features, EmojiSettings(rounds=5))


def test_the_federations_head_is_the_one_of_all_rows(features, compared):
    assert compared["different_predictions"] == 0
    assert compared["off_pooled"] < 1e-10
    train, test = ~features.held_out, features.held_out
    X = features.rows[:, train].reshape(-1, 24)
    Y = np.eye(4)[np.tile(features.labels[train], 3)]
    weight = np.linalg.solve(X.T @ X + compared["gamma"]["AFL"] * np.eye(24), X.T @ Y)
    for vendor, accuracy in enumerate(compared["accuracy"]["AFL"]):
        predicted = (features.rows[vendor, test] @ weight).argmax(1)
        assert accuracy == (predicted == features.labels[test]).mean()


def test_heads_alone_and_of_the_others_know_the_vendors_that_they_saw(compared):
    alone = np.array([compared["accuracy"][f"{name} alone"] for name in compared["vendors"]])
    assert alone.diagonal().min() > 0.95
    assert alone[~np.eye(3, dtype=bool)].max() < 0.6
    assert min(compared["accuracy"]["AFL"]) > 0.9
    assert min(compared["accuracy"]["FedAvg"]) > 0.9
    assert max(compared["left_out"]) < 0.6
    assert compared["own"] == pytest.approx(alone.diagonal().mean())
    assert compared["strange"] == pytest.approx(alone[~np.eye(3, dtype=bool)].mean())
    assert (compared["train_rows"], compared["test_rows"]) == (180, 60)
    assert 0 < compared["error"] <= 0.5 / np.sqrt(60)


def test_the_page_shows_the_matrix_and_credits_those_who_draw(features, compared, tmp_path):
    run = Run.create(tmp_path / "run", EmojiSettings(), package="lipogram-afl")
    draw_examples(features, run.figure("emoji"))
    drawings, matrix = emoji_sections(run, compared, {"image_size": 112, "rounds": 5})
    assert drawings.figure.is_file()
    assert matrix.figure.is_file()
    for credit in ("Apache-2.0", "CC BY 4.0", "MIT"):
        assert credit in drawings.caption
    assert "no prediction differs" in matrix.text
    assert f"{compared['strange']:.3f} on the others'" in matrix.text
    (off,) = emoji_sections(
        run, {**compared, "different_predictions": 3}, {"image_size": 112, "rounds": 5}
    )[1:]
    assert "3 predictions differ" in off.text


def test_without_the_drawings_the_part_says_why_in_one_line(tmp_path, monkeypatch):
    def missing(**settings):
        raise MissingAsset("emoji-google was found nowhere:\n  - npm is not on this machine")

    monkeypatch.setattr(demo_emoji, "emoji_features", missing)
    run = Run.create(tmp_path / "run", EmojiSettings(), package="lipogram-afl")
    said = []
    summary = run_emoji(run, EmojiSettings(), progress=said.append)
    assert summary == {"note": "emoji-google was found nowhere: - npm is not on this machine"}
    assert said == [f"the part on emoji is left out: {summary['note']}"]
    (section,) = emoji_sections(run, summary, {})
    assert summary["note"] in section.text
    assert list(headline_of(summary).values()) == ["left out, the report says why"]


def test_other_drawings_than_the_examined_ones_stop_the_demo(tmp_path, monkeypatch):
    def changed(**settings):
        raise AssetMismatch("3786 files with digest 0")

    monkeypatch.setattr(demo_emoji, "emoji_features", changed)
    run = Run.create(tmp_path / "run", EmojiSettings(), package="lipogram-afl")
    with pytest.raises(AssetMismatch):
        run_emoji(run, EmojiSettings())


def test_real_vendors_differ_in_style_and_one_head_serves_all():
    names = ("emoji-google", "emoji-twitter", "emoji-fluent", "efficientnet-lite0")
    if None in [assets.find(name) for name in names]:
        pytest.skip("needs the emoji and the backbone: `afl demo` fetches them")
    if not list((Path(assets.cache_folder()) / "features").glob("emoji-fluent-*")):
        pytest.skip("needs the features of the emoji: `afl demo` extracts them")
    compared = compare_vendors(emoji_features(), EmojiSettings())
    assert compared["different_predictions"] == 0
    assert compared["own"] > 0.70
    assert compared["strange"] < 0.57
    assert compared["joint"] > 0.70
    assert min(compared["accuracy"]["AFL"]) > 0.68
    assert compared["left_out"][1] < compared["accuracy"]["AFL"][1] - 0.15
