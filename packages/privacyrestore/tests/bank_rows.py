"""Rows, banks and a small model for the tests of training."""

import torch

from lipogram.llm import rng, tiny_random
from privacyrestore.restoration_bank import RestorationBank, identify
from privacyrestore.training_config import TrainConfig
from privacyrestore.training_rows import PromptTemplate, TrainingRow

SPANS = ("mild cough", "finding-07", "night sweats", "cold feet")
SITES = ((0, 1), (0, 3), (1, 0), (1, 2))
TEMPLATE = PromptTemplate("Q: {question}\nA:")


def small(model_type="llama", **settings):
    loaded = tiny_random(model_type, layers=2, **settings)
    return loaded.model, loaded.tokenizer


def a_bank(model, seed=0, rule="additive", gamma=0.5, spans=SPANS):
    vectors = torch.randn(len(spans), len(SITES), 8, generator=rng("bank", seed))
    return RestorationBank.build(vectors, SITES, spans, identify(model), rule=rule, gamma=gamma)


def some_rows(n=12):
    """Answers that depend on the spans alone, so that only the vectors can tell them."""
    answers = (" flu", " cold", " rest", " none")
    found = []
    for i in range(n):
        span = i % 4
        found.append(
            TrainingRow(
                f"case {i // 4}",
                (span,) if i % 3 else (span, (span + 1) % 4),
                answers[span],
                weights=None if i % 2 or not i % 3 else (0.7,),
                preferred=f"{answers[span]}, said {'so' * (i % 3)}",
                rejected=" who knows",
                options=answers,
            )
        )
    return found


def a_config(**settings):
    quick = {"template": TEMPLATE, "learning_rate": 3e-2, "epochs": 3, "save_every": 2}
    return TrainConfig(**quick | {"metric": "mc1"} | settings)
