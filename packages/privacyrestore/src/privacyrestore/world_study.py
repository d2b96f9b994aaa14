"""The generated world put through the whole method: a model, a bank, and what each signal does.

This is where the orderings that the method claims can be checked in minutes: nothing in it is
simulated but the world itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from lipogram.llm.loaded import LoadedModel
from privacyrestore.bank_training import train_bank
from privacyrestore.diagnosis_world import DIAGNOSES, Case, DiagnosisWorld, answered
from privacyrestore.restoration import restored
from privacyrestore.restoration_bank import RULES, RestorationBank, identify
from privacyrestore.training_config import TrainConfig
from privacyrestore.training_rows import TrainingRow

GAMMA = {"additive": 0.5, "quadratic": 20.0}
"""Strengths for the world's small model; nothing was tuned on them."""
MODEL_STEPS, BANK_ROWS, BANK_EPOCHS, BATCH = 300, 2000, 4, 32
TRAIN, TEST = 1, 2  # seeds of cases


@dataclass(frozen=True, eq=False)
class WorldStudy:
    """A world whose model is trained, and a bank for it.

    Attributes:
        world: the world.
        loaded: its model and tokenizer.
        untrained: the bank before training: random directions.
        bank: after it.
        cases: held out from both trainings.
    """

    world: DiagnosisWorld
    loaded: LoadedModel
    untrained: RestorationBank
    bank: RestorationBank
    cases: tuple[Case, ...]

    @classmethod
    def make(
        cls,
        seed: int = 0,
        *,
        rule: str = RULES[0],
        n_cases: int = 400,
        loaded: LoadedModel | None = None,
        folder: str | Path | None = None,
    ) -> WorldStudy:
        """Train model and bank; two minutes on one core.

        Args:
            seed: of world, model and bank.
            rule: of the bank.
            n_cases: held out for what is measured.
            loaded: a model that has learnt the world already.
            folder: where the bank's training keeps its checkpoint.
        """
        world = DiagnosisWorld(seed)
        loaded = loaded or world.train_model(seed=seed, steps=MODEL_STEPS)
        loaded.model.requires_grad_(False)
        untrained = random_bank(world, loaded, rule, seed)
        config = TrainConfig(
            objective="gold",
            detach=False,
            learning_rate=1e-2,
            epochs=BANK_EPOCHS,
            batch_size=BATCH,
            metric="loss",
            seed=seed,
        )
        rows = [
            TrainingRow(world.removed(case), world.span_ids(case), f" {case.answer}")
            for case in world.cases(BANK_ROWS, TRAIN)
        ]
        bank = train_bank(loaded.model, loaded.tokenizer, rows, untrained, config, folder=folder)
        return cls(world, loaded, untrained, bank, tuple(world.cases(n_cases, TEST)))

    @cached_property
    def questions(self) -> list[str]:
        """The cases' texts with all findings."""
        return [case.question for case in self.cases]

    @cached_property
    def removed(self) -> list[str]:
        """What a client sends of them."""
        return [self.world.removed(case) for case in self.cases]

    @cached_property
    def span_sets(self) -> list[tuple[int, ...]]:
        """The span types of each case."""
        return [self.world.span_ids(case) for case in self.cases]

    @cached_property
    def signals(self) -> Tensor:
        """ẑ of each case with equal weights, [cases, n] float64."""
        return torch.stack([self.bank.signal(ids) for ids in self.span_sets])

    def correct(
        self, texts: Sequence[str], meta: Tensor | None = None, bank: RestorationBank | None = None
    ) -> Tensor:
        """Whether the likeliest diagnosis is the case's, [cases] float.

        Args:
            texts: one a case.
            meta: [cases, n], or None for the plain model.
            bank: whose vectors they are; the trained one for None.
        """
        bank = bank or self.bank
        meta = torch.zeros(len(texts), bank.n) if meta is None else meta
        answers = [case.answer for case in self.cases]
        ids, mask, labels = answered(self.loaded.tokenizer, texts, answers)
        position = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad(), restored(self.loaded.model, bank, meta.float()):
            logits = self.loaded.model(
                input_ids=ids, attention_mask=mask, position_ids=position
            ).logits
        first = (labels != -100).int().argmax(1)
        options = self.loaded.tokenizer.convert_tokens_to_ids(list(DIAGNOSES))
        scores = logits[torch.arange(len(ids)), first - 1][:, options]
        return (scores.argmax(1) == torch.tensor([c.diagnosis for c in self.cases])).float()

    def restored(self, meta: Tensor) -> Tensor:
        """:meth:`correct` of the cleaned texts with a vector each."""
        return self.correct(self.removed, meta)

    def orderings(self) -> dict[str, Tensor]:
        """Right answers by what the model is given, [cases] each.

        "full": all findings; "removed": the cleaned text; "restored": with its own signal;
        "another's": with the next case's; "untrained": with its own of the untrained bank.
        """
        raw = torch.stack([self.untrained.signal(ids) for ids in self.span_sets])
        return {
            "full": self.correct(self.questions),
            "removed": self.correct(self.removed),
            "restored": self.restored(self.signals),
            "another's": self.restored(self.signals.roll(1, 0)),
            "untrained": self.correct(self.removed, raw, self.untrained),
        }


def random_bank(
    world: DiagnosisWorld, loaded: LoadedModel, rule: str, seed: int
) -> RestorationBank:
    """Random directions at all heads of the world's model."""
    identity = identify(loaded.model, f"diagnosis-world-{world.seed}")
    sites = [
        (layer, head) for layer in range(identity.n_layers) for head in range(identity.n_heads)
    ]
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(world.spans), len(sites), identity.head_dim, generator=draw)
    vectors /= vectors.flatten(1).norm(dim=1)[:, None, None]
    return RestorationBank.build(
        vectors,
        sites,
        world.vocabulary,
        identity,
        rule=rule,
        gamma=GAMMA[rule],
        statement=f"{BANK_ROWS} generated cases of world {world.seed}, no text of people",
    )


def gap_recovered(orderings: dict[str, Tensor], name: str) -> float:
    """The share of what removal loses that a way of asking gives back."""
    full, removed, given = (float(orderings[key].mean()) for key in ("full", "removed", name))
    return (given - removed) / (full - removed) if full > removed else float("nan")
