"""Questions compete by how far their best answer stands out, whatever is added to a question."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lipogram.errors import CorruptState, InvalidSetting
from rewardds.errors import InvalidRows
from rewardds.pool import first_pool, grown_pool, worth
from rewardds.pool_files import read_pool, write_pool
from rewardds.ranking import ranked
from rewardds.synthetic import SyntheticRow


def row(name, rewards, texts="abcdef", stage=0):
    told = tuple(texts[: len(rewards)])
    made = SyntheticRow(name, "Which?", told, tuple(rewards), (1.0,) * len(rewards), stage=stage)
    return ranked(made, alpha=1.0)


ROWS = [
    row("high", [9.0, 8.5, 8.9]),
    row("clear", [1.0, 3.0, -1.0]),
    row("low", [-5.0, -4.0]),
    row("alone", [7.0]),
    row("same", [6.0, 6.0], "aa"),
]


def test_the_margin_is_over_the_mean_of_the_other_candidates():
    found = {each.id: worth(each, "margin") for each in ROWS}
    assert found == pytest.approx({"high": 0.3, "clear": 3.0, "low": 1.0, "alone": 0, "same": 0})
    assert [worth(each, "reward") for each in ROWS] == [9.0, 3.0, -4.0, 7.0, 6.0]
    repeated = row("often", [3.0, 1.0, 1.0, 1.0, 0.0], "abbbc")
    assert worth(repeated, "margin") == pytest.approx(3.0 - 0.5)  # an answer counts once
    with pytest.raises(InvalidRows, match="rank it first"):
        worth(SyntheticRow("x", "?", ("a",), (1.0,), (1.0,)), "margin")


def test_what_is_added_to_a_question_changes_what_is_kept_by_reward_alone():
    drawn = np.random.default_rng(0)
    rewards = drawn.normal(size=(40, 4))
    shifts = 5 * drawn.normal(size=40)
    plain = [row(f"q{i}", each) for i, each in enumerate(rewards)]
    moved = [
        row(f"q{i}", each + add) for i, (each, add) in enumerate(zip(rewards, shifts, strict=True))
    ]
    ids = {
        (select, name): [each.id for each in first_pool(rows, keep=0.25, select=select).kept]
        for select in ("reward", "margin")
        for name, rows in (("plain", plain), ("moved", moved))
    }
    assert ids["margin", "plain"] == ids["margin", "moved"]
    assert set(ids["reward", "plain"]) != set(ids["reward", "moved"])
    pool = first_pool(plain, keep=0.25, select="margin")
    others = [worth(each, "margin") for each in plain if each not in pool.kept]
    assert max(others) <= pool.floor == worth(pool.kept[-1], "margin")


def test_a_pool_grows_by_its_own_rule():
    pool = first_pool(ROWS, keep=2 / 5, select="margin")
    assert [each.id for each in pool.kept] == ["clear", "low"]
    better, high = row("alone@1", [7.0, 2.0], stage=1), row("high@1", [90.0, 89.9], stage=1)
    for threshold in ("quantile", "floor"):
        grown = grown_pool(pool, [better, high], threshold=threshold)
        assert [each.id for each in grown.kept][:2] == ["alone@1", "clear"]
        assert "high@1" not in [each.id for each in grown.kept]
        assert grown.select == "margin"


def posed(name, own, other, texts="yn"):
    return ranked(SyntheticRow(name, "Which?", tuple(texts), (own, other), (1.0, 1.0)), alpha=1.0)


def test_questions_to_one_answer_compete_with_one_another():
    """A reward that likes "n" wherever it stands keeps as many of each."""
    drawn = np.random.default_rng(1)
    rows = [
        posed(
            f"q{i:02d}",
            *drawn.normal(size=2) + ((0, 3) if i % 2 else (3, 0)),
            "yn"[:: 1 - 2 * (i % 2 == 0)],
        )
        for i in range(40)
    ]
    pool = first_pool(rows, keep=0.25, select="posed")
    assert sorted(row.answer for row in pool.kept) == ["n"] * 5 + ["y"] * 5
    for row in pool.rows:
        assert (row.chosen, row.rejected) == (0, 1)
    for answer in "yn":
        own = [row for row in pool.rows if row.answer == answer]
        margins = {row.id: row.rewards[0] - row.rewards[1] for row in own}
        best = sorted(margins, key=lambda name: -margins[name])[:5]
        assert {row.id for row in pool.kept if row.answer == answer} == set(best)
    moved = [
        replace(
            row,
            rewards=tuple(
                r + (5 if t == "y" else 0) for r, t in zip(row.rewards, row.candidates, strict=True)
            ),
        )
        for row in rows
    ]
    assert {r.id for r in first_pool(moved, keep=0.25, select="posed").kept} == {
        r.id for r in pool.kept
    }
    alone = SyntheticRow("q99", "Which?", ("n",), (9.0,), (1.0,), chosen=0)
    (kept,) = first_pool([alone], keep=1, select="posed").kept
    assert (kept.answer, kept.rejected) == ("n", None)
    with pytest.raises(InvalidSetting, match="none to refine"):
        grown_pool(pool, [])


def test_a_pool_on_disk_keeps_its_rule(tmp_path):
    for select in ("reward", "posed"):
        pool = first_pool(ROWS, keep=2 / 5, select=select)
        write_pool(tmp_path, pool)
        assert read_pool(tmp_path) == pool
    pool = first_pool(ROWS, keep=2 / 5, select="margin")
    write_pool(tmp_path, pool)
    assert read_pool(tmp_path) == pool
    path = tmp_path / "pool.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"select": "luck"}))
    with pytest.raises(CorruptState, match="select"):
        read_pool(tmp_path)
    with pytest.raises(InvalidSetting, match="select"):
        first_pool(ROWS, select="luck")
