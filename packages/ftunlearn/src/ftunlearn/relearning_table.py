"""The relearning attack by itself, as the command `ftunlearn relearn` shows it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ftunlearn.facts import made_up_facts
from ftunlearn.pair import ModelPair
from ftunlearn.probes import ProbeSet
from ftunlearn.relearning import RelearnConfig, control_facts, relearn_attack
from lipogram.report import Table
from lipogram.settings import plain


def attack(pair: ModelPair, probes: ProbeSet, config: RelearnConfig) -> dict[str, Any]:
    """Mean answer probabilities after the attack on a probe set's forgotten facts.

    Args:
        pair: the unlearned model is left as it is.
        probes: group "forget" is attacked, and :func:`~ftunlearn.relearning.control_facts` train
            the control; those without an answer are left out.
        config: how to train.

    Returns:
        JSON values: steps, and a list of probabilities for each arm; gain at step k.

    Raises:
        InvalidSetting: too few facts.
    """
    forget = [probe for probe in probes.group("forget") if probe.answer]
    known = control_facts(probes)
    made_up = made_up_facts(len(forget), seed=config.seed) if config.made_up else ()
    found = relearn_attack(pair, forget, known, config, made_up=made_up)
    arms = {
        arm: np.nanmean(getattr(found, arm), axis=1) for arm in ("shown", "held_out", "control")
    }
    if found.made_up is not None:
        arms["made_up"] = found.made_up
    figures = {
        "facts": len(found.ids),
        "vanilla": found.vanilla.mean(),
        "start": found.start.mean(),
        "steps": found.steps,
        **arms,
        "k": found.k,
        "gain": np.nanmean(found.gains),
    }
    values: dict[str, Any] = plain(figures, "relearning")
    return values


def table(found: dict[str, Any]) -> Table:
    """A row for each number of steps, the start and the vanilla model around them."""
    names = {"shown": "trained on", "held_out": "held out", "control": "control"}
    if "made_up" in found:
        names["made_up"] = "made up, held out"
    rows = [
        [f"{step} steps", *(found[arm][i] for arm in names)]
        for i, step in enumerate(found["steps"])
    ]
    for label, key in (("unlearned", "start"), ("vanilla", "vanilla")):
        rows.append([label, None, found[key], None, *([None] if "made_up" in found else [])])
    caption = f"Mean answer probability of {found['facts']} forgotten facts."
    return Table(columns=["", *names.values()], rows=rows, caption=caption)
