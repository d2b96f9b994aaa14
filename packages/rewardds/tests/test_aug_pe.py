"""Private evolution: who votes for what, how noisy, at what cost."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lipogram.errors import InvalidSetting, NotFinite
from rewardds import aug_pe
from rewardds.accounting import epsilon
from rewardds.aug_pe import BackendVariation, evolve
from rewardds.backends import Completion, Drawing, Prompt
from rewardds.errors import BudgetSpent, InvalidRecords, InvalidRows
from rewardds.ledger import PrivacyLedger
from rewardds.privacy_loss import Release
from rewardds.prompts import Prompts
from rewardds.records import PrivateRecords, PublicRecords, Record
from rewardds.synthetic import SyntheticRow

EXACT = 1e-4  # noise that changes no vote
DRAWING = Drawing()


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """How often each letter occurs."""
    return np.array([[t.count(letter) for letter in "abcdefgh"] for t in texts], dtype=np.float32)


def records(*texts: str, groups: Sequence[str] = ()) -> PrivateRecords:
    owners = [*groups, *[""] * (len(texts) - len(groups))]
    return PrivateRecords(
        [
            Record(f"r{i}", text, "", owner)
            for i, (text, owner) in enumerate(zip(texts, owners, strict=True))
        ],
        b"k" * 16,
    )


def rows(*texts: str) -> list[SyntheticRow]:
    return [SyntheticRow(f"s{i}", text, ("",), chosen=0) for i, text in enumerate(texts)]


def nothing(_rows: Sequence[SyntheticRow], _iteration: int) -> list[SyntheticRow]:
    return []


@pytest.fixture
def ledger(tmp_path: Path) -> PrivacyLedger:
    return PrivacyLedger(tmp_path / "ledger.jsonl")


def test_a_record_votes_for_the_nearest_text(ledger: PrivacyLedger) -> None:
    private = records("aaa", "aab", "ccc", "hhh")
    found = evolve(
        private, rows("aa", "cc", "ff", "hhhhh"), embed=embed, vary=nothing, sigma=EXACT,
        iterations=1, keep=3, ledger=ledger,
    )  # fmt: skip
    assert found.rows[0].id == "s0"
    assert {row.id for row in found.rows} == {"s0", "s1", "s3"}
    assert [row.reward for row in found.rows] == pytest.approx([2, 1, 1], abs=1e-2)


def test_votes_are_those_of_brute_force() -> None:
    generator = np.random.default_rng(0)
    private, population = generator.normal(size=(40, 5)), generator.normal(size=(7, 5))
    found = aug_pe._votes(
        private, aug_pe.privacy_units(records(*[f"x{i}" for i in range(40)])), population
    )
    nearest = [
        min(range(7), key=lambda j: float(np.linalg.norm(one - population[j]))) for one in private
    ]
    assert found.tolist() == np.bincount(nearest, minlength=7).tolist()


def test_a_person_has_one_vote_however_many_records(ledger: PrivacyLedger) -> None:
    private = records("aaa", "aaa b", "ccc", "ccc d", "e", groups=["p", "p", "p", "q"])
    found = evolve(
        private, rows("aaa", "ccc", "e"), embed=embed, vary=nothing, sigma=EXACT, iterations=1,
        keep=3, unit="group", ledger=ledger,
    )  # fmt: skip
    votes = {row.id: row.reward for row in found.rows}
    assert votes == pytest.approx({"s0": 2 / 3, "s1": 1 / 3 + 1, "s2": 1}, abs=1e-2)


def test_without_one_unit_the_histogram_moves_by_at_most_one() -> None:
    generator = np.random.default_rng(1)
    texts = ["".join(generator.choice(list("abcdefgh"), 5)) for _ in range(30)]
    owners = [f"p{i % 7}" for i in range(30)]
    population = embed(["".join(generator.choice(list("abcdefgh"), 5)) for _ in range(9)]).astype(
        float
    )

    def votes(kept: list[int]) -> NDArray[np.float64]:
        units = aug_pe.privacy_units(
            records(*[texts[i] for i in kept], groups=[owners[i] for i in kept]),
            "group",
            per_group=30,
        )
        members = [record for each in units.units for record in each.records]
        vectors = embed([record.instruction for record in members]).astype(float)
        return aug_pe._votes(vectors, units, population)

    everyone = votes(list(range(30)))
    assert everyone.sum() == pytest.approx(7)
    for person in range(7):
        moved = everyone - votes([i for i in range(30) if i % 7 != person])
        assert np.linalg.norm(moved) <= 1 + 1e-9


def test_the_noise_has_the_stated_size(ledger: PrivacyLedger) -> None:
    population = rows(*[f"text {i}" for i in range(400)])
    found = evolve(
        records("a"), population, embed=lambda texts: np.zeros((len(texts), 1), np.float32),
        vary=nothing, sigma=5.0, iterations=1, keep=400, threshold=-100.0, ledger=ledger,
    )  # fmt: skip
    noise = np.array([row.reward - 100 for row in found.rows])
    assert abs(noise.mean()) < 4 * 5 / 20
    assert noise.std() == pytest.approx(5, rel=0.15)
    again = evolve(
        records("a"), population, embed=lambda texts: np.zeros((len(texts), 1), np.float32),
        vary=nothing, sigma=5.0, iterations=1, keep=400, threshold=-100.0, ledger=ledger,
    )  # fmt: skip
    assert [row.reward for row in again.rows] != [row.reward for row in found.rows]


def test_every_iteration_costs_and_the_elected_are_varied(ledger: PrivacyLedger) -> None:
    seen: list[tuple[list[str], int]] = []

    def vary(elected: Sequence[SyntheticRow], iteration: int) -> list[SyntheticRow]:
        seen.append(([row.id for row in elected], iteration))
        return [
            SyntheticRow(
                f"{row.id}/{iteration}", row.question + "a", ("",), chosen=0, parent=row.id
            )
            for row in elected
        ]

    private = records("aaaaaaaa", "aaaaaaaa ")
    found = evolve(
        private, rows("a", "b", "c"), embed=embed, vary=vary, sigma=EXACT, iterations=3, keep=1,
        ledger=ledger,
    )  # fmt: skip
    assert seen == [(["s0"], 0), (["s0/0"], 1)]
    assert [row.question for row in found.rows] == ["aaa"]
    assert found.release == Release(EXACT, 1.0, 3)
    (entry,) = ledger.rows(private.fingerprint)
    assert (entry.release, entry.settled) == (found.release, True)


def test_the_cost_is_in_the_ledger_before_a_record_is_read(tmp_path: Path) -> None:
    private = records("a", "b")
    ledger = PrivacyLedger(tmp_path / "ledger.jsonl", budget=(3.0, 1e-5))

    def broken(texts: Sequence[str]) -> NDArray[np.float32]:
        raise KeyboardInterrupt

    def go(embedding: aug_pe.Embed, sigma: float) -> None:
        evolve(
            private, rows("a"), embed=embedding, vary=nothing, sigma=sigma, iterations=2, keep=1,
            ledger=ledger,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        go(broken, 4.0)
    assert [row.release for row in ledger.rows(private.fingerprint)] == [Release(4.0, 1.0, 2)]
    go(embed, 4.0)  # a run of its own, not the old one again
    assert len(ledger.rows(private.fingerprint)) == 2
    assert ledger.epsilon(private.fingerprint, 1e-5) == pytest.approx(
        epsilon([Release(4.0, 1.0, 4)], 1e-5), rel=1e-3
    )
    with pytest.raises(BudgetSpent):
        go(broken, 0.5)


def test_a_threshold_takes_votes_away(ledger: PrivacyLedger) -> None:
    found = evolve(
        records("aaa", "aa", "b"), rows("aaa", "b"), embed=embed, vary=nothing, sigma=EXACT,
        iterations=1, keep=2, threshold=1.5, ledger=ledger,
    )  # fmt: skip
    assert [row.reward for row in found.rows] == pytest.approx([0.5, 0], abs=1e-2)


def test_rows_without_votes_are_elected_by_chance(ledger: PrivacyLedger) -> None:
    population = rows(*["b"] * 8)
    kept = set()
    for seed in range(8):
        found = evolve(
            records("a"), population, embed=embed, vary=nothing, sigma=EXACT, iterations=1, keep=2,
            threshold=5.0, ledger=ledger, seed=seed,
        )  # fmt: skip
        kept |= {row.id for row in found.rows}
    assert len(kept) > 3


def test_what_is_not_admissible_is_refused_and_costs_nothing(ledger: PrivacyLedger) -> None:
    private = records("a")

    def go(**changed: object) -> None:
        given: dict[str, object] = {
            "embed": embed, "vary": nothing, "sigma": 1.0, "iterations": 1, "keep": 1,
            "ledger": ledger, "records": private, "population": rows("a"),
        }  # fmt: skip
        evolve(**{**given, **changed})  # type: ignore[arg-type]

    with pytest.raises(InvalidRecords, match="PublicRecords"):
        go(records=PublicRecords([Record("a", "b", "c")]))
    for name, value in (("sigma", 0.0), ("sigma", -1.0), ("iterations", 0), ("keep", 0)):
        with pytest.raises(InvalidSetting, match=name):
            go(**{name: value})
    with pytest.raises(InvalidRows, match="no rows"):
        go(population=[])
    with pytest.raises(InvalidRows, match="'x'"):
        go(population=[SyntheticRow("x", "?", ("a",))])
    assert ledger.rows(private.fingerprint) == []
    with pytest.raises(NotFinite):
        go(embed=lambda texts: np.full((len(texts), 2), np.nan))
    with pytest.raises(InvalidSetting, match="shape"):
        go(embed=lambda texts: np.zeros((1, len(texts), 2)))


class Parrot:
    """A backend that repeats what it was shown, and cannot end what has a "z" in it."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def generate(
        self, prompts: Sequence[Prompt], n: int = 1, drawing: Drawing = DRAWING
    ) -> list[tuple[Completion, ...]]:
        self.keys += [prompt.key for prompt in prompts]
        found = []
        for prompt in prompts:
            said = prompt.turns[-1]["content"]
            finish = "length" if "z" in said else "stop"
            found.append(tuple(Completion(f"{said} {k} ", finish) for k in range(n)))
        return found  # type: ignore[return-value]


def test_a_model_varies_question_and_answer() -> None:
    parrot = Parrot()
    vary = BackendVariation(parrot, Prompts("Say.", "Ask.", "Judge."), each=2)
    found = vary(rows("one", "zero"), 3)
    assert [row.id for row in found] == ["s0/3.0", "s0/3.1"]
    assert [row.parent for row in found] == ["s0", "s0"]
    assert found[0].question == "Ask.\nExample: one 0"
    assert found[0].answer == "Ask.\nExample: one 0 0"
    assert len(set(parrot.keys)) == len(parrot.keys) == 4
    with pytest.raises(InvalidSetting, match="temperature 0"):
        BackendVariation(parrot, Prompts(), drawing=Drawing(temperature=0))
    with pytest.raises(InvalidSetting, match="each"):
        BackendVariation(parrot, Prompts(), each=0)
