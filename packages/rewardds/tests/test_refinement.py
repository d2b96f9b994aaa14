"""What is asked in a stage, what becomes of the answers, and how the pool changes."""

import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting
from rewardds.backends import Completion, Drawing, Prompt
from rewardds.errors import InvalidRows
from rewardds.pool import Pool, first_pool, grown_pool, root
from rewardds.prompts import Prompts
from rewardds.refinement import RefinementSettings, refine_rows
from rewardds.synthetic import SyntheticRow

PROMPTS = Prompts("Say.", "Ask.", "Judge.")
DRAWING = Drawing()


class Script:
    """A backend that says what it is told to, and remembers what it was asked."""

    def __init__(self, say: Callable[[Prompt, int], Completion]):
        self.say, self.asked = say, list[tuple[Prompt, int, Drawing]]()

    def generate(
        self, prompts: Sequence[Prompt], n: int = 1, drawing: Drawing = DRAWING
    ) -> list[tuple[Completion, ...]]:
        self.asked += [(prompt, n, drawing) for prompt in prompts]
        return [tuple(self.say(prompt, k) for k in range(n)) for prompt in prompts]


def row(
    name: str, *rewards: float, stage: int = 0, candidates: Sequence[str] | None = None
) -> SyntheticRow:
    texts = tuple(candidates or [f"{name} says {i}" for i in range(len(rewards))])
    order = sorted(range(len(rewards)), key=lambda i: rewards[i])
    return SyntheticRow(
        name,
        f"What of {name}?",
        texts,
        tuple(rewards),
        (2.0,) * len(rewards),
        order[-1],
        order[0] if len(order) > 1 else None,
        stage,
        name.partition("@")[0] if stage else "",
    )


ROWS = [row("a", 1.0, 3.0, 2.0), row("b", 0.5)]


def test_the_generator_criticises_and_the_model_improves() -> None:
    critic = Script(lambda prompt, _: Completion(f" because of {prompt.key} ", "stop"))
    improver = Script(lambda prompt, k: Completion(f"better {k} {prompt.key}", "stop"))
    how = RefinementSettings(candidates=2, critique_tokens=9, answer_tokens=11, top_p=0.9, seed=4)
    found = refine_rows(ROWS, critic=critic, improver=improver, prompts=PROMPTS, settings=how)
    assert [one.id for one in found.rows] == ["a@1", "b@1"]
    assert [one.parent for one in found.rows] == ["a", "b"]
    assert [one.question for one in found.rows] == ["What of a?", "What of b?"]
    better = ("better 0 improve 0 a", "better 1 improve 0 a")
    assert found.rows[0].candidates == (*ROWS[0].candidates, *better)
    assert not found.rows[0].rewards
    assert (found.drawn, found.dropped, found.uncriticised) == (4, {}, 0)
    (asked, n, drawing), (single, _, _) = critic.asked
    (turn,) = asked.turns
    assert turn["role"] == "user"
    for text in ("What of a?", "a says 1", "a says 0"):
        assert text in turn["content"]
    assert "a says 2" not in turn["content"]  # neither the best nor the worst
    assert turn["content"].index("a says 1") < turn["content"].index("a says 0")
    assert "b says 0" in single.turns[0]["content"]
    assert "Worse" not in single.turns[0]["content"]
    assert (n, drawing) == (1, Drawing(9, 1.0, 0.9, 4))
    (wanted, n, drawing), _ = improver.asked
    for text in ("What of a?", "a says 1", "because of critique 0 a"):
        assert text in wanted.turns[0]["content"]
    assert "a says 0" not in wanted.turns[0]["content"]
    assert (n, drawing) == (2, Drawing(11, 1.0, 0.9, 4))


def test_answers_that_are_none_are_dropped_and_counted() -> None:
    says = {
        "a": [
            Completion("cut off", "length"),
            Completion("", "stop"),
            Completion("fine", "stop"),
            Completion(" fine ", "stop"),
        ],
        "b": [Completion("", "context")] * 4,
    }
    improver = Script(lambda prompt, k: says[prompt.key[-1]][k])
    critic = Script(
        lambda prompt, _: Completion("why", "length" if "a" in prompt.key[-1] else "stop")
    )
    how = RefinementSettings(candidates=4, compete=False)
    found = refine_rows(ROWS, critic=critic, improver=improver, prompts=PROMPTS, settings=how)
    assert [one.candidates for one in found.rows] == [("fine", "fine")]
    assert found.dropped == {"length": 1, "short": 1, "context": 4}
    assert found.drawn == 8
    assert found.uncriticised == 1
    assert "Critique" not in improver.asked[0][0].turns[0]["content"]
    assert "Critique:\nwhy" in improver.asked[1][0].turns[0]["content"]


def test_the_answer_so_far_stays_where_none_is_better() -> None:
    improver = Script(lambda prompt, k: Completion(f"new {k}", "stop"))
    for compete, own in ((True, ("a says 0", "a says 1", "a says 2")), (False, ())):
        how = RefinementSettings(instructed=False, candidates=2, compete=compete)
        found = refine_rows(
            ROWS[:1], critic=improver, improver=improver, prompts=PROMPTS, settings=how
        )
        assert found.rows[0].candidates == (*own, "new 0", "new 1")
        assert found.drawn == 2
    silent = Script(lambda *_: Completion("", "stop"))
    assert not refine_rows(ROWS, critic=silent, improver=silent, prompts=PROMPTS).rows


def test_a_model_too_small_for_requests_answers_anew() -> None:
    def never(*_: object) -> Completion:
        raise AssertionError("the generator was asked")

    improver = Script(lambda *_: Completion("anew", "stop"))
    found = refine_rows(
        ROWS,
        critic=Script(never),
        improver=improver,
        prompts=PROMPTS,
        settings=RefinementSettings(instructed=False, candidates=1),
    )
    assert [one.candidates[-1] for one in found.rows] == ["anew", "anew"]
    assert improver.asked[0][0].turns == PROMPTS.answer_turns("What of a?")
    assert found.uncriticised == 0


def test_what_is_drawn_for_a_row_has_a_key_of_its_own() -> None:
    improver = Script(lambda *_: Completion("x y", "stop"))
    critic = Script(lambda *_: Completion("why", "stop"))
    later = row("a@1", 1.0, stage=1)
    for rows in (ROWS, [later]):
        refine_rows(rows, critic=critic, improver=improver, prompts=PROMPTS)
    keys = [prompt.key for prompt, _, _ in [*critic.asked, *improver.asked]]
    assert len(set(keys)) == len(keys) == 6


def test_rows_that_are_not_ranked_are_refused_before_anything_is_asked() -> None:
    critic = Script(lambda *_: Completion("why", "stop"))
    with pytest.raises(InvalidRows, match="'c'"):
        refine_rows(
            [*ROWS, SyntheticRow("c", "So?", ("yes",))],
            critic=critic,
            improver=critic,
            prompts=PROMPTS,
        )
    assert not critic.asked


def test_no_rows_need_no_backend() -> None:
    critic = Script(lambda *_: Completion("why", "stop"))
    found = refine_rows([], critic=critic, improver=critic, prompts=PROMPTS)
    assert (found.rows, found.drawn) == ([], 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"candidates": 0}, "candidates is 0"),
        ({"temperature": 0.0}, "candidates is 6.*temperature 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"critique_tokens": 0}, "max_new_tokens is 0"),
        ({"answer_tokens": 0}, "max_new_tokens is 0"),
    ],
)
def test_settings_outside_their_ranges_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidSetting, match=message):
        RefinementSettings(**values)


def ids(rows: Sequence[SyntheticRow]) -> list[str]:
    return [one.id for one in rows]


SAMPLED = [
    row(name, reward) for name, reward in zip("abcdefgh", (1, 8, 3, 6, 5, 4, 7, 2), strict=True)
]


def test_the_first_pool_holds_the_best_questions() -> None:
    pool = first_pool(SAMPLED, keep=1 / 4)
    assert ids(pool.kept) == ["b", "g"]
    assert ids(pool.rows) == list("abcdefgh")
    assert pool.floor == 7


def test_by_the_papers_rule_the_pool_only_grows() -> None:
    pool = first_pool(SAMPLED, keep=1 / 4)
    refined = [row("b@1", 7.5, stage=1), row("c@1", 7.0, stage=1), row("d@1", 6.9, stage=1)]
    grown = grown_pool(pool, refined, threshold="floor", dedupe="keep")
    assert ids(grown.kept) == ["b", "b@1", "c@1", "g"]
    assert ids(grown.rows) == ["a", "b@1", "c@1", "d@1", "e", "f", "g", "h"]
    assert grown.floor == pool.floor == 7
    assert ids(grown_pool(pool, refined, threshold="floor", dedupe="best").kept) == [
        "b",
        "c@1",
        "g",
    ]
    latest = grown_pool(pool, refined, threshold="floor", dedupe="latest")
    assert ids(latest.kept) == ["b@1", "c@1", "g"]


def test_by_the_quantile_the_floor_rises() -> None:
    pool = first_pool(SAMPLED, keep=1 / 4)
    refined = [row("a@1", 9.0, stage=1), row("h@1", 7.5, stage=1), row("b@1", 1.0, stage=1)]
    grown = grown_pool(pool, refined, dedupe="best")
    assert ids(grown.kept) == ["a@1", "b"]  # b by its old row, g fell out
    assert grown.floor == 8
    assert ids(grown.rows)[1] == "b@1"
    again = grown_pool(grown, [row("a@2", 0.0, stage=2)], dedupe="best")
    assert ids(again.kept) == ["a@1", "b"]
    everything = grown_pool(grown, [row("a@2", 8.0, stage=2)], dedupe="keep")
    assert ids(everything.kept) == ["a@1", "a@2", "b"]


def test_each_question_competes_by_its_latest_row() -> None:
    pool = first_pool(SAMPLED, keep=1 / 4)
    refined = [row("a@1", 9.0, stage=1), row("h@1", 7.5, stage=1), row("b@1", 1.0, stage=1)]
    grown = grown_pool(pool, refined)
    assert ids(grown.kept) == ["a@1", "h@1"]  # b has lost what it had, and g fell out
    again = grown_pool(grown, [row("a@2", 0.0, stage=2)])
    assert ids(again.kept) == ["h@1", "g"]
    assert ids(again.rows) == ["a@2", "b@1", *"cdefg", "h@1"]


def test_a_row_that_fell_out_comes_back_where_the_floor_allows() -> None:
    pool = Pool(tuple(SAMPLED), (SAMPLED[0],), keep=1 / 2)
    assert sorted(ids(grown_pool(pool, []).kept)) == ["b", "d", "e", "g"]


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 9)), max_size=8),
    st.sampled_from([1.0, 0.5, 0.25, 0.125]),
)
def test_the_pool_is_the_best_share_of_all_questions(
    rewards: list[int], changes: list[tuple[int, int]], keep: float
) -> None:
    pool = first_pool([row(f"q{i}", reward) for i, reward in enumerate(rewards)], keep=keep)
    refined = {i: row(f"q{i}@1", reward, stage=1) for i, reward in changes if i < len(rewards)}
    grown = grown_pool(pool, list(refined.values()), dedupe="best")
    latest = grown_pool(pool, list(refined.values()))
    newest = first_pool(latest.rows, keep=keep)
    assert {*ids(newest.kept)} <= {*ids(latest.kept)}
    assert latest.floor == newest.floor
    best = [max(r, refined[i].reward if i in refined else r) for i, r in enumerate(rewards)]
    floor = sorted(best, reverse=True)[max(1, int(len(best) * keep)) - 1]
    assert {root(one) for one in grown.kept} == {f"q{i}" for i, r in enumerate(best) if r >= floor}
    assert len(grown.kept) == len({root(one) for one in grown.kept})
    assert grown.floor >= pool.floor
    assert [one.reward for one in grown.kept] == sorted(
        (r for r in best if r >= floor), reverse=True
    )
    floors = [
        grown_pool(pool, list(refined.values()), threshold="floor", dedupe=dedupe)
        for dedupe in ("keep", "best", "latest")
    ]
    assert set(ids(pool.kept)) <= set(ids(floors[0].kept))
    assert all(
        set(ids(b.kept)) <= set(ids(a.kept)) for a, b in itertools.pairwise([floors[0], floors[1]])
    )
    assert all(one.floor >= pool.floor for one in floors)


def test_pools_of_rows_that_do_not_fit_are_refused() -> None:
    pool = first_pool(SAMPLED, keep=1 / 4)
    with pytest.raises(InvalidRows, match="'z@1'"):
        grown_pool(pool, [row("z@1", 1.0, stage=1)])
    with pytest.raises(InvalidRows, match="'b'"):
        grown_pool(pool, [row("b@1", 1.0, stage=1), row("b@2", 1.0, stage=2)])
    with pytest.raises(InvalidRows, match="'b'"):
        grown_pool(pool, [SAMPLED[1]])
    with pytest.raises(InvalidRows, match="no chosen"):
        grown_pool(pool, [SyntheticRow("b@1", "So?", ("yes",), stage=1)])
    with pytest.raises(InvalidRows, match="no rewards"):
        first_pool([SyntheticRow("b", "So?", ("yes",), chosen=0)])
    with pytest.raises(InvalidRows, match="no rows"):
        first_pool([])
    with pytest.raises(InvalidRows, match="'a'"):
        first_pool([row("a", 1.0), row("a@1", 1.0, stage=1)])
    with pytest.raises(InvalidSetting, match="keep is 0"):
        first_pool(SAMPLED, keep=0)
    with pytest.raises(InvalidSetting, match="threshold is 'top', it must be one of"):
        grown_pool(pool, [], threshold="top")  # type: ignore[arg-type]
    with pytest.raises(InvalidSetting, match="dedupe is 'none'"):
        grown_pool(pool, [], dedupe="none")  # type: ignore[arg-type]
