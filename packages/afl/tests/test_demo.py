import json

import numpy as np

from afl import demo
from afl.demo import run_demo
from afl.partitions import dirichlet_partition
from afl.simulation import simulate
from lipogram.analytic.datasets import digits
from lipogram.analytic.sources import features_of
from lipogram.errors import MissingAsset


def test_a_simulated_federation_goes_through_real_messages():
    X, y = digits()
    done = simulate(X, y, dirichlet_partition(y, 300, 0.01, min_size=0), gamma=1.0)
    pooled = np.linalg.solve(X.T @ X + np.eye(64), X.T @ np.eye(10)[y])
    assert np.abs(done.head.weight.numpy() - pooled).max() < 1e-10 * np.abs(pooled).max()
    assert len(done.federation.ledger) == 300
    assert 300 * 1000 < done.uploaded < 300 * 8 * (65 * 64 / 2 + 64 * 10)


def test_simulated_clients_have_the_names_they_are_given():
    X, y = digits()
    parts = np.array_split(np.arange(len(X)), 2)
    done = simulate(X, y, parts, gamma="gcv", names=["north", "south"])
    assert done.federation.clients == ["north", "south"]
    assert done.head.gamma == done.federation.solve("gcv").gamma


def test_the_demo_falls_back_on_digits_and_says_so(tmp_path, monkeypatch):
    def missing(name, **settings):
        if name == "fashion-mnist":
            raise MissingAsset("no such package here")
        return features_of(name, **settings)

    monkeypatch.setattr(demo, "features_of", missing)
    monkeypatch.setattr(demo, "run_emoji", lambda *_, **__: {"note": "npm is not here"})
    summary = demo.run_demo(tmp_path / "run")
    assert summary["dataset"] == "digits"
    assert summary["emoji"] == {"note": "npm is not here"}
    assert summary["headline"]["emoji, one client per vendor"].startswith("left out")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "no such package here" in page
    assert "npm is not here" in page


def test_the_demo_shows_what_it_claims(tmp_path):
    summary = run_demo(tmp_path / "run", dataset="digits")
    again = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert again["headline"] == summary["headline"]
    assert {split["different_predictions"] for split in summary["splits"].values()} == {0}
    assert max(split["off_pooled"] for split in summary["splits"].values()) < 1e-10
    assert summary["timeline"]["bitwise_equal"]
    assert summary["timeline"]["points"][0]["total"] != summary["timeline"]["total_after"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "the same integers" in page
    assert page.count("data:image/png") == 4
    assert "leaves" in page
    assert summary["emoji"] is None
