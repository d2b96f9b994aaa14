"""Private evolution without training: records vote for the synthetic texts that are like them.

After Aug-PE (Xie et al. 2024, arXiv 2403.01749): a public model writes texts, a noisy histogram
says which of them private records are nearest to, and the model varies those. It is a baseline:
nothing is trained under privacy, so it runs at the client, with a model that has read no record.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from lipogram.analytic.settings import positive, whole
from lipogram.errors import InvalidSetting, NotFinite
from lipogram.llm.seeds import rng
from lipogram.secure_noise import add_gaussian
from rewardds.backends import Backend, Drawing, Prompt
from rewardds.errors import InvalidRecords, InvalidRows
from rewardds.ledger import PrivacyLedger
from rewardds.privacy_loss import Release
from rewardds.privacy_units import UnitKind, Units, privacy_units
from rewardds.prompts import Prompts
from rewardds.records import PrivateRecords
from rewardds.synthetic import SyntheticRow, check_ids

Embed = Callable[[Sequence[str]], "NDArray[np.float32]"]
"""(n, d) vectors of n texts, each of its text alone; public, as is the model in it."""
Vary = Callable[[Sequence[SyntheticRow], int], Sequence[SyntheticRow]]
"""From rows and the number of the iteration to variations of them, ranked, with new ids; it may
give fewer."""


@dataclass(frozen=True)
class Evolution:
    """What private evolution made.

    Attributes:
        rows: the last population; `rewards` are their noisy votes in the last iteration.
        release: what it cost, to be accounted with everything else on the records.
    """

    rows: list[SyntheticRow]
    release: Release


def evolve(
    records: PrivateRecords,
    population: Sequence[SyntheticRow],
    *,
    embed: Embed,
    vary: Vary,
    sigma: float,
    iterations: int,
    keep: int,
    unit: UnitKind = "record",
    threshold: float = 0.0,
    ledger: PrivacyLedger | None = None,
    run: str = "aug-pe",
    seed: int = 0,
) -> Evolution:
    """Let private records vote `iterations` times, and vary the elected in between.

    A vote goes to the nearest text by Euclidean distance. Each unit has one vote in all, shared by
    its records, so histograms with and without a unit are at most 1 apart in L2, and each iteration
    is a Gaussian mechanism of noise multiplier `sigma` that reads every record.

    Args:
        records: the private set.
        population: ranked rows, each with its answer chosen, from public sources.
        embed: vectors of "question, line end, answer".
        vary: makes variations of the elected; what it is given is private no more.
        sigma: standard deviation of the noise on each count.
        iterations: how often the records are read.
        keep: rows that are elected: those with the most votes.
        unit: who has a vote, a "record" or a "group".
        threshold: H, taken from noisy votes before they are cut off at 0; rows without votes are
            elected by chance, after those with some.
        ledger: of all that was ever spent on the records; None for the user's own.
        run: how its name in the ledger begins; each call is a run of its own.
        seed: of the chances. The noise comes from the system's secure source.

    Raises:
        InvalidRecords: records that are not private by their type.
        InvalidSetting: sigma not above 0, fewer than one iteration or row to keep.
        InvalidRows: no population, an id twice, or a row without a chosen answer.
        NotFinite: a vector with a NaN or an infinity.
        BudgetSpent: the ledger does not allow it; no record was read.
    """
    if not isinstance(records, PrivateRecords):
        raise InvalidRecords(
            f"a {type(records).__name__} is no private set: read_records(..., private=True)"
        )
    positive("sigma", sigma)
    whole("iterations", iterations)
    whole("keep", keep)
    rows = _checked(population)
    units = privacy_units(records, unit)
    release = Release(sigma, 1.0, iterations)
    spent = PrivacyLedger() if ledger is None else ledger
    run = f"{run} {uuid.uuid4().hex[:12]}"  # one that failed is not gone on with: it counts
    spent.begin(records.fingerprint, run, release)
    members = [record for each in units.units for record in each.records]
    private = _vectors(embed, [f"{one.instruction}\n{one.response}" for one in members])
    for iteration in range(iterations):
        votes = _votes(private, units, _vectors(embed, [_text(row) for row in rows]))
        (noisy,) = add_gaussian([torch.from_numpy(votes)], sigma, 1.0)
        counts = np.maximum(noisy.numpy() - threshold, 0.0)
        chance = torch.rand(len(rows), generator=rng(f"evolution {iteration}", seed)).numpy()
        order = np.lexsort((chance, -counts))[:keep]
        elected = [
            replace(rows[i], rewards=(float(counts[i]),) * len(rows[i].candidates)) for i in order
        ]
        rows = elected
        if iteration + 1 < iterations:
            rows = _checked([*elected, *vary(elected, iteration)])
    spent.settle(records.fingerprint, run, iterations)
    return Evolution(rows, release)


class BackendVariation:
    """Variations by a public model: a new question like the old one, and its answer.

    Args:
        backend: with the model.
        prompts: of which both tasks' turns are asked.
        each: variations of a row.
        drawing: how, of questions and answers alike; None for 256 tokens at temperature 1.
    """

    def __init__(
        self,
        backend: Backend,
        prompts: Prompts,
        *,
        each: int = 1,
        drawing: Drawing | None = None,
    ):
        whole("each", each)
        drawing = Drawing(max_new_tokens=256) if drawing is None else drawing
        if drawing.temperature == 0:
            raise InvalidSetting("at temperature 0 all variations are one: it must be above 0")
        self._backend, self._prompts = backend, prompts
        self._each, self._drawing = each, drawing

    def __call__(self, rows: Sequence[SyntheticRow], iteration: int) -> list[SyntheticRow]:
        """Those whose question and answer ended by themselves and are not empty."""
        asked = [
            Prompt(f"vary {iteration} {row.id}", self._prompts.question_turns(None, [row.question]))
            for row in rows
        ]
        found = self._backend.generate(asked, self._each, self._drawing)
        drafts = [
            (f"{row.id}/{iteration}.{k}", row.id, one.text.strip())
            for row, drawn in zip(rows, found, strict=True)
            for k, one in enumerate(drawn)
            if one.ended and one.text.strip()
        ]
        answers = self._backend.generate(
            [
                Prompt(f"answer {name}", self._prompts.answer_turns(question))
                for name, _, question in drafts
            ],
            1,
            self._drawing,
        )
        return [
            SyntheticRow(name, question, (one.text.strip(),), chosen=0, parent=parent)
            for (name, parent, question), (one,) in zip(drafts, answers, strict=True)
            if one.ended and one.text.strip()
        ]


def _checked(rows: Sequence[SyntheticRow]) -> list[SyntheticRow]:
    if not rows:
        raise InvalidRows("the population has no rows: nothing can be voted for")
    check_ids(rows)
    for row in rows:
        _ = row.answer  # raises where none is chosen
    return list(rows)


def _text(row: SyntheticRow) -> str:
    return f"{row.question}\n{row.answer}"


def _vectors(embed: Embed, texts: list[str]) -> NDArray[np.float64]:
    vectors = np.asarray(embed(texts), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise InvalidSetting(f"embed gave shape {vectors.shape} for {len(texts)} texts")
    if not np.isfinite(vectors).all():
        raise NotFinite("embed gave a vector with a NaN or an infinity")
    return vectors


def _votes(
    private: NDArray[np.float64], units: Units, population: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(m,) votes for m texts: each unit's shares sum to 1."""
    votes = np.zeros(len(population))
    half = (population**2).sum(1) / 2
    start = 0
    for each in units.units:
        stop = start + len(each.records)
        nearest = (private[start:stop] @ population.T - half).argmax(1)
        np.add.at(votes, nearest, 1 / (stop - start))
        start = stop
    return votes
