"""The demonstration: ten facts out of a real language model, and whether they are gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftunlearn.dissect_config import DissectConfig
from ftunlearn.dissection import dissect
from ftunlearn.facts import builtin
from ftunlearn.pair import ModelPair
from ftunlearn.relearning import RelearnConfig
from ftunlearn.unlearn_config import UnlearnConfig
from ftunlearn.unlearning import unlearn
from lipogram.llm.loaded import LoadedModel
from lipogram.llm.loading import load_model
from lipogram.runs import Run

MODEL = "smollm2"
N_NEW_TOKENS = 20
STEPS = (1, 2, 4)


def run_demo(
    folder: Path, *, seed: int = 0, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Unlearn ten capitals in SmolLM2-135M by gradient difference, then dissect the result.

    The unlearned model is kept in the folder; started again after an interruption, the run goes on.

    Args:
        folder: of the run: report.html, its figures and data, and summary.json.
        seed: another seed forgets other facts.
        progress: told what is being worked on.

    Returns:
        The summary; its "headline" maps the names of the few figures that matter to their values.

    Raises:
        ModelNotFound: SmolLM2 is not on this machine and cannot be fetched.
        RunMismatch: `folder` holds a run with other settings.
    """
    probes = builtin("facts", seed=seed)
    progress("loading SmolLM2-135M-Instruct")
    vanilla = load_model(MODEL, dtype="float32", trainable=True)
    unlearned = _unlearned(vanilla, folder / "unlearned", seed, progress)
    pair = ModelPair.load(vanilla, unlearned)
    progress("dissecting")
    config = DissectConfig(
        n_new_tokens=N_NEW_TOKENS, seed=seed, relearn=RelearnConfig(steps=STEPS, seed=seed)
    )
    report = dissect(pair, probes, config, out=folder)
    summary = {"headline": headline(report.content)}
    Run.open(folder).summary(summary)
    return summary


def headline(content: dict[str, Any]) -> dict[str, Any]:
    """The figures that a reader wants first, from a report's content."""
    best = {
        curve["component"]: max(curve["mean"]["krs"])
        for curve in content["curves"]
        if curve["protocol"] == "aligned"
    }
    before, after = (content["baseline"][name]["probability"] for name in ("vanilla", "unlearned"))
    numbers = content["verdict"]["numbers"]
    return {
        "verdict": content["verdict"]["label"],
        "answer probability, vanilla": before,
        "answer probability, unlearned": after,
        "KRS, coefficients and attention, best window": best["coef+attn"],
        "KRS, value vectors, best window": best["values"],
        "relearning gain on facts never shown": numbers["gain"]["value"],
        "reverse-patch depth": numbers["depth"]["value"],
    }


def _unlearned(
    vanilla: LoadedModel, folder: Path, seed: int, progress: Callable[[str], None]
) -> LoadedModel:
    """The unlearned model: what the folder holds, else trained and put there."""
    if not (folder / "unlearning.json").exists():
        progress("unlearning ten facts")
        probes = builtin("facts", seed=seed)
        config = UnlearnConfig.preset("smollm2-facts", seed=seed)
        done = unlearn(vanilla, None, probes.group("forget"), probes.group("retain"), config)
        done.save(folder)
    return load_model(str(folder), dtype="float32", tokenizer=vanilla.tokenizer)
