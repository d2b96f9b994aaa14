"""The demonstration on real posts and the real model, at a size that only shows that it runs."""

import json

import pytest

from lipogram import assets
from lipogram.errors import LipogramError
from rewardds.demo import Size, _shortened, run_demo
from rewardds.dreaddit import read_dreaddit
from rewardds.verification import verify

SMALL = Size(300, 60, 1, 3, batch=16, reward_batch=64, rows=12, keep=0.5, epochs=1)


@pytest.fixture(scope="module")
def data():
    try:
        return read_dreaddit(download=False)
    except LipogramError:
        pytest.skip("the posts are not here: make assets")


@pytest.fixture(scope="module")
def models():
    try:
        for name in ("minilm", "smollm2"):
            assets.get(name, download=False)
    except LipogramError:
        pytest.skip("the models are not here: `rewardds demo` fetches them")


def test_posts_are_cut_at_the_end_of_a_sentence(data):
    for post in data.train[:400]:
        short = _shortened(post)
        assert (short.id, short.label) == (post.id, post.label)
        assert 1 <= len(short.text.split()) <= 32
        assert " ".join(post.text.split()).startswith(" ".join(short.text.split()[:5]))


@pytest.mark.slow
def test_it_runs_from_posts_to_a_page(data, models, tmp_path):
    told = run_demo(tmp_path / "run", size=SMALL)
    assert 0 < told["headline"]["epsilon, everything together"] <= 8
    assert verify(tmp_path / "run" / "client" / "bundle").epsilon <= 8
    scores = told["scores"]
    assert scores["filtered"]["embeddings"]["n_train"] == 6
    assert scores["all unfiltered"]["words"]["n_train"] == 12
    assert scores["all real posts"]["embeddings"]["n_train"] == 300
    assert scores["majority"]["embeddings"]["n_test"] == 60
    assert told["audit"]["epsilon"] <= 8
    assert told["overlap"]["rows"]["texts"] == 12
    assert told["overlap"]["rows"]["grams"] > 12
    run = tmp_path / "run"
    assert json.loads((run / "summary.json").read_text())["headline"] == told["headline"]
    page = (run / "report.html").read_text() + (run / "summary.json").read_text()
    for post in data.train[:300]:
        assert " ".join(post.text.split()[:6]) not in page
