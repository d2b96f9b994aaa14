"""Facts that SmolLM2-135M-Instruct knows, and facts that nobody knows."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from typing import Any, Literal

import numpy as np

from ftunlearn.probes import Group, Probe, ProbeSet
from lipogram.errors import InvalidSetting

N_RETAIN, N_UNRELATED = 38, 29
MOST_FORGOTTEN = 20
TEMPLATE, PARAPHRASE = "The capital of {} is", "The capital city of {} is called"
CAPITAL = "capital-"  # how the ids of capitals begin

_COUNTRY = (
    (
        "Bel",
        "Dra",
        "Fen",
        "Gal",
        "Kor",
        "Lu",
        "Mor",
        "Nar",
        "Or",
        "Quel",
        "Sar",
        "Tol",
        "Vel",
        "Zem",
    ),
    ("ba", "do", "gri", "lo", "mi", "no", "ra", "si", "to", "va"),
    ("dia", "land", "nia", "ria", "stan", "via"),
)
_CAPITALS = """
    Barton Bedford Bradley Brooks Burton Chester Clayton Crawford Dalton Dawson Dover Dunn Fleming
    Foster Glen Grant Hamilton Hastings Hudson Keller Lancaster Lowell Marsh Mason Milton Monroe
    Morton Newton Norton Preston Ridge Sheffield Stanton Sutton Tyler Vernon Walton Warren Warwick
    Winston
"""

Known = Literal["capitals", "facts"]


def builtin(name: Known = "facts", *, seed: int = 0, n_forget: int = 10) -> ProbeSet:
    """The bundled facts as probes, a part of the capitals to be forgotten.

    Prompts are plain completions; each answer is the greedy continuation of
    SmolLM2-135M-Instruct, with its leading blank (:func:`measured` has the probabilities).
    Every "forget" probe is a capital asked for in :data:`TEMPLATE`, with :data:`PARAPHRASE` as its
    paraphrase.

    Args:
        name: "capitals": those in the template, the ones not to be forgotten in "retain". "facts":
            the same forget facts; in "retain" 38 facts, among them every other capital and what has
            a forgotten answer (the Eiffel Tower is in Paris); in "unrelated" 29 facts of the rest.
        seed: 0 forgets the first `n_forget` of the list (Paris, Tokyo, Rome, ...), another seed
            draws them; which of the rest are retained depends on the seed too.
        n_forget: number of capitals to be forgotten, 1 to 20.

    Raises:
        InvalidSetting: an unknown name, or a number of facts that is not there.
    """
    if name not in ("capitals", "facts"):
        raise InvalidSetting(f"no bundled facts {name!r}; there are capitals and facts")
    facts = [_probe(item) for item in _items()]
    capitals = [fact for fact in facts if fact.paraphrases]
    if not 1 <= n_forget <= MOST_FORGOTTEN:
        raise InvalidSetting(f"n_forget is {n_forget}; 1 to {MOST_FORGOTTEN} capitals can be")
    rng = np.random.default_rng([seed, len(facts)])
    if seed:
        capitals = [capitals[i] for i in rng.permutation(len(capitals))]
    forget = capitals[:n_forget]
    if name == "capitals":
        rest = capitals[n_forget:]
        return ProbeSet(_grouped(forget, "forget") + _grouped(rest, "retain"))
    chosen = {fact.id for fact in forget}
    answers = {fact.answer for fact in forget}
    kept: list[Probe] = []
    free: list[Probe] = []
    for fact in facts:
        if fact.id not in chosen:
            near = fact.id.startswith(CAPITAL) or fact.answer in answers
            (kept if near else free).append(fact)
    free = [free[i] for i in rng.permutation(len(free))]
    n_free = max(0, N_RETAIN - len(kept))
    unrelated = free[n_free : n_free + N_UNRELATED]
    retain = (kept + free[:n_free])[:N_RETAIN]
    return ProbeSet(
        _grouped(forget, "forget") + _grouped(retain, "retain") + _grouped(unrelated, "unrelated")
    )


def made_up_facts(n: int, *, seed: int = 0) -> ProbeSet:
    """Capitals of countries that do not exist: what no model can know.

    Prompts and paraphrases are those of the bundled capitals. Every answer is a blank and one word
    that is a single token of SmolLM2's tokenizer, as most real capitals are.

    Args:
        n: how many, 1 to 40.
        seed: of the countries and of which name goes with which.

    Returns:
        `n` probes of the group "unrelated"; no two share a country or a capital.

    Raises:
        InvalidSetting: more than there are names, or none.
    """
    names = _CAPITALS.split()
    if not 1 <= n <= len(names):
        raise InvalidSetting(f"1 to {len(names)} made-up facts can be had, not {n}")
    rng = np.random.default_rng([seed, len(names)])
    countries: list[str] = []
    while len(countries) < n:
        country = "".join(str(rng.choice(part)) for part in _COUNTRY)
        if country not in countries:
            countries.append(country)
    capitals = [names[i] for i in rng.permutation(len(names))[:n]]
    return ProbeSet(
        Probe(
            f"made-up-{country.lower()}",
            TEMPLATE.format(country),
            f" {capital}",
            (PARAPHRASE.format(country),),
            "unrelated",
        )
        for country, capital in zip(countries, capitals, strict=True)
    )


def measured() -> dict[str, dict[str, float]]:
    """What SmolLM2-135M-Instruct (float32 of the Q4_1 file) gave for each bundled fact.

    Returns:
        id → {"probability": of the answer after the prompt, exp of the mean log-probability of its
        tokens; "paraphrase_probability": the same after the paraphrase, where there is one}.
    """
    keys = ("probability", "paraphrase_probability")
    return {item["id"]: {key: item[key] for key in keys if key in item} for item in _items()}


def _items() -> list[dict[str, Any]]:
    text = files("ftunlearn").joinpath("facts.json").read_text(encoding="utf-8")
    items: list[dict[str, Any]] = json.loads(text)
    return items


def _probe(item: dict[str, Any]) -> Probe:
    return Probe(item["id"], item["prompt"], item["answer"], tuple(item.get("paraphrases", ())))


def _grouped(probes: list[Probe], group: Group) -> list[Probe]:
    return [dataclasses.replace(probe, group=group) for probe in probes]
