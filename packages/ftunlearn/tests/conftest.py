"""Findings of a made-up dissection, and small models on disk that know eight facts."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from lipogram.llm.text import encode, pad, pad_id
from lipogram.llm.tiny import tiny_random

COMPONENTS = {
    "coef": (0.80, 0.22, 0.62),
    "attn": (0.82, 0.06, 0.50),
    "coef+attn": (0.95, 0.37, 0.66),
    "values": (0.16, 0.01, 0.22),
    "keys": (0.36, 0.02, 0.33),
    "attn_weights": (0.30, 0.01, 0.31),
}
LOSSES = ("krs", "krs_centered", "krs_kl")


def curves(n_layers: int, scale: float = 1.0) -> list[dict[str, Any]]:
    layers = np.arange(n_layers)
    made = []
    for name, (krs, prob, start) in COMPONENTS.items():
        bump = np.exp(-(((layers - 0.7 * n_layers) / (0.22 * n_layers)) ** 2))
        shapes = {score: start + (krs - start) * bump for score in LOSSES}
        shapes |= {"prob": prob * bump**2, "first_token": prob * bump, "greedy": bump > 0.8}
        if name == "values":
            shapes["krs"] = np.where(layers > 0.85 * n_layers, -0.35, shapes["krs"] * scale)
        for protocol in ("aligned", "paper"):
            scores = shapes if protocol == "aligned" else {s: shapes[s] for s in LOSSES}
            held = {s: (np.asarray(v, float) * scale).tolist() for s, v in scores.items()}
            if name == "attn":
                held["krs"][1] = math.nan
            made.append(
                {
                    "component": name,
                    "protocol": protocol,
                    "window": 5,
                    "layers": layers.tolist(),
                    "mean": held,
                    "ratio_of_sums": {s: held[s] for s in LOSSES},
                    "n": {s: [10] * n_layers for s in scores},
                }
            )
    return made


def make_findings(n_layers: int = 30, *, reference: bool = True) -> dict[str, Any]:
    layers = np.arange(n_layers)
    s2 = 6.7 / (1 + np.exp(-(layers - 0.5 * n_layers) / (0.08 * n_layers)))
    s1 = 8.9 / (1 + np.exp(-(layers - 0.75 * n_layers) / (0.04 * n_layers)))
    prints = {group: f"{i:064x}" for i, group in enumerate(("config", "values", "keys"))}
    pair = {
        role: {"spec": f"models/{role}", "fingerprint": prints} for role in ("vanilla", "unlearned")
    }
    if reference:
        pair["reference"] = {"spec": "models/never-knew", "fingerprint": prints}
    probe = {"group": "forget", "n_answer": 1, "p_unlearned": 0.002, "excluded": None}
    probes = [
        {**probe, "id": f"capital-{i}", "prompt": f"The capital of Land {i} is",
         "answer": f" Town{i}", "p_vanilla": 0.5 + 0.01 * i}
        for i in range(10)
    ]  # fmt: skip
    probes[3] |= {"excluded": "the vanilla model does not know it (p = 0.01)", "p_vanilla": 0.01}
    return {
        "schema": 1,
        "created": "2026-01-01T00:00:00+00:00",
        "environment": {"versions": {"python": "3.11", "torch": None}},
        "pair": pair,
        "settings": {"components": list(COMPONENTS), "window": 5, "stride": 1, "seed": 0},
        "layers": n_layers,
        "probes": probes,
        "problems": ["probes.jsonl, line 12: empty prompt"],
        "baseline": {
            "vanilla": {"probability": 0.544, "first_token": 0.544, "greedy": 1.0},
            "unlearned": {"probability": 0.002, "first_token": 0.002, "greedy": 0.0},
        },
        "curves": curves(n_layers),
        "whole": [
            {"component": "nothing", "mean": {"krs": 0.0, "prob": 0.0}},
            {"component": "coef+attn", "mean": {"krs": 1.0, "prob": 0.952}},
            {"component": "values", "mean": {"krs": 0.5, "prob": math.nan}},
            {"component": "all", "mean": {"krs": 1.0, "prob": 1.0}},
        ],
        "calibration": curves(n_layers, 0.8) if reference else None,
        "reverse": {
            "source": "reference" if reference else "surrogate",
            "layers": layers.tolist(),
            "s1": s1.tolist(),
            "s2": s2.tolist(),
            "depth": 0.71,
            "knowledge_layers": [int(layer) for layer in layers if s1[layer] > 0.05],
            "unrelated": {"s1": s1.tolist(), "s2": (s2 / 50).tolist(), "depth": 0.02},
        },
        "relearn": {
            "steps": [1, 2, 4, 8],
            "k": 4,
            "facts": 10,
            "start": 0.002,
            "vanilla": 0.544,
            "shown": [0.02, 0.2, 0.65, 0.93],
            "held_out": [0.008, 0.09, 0.385, 0.47],
            "control": [0.002, 0.002, 0.003, 0.004],
            "made_up": [0.0, 0.001, 0.004, 0.011],
            "made_up_start": 0.0,
            "gain": 0.71,
        },
        "attacks": {"logit_lens": {"vanilla": [0.1, 0.5], "unlearned": [0.0, 0.1]}},
        "side_effects": {
            "behaviour": {
                group: {
                    "probability_vanilla": {"value": 0.58, "low": 0.5, "high": 0.66},
                    "probability_unlearned": {"value": low + 0.08, "low": low, "high": low + 0.2},
                }
                for group, low in (("forget", 0.0), ("retain", 0.5), ("unrelated", 0.6))
            },
            "perplexity": {"vanilla": 18.2, "unlearned": 19.9},
        },
        "verdict": {
            "label": "suppressed",
            "numbers": {
                "forgetting": {"value": 0.996, "low": 0.994, "high": 0.998},
                "gain": {"value": 0.71, "low": 0.55, "high": 0.84},
                "depth": {"value": 0.71, "low": 0.66, "high": 0.77},
            },
            "ran": ["forgetting", "gain", "depth"],
            "thresholds": {
                "forgotten": 0.5, "gain": 0.2, "shallow": 0.4, "no_gain": 0.05, "deep": 0.8,
            },
            "sentence": "Suppressed: the answers lost 100% of their probability, but come back.",
        },
        "skipped": {"side effects": "they were not asked for"},
    }  # fmt: skip


def make_rows(findings: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Score rows of two probes: their mean is the curve's, and one of them is undefined once."""
    rows = []
    for curve in findings["curves"]:
        for score, values in curve["mean"].items():
            for layer, value in zip(curve["layers"], values, strict=True):
                for probe, shift in (("capital-0", 0.1), ("capital-1", -0.1)):
                    name = curve["component"], curve["protocol"]
                    rows.append((probe, *name, layer, score, value + shift))
    rows.append(("capital-0", "all", "aligned", None, "krs", 1.0))
    return rows


@pytest.fixture(scope="session", name="make_findings")
def _make_findings() -> Callable[..., dict[str, Any]]:
    return make_findings


@pytest.fixture(scope="session", name="make_rows")
def _make_rows() -> Callable[..., list[tuple[Any, ...]]]:
    return make_rows


FACTS = [
    {"id": f"fact-{i}", "prompt": f"Land {letter}:", "answer": f" {letter * 2}", "group": group}
    for i, (letter, group) in enumerate(
        zip("abcdefgh", ["forget"] * 4 + ["retain"] * 2 + ["unrelated"] * 2, strict=True)
    )
]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A model that knows eight facts, one whose last block hides them, and their probes."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "facts.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in FACTS))
    loaded = tiny_random("llama", layers=2, width=32, seed=0)
    model, tokenizer = loaded.model, loaded.tokenizer
    rows = [encode(tokenizer, fact["prompt"], fact["answer"]) for fact in FACTS]
    batch = pad(rows, pad_id(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.requires_grad_(True).train()
    for _ in range(60):
        logits = model(**batch.inputs()).logits[batch.rows]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, batch.input_ids[batch.answer_mask]).backward()
        optimizer.step()
    hidden = copy.deepcopy(model)
    with torch.no_grad():
        hidden.model.layers[-1].mlp.down_proj.weight.mul_(-2)
        hidden.model.layers[-1].self_attn.o_proj.weight.mul_(-2)
    for name, part in (("vanilla", model), ("hidden-1", hidden), ("hidden-2", hidden)):
        part.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    other = tiny_random("llama", layers=3, width=32, seed=0)
    other.model.save_pretrained(folder / "deeper")
    other.tokenizer.save_pretrained(folder / "deeper")
    return folder


@dataclass
class TwoModels:
    """What a comparison needs of a pair of models, which may be equal."""

    vanilla: Any
    unlearned: Any
    tokenizer: Any

    @contextmanager
    def as_vanilla(self):
        yield self.vanilla


@pytest.fixture
def pair_of() -> type[TwoModels]:
    return TwoModels
