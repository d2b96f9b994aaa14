"""What `report.json` has to look like, and the check that a file does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

SCHEMA = 1

Check = Callable[[Any, str], Any]
"""Takes a JSON value and what a message calls it; returns it as the report holds it."""


class Misfit(ValueError):
    """A value that the table below does not allow; the message says where it is."""


def text(value: Any, at: str) -> str:
    """A string."""
    return _typed(value, str, "text", at)


def whole(value: Any, at: str) -> int:
    """A whole number >= 0."""
    if _typed(value, int, "a whole number", at) < 0:
        raise Misfit(f"{at} is {value}, it must be >= 0")
    return int(value)


def number(value: Any, at: str) -> float:
    """A number; null is NaN."""
    return float("nan") if value is None else float(_typed(value, (int, float), "a number", at))


def anything(value: Any, at: str) -> Any:
    """Any JSON value."""
    return value


def optional(check: Check) -> Check:
    """Null, or what `check` takes."""
    return lambda value, at: None if value is None else check(value, at)


def one_of(*allowed: object) -> Check:
    """One of some values."""

    def check(value: Any, at: str) -> Any:
        if value not in allowed:
            raise Misfit(f"{at} is {value!r}, it must be one of {', '.join(map(str, allowed))}")
        return value

    return check


def items(check: Check) -> Check:
    """A list, each item of which `check` takes."""
    return lambda value, at: [
        check(item, f"{at}[{i}]") for i, item in enumerate(_typed(value, list, "a list", at))
    ]


def mapping(check: Check) -> Check:
    """An object of any names, each value of which `check` takes."""
    return lambda value, at: {
        name: check(item, f"{at}.{name}")
        for name, item in _typed(value, dict, "an object", at).items()
    }


def record(**fields: Check) -> Check:
    """An object with these fields at least; others are left as they are."""

    def check(value: Any, at: str) -> dict[str, Any]:
        held = _typed(value, dict, "an object", at)
        if missing := [name for name in fields if name not in held]:
            raise Misfit(f"{at} lacks {missing[0]!r}")
        checked = {name: field(held[name], f"{at}.{name}") for name, field in fields.items()}
        return {**held, **checked}

    return check


def _typed(value: Any, kind: type | tuple[type, ...], name: str, at: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Misfit(f"{at} is {type(value).__name__} {str(value)[:40]!r}, it must be {name}")
    return value


_MODEL = record(spec=text, fingerprint=mapping(text))
_INTERVAL = record(value=number, low=number, high=number)
_CURVE = record(
    component=text,
    protocol=one_of("aligned", "paper"),
    window=whole,
    layers=items(whole),
    mean=mapping(items(number)),
    ratio_of_sums=mapping(items(number)),
    n=mapping(items(whole)),
)
REPORT = record(
    schema=one_of(SCHEMA),
    created=text,
    environment=mapping(anything),
    pair=mapping(_MODEL),
    settings=mapping(anything),
    layers=whole,
    probes=items(
        record(
            id=text,
            group=one_of("forget", "retain", "unrelated"),
            prompt=text,
            answer=optional(text),
            n_answer=whole,
            p_vanilla=number,
            p_unlearned=number,
            excluded=optional(text),
        )
    ),
    problems=items(text),
    baseline=record(vanilla=mapping(number), unlearned=mapping(number)),
    curves=items(_CURVE),
    whole=items(record(component=text, mean=mapping(number))),
    calibration=optional(items(_CURVE)),
    reverse=optional(
        record(
            source=one_of("reference", "surrogate"),
            layers=items(whole),
            s1=items(number),
            s2=items(number),
            depth=number,
            knowledge_layers=items(whole),
        )
    ),
    relearn=optional(
        record(
            steps=items(whole),
            k=whole,
            start=number,
            vanilla=number,
            shown=items(number),
            held_out=items(number),
            control=items(number),
            made_up=optional(items(number)),
            gain=number,
        )
    ),
    side_effects=optional(mapping(anything)),
    attacks=mapping(mapping(items(number))),
    verdict=record(
        label=one_of("not_forgotten", "suppressed", "no_trace_found", "inconclusive"),
        numbers=mapping(_INTERVAL),
        ran=items(text),
        thresholds=mapping(number),
        sentence=text,
    ),
    skipped=mapping(text),
)


def checked(content: Any) -> dict[str, Any]:
    """The content of a report, numbers that are null turned to NaN.

    Raises:
        Misfit: a key is missing, a value is of another kind, or lists differ in length.
    """
    if isinstance(content, Mapping) and content.get("schema") != SCHEMA:
        raise Misfit(f"schema is {content.get('schema')!r}, this version reads {SCHEMA}")
    report: dict[str, Any] = REPORT(content, "report")
    for role in ("vanilla", "unlearned"):
        if role not in report["pair"]:
            raise Misfit(f"report.pair lacks {role!r}")
    for name in ("curves", "calibration"):
        for i, curve in enumerate(report[name] or ()):
            at, centres = f"report.{name}[{i}]", curve["layers"]
            if any(layer >= report["layers"] for layer in centres):
                raise Misfit(f"{at}.layers names a layer beyond the {report['layers']} there are")
            for part in ("mean", "ratio_of_sums", "n"):
                _long(curve[part], len(centres), f"{at}.{part}")
    if (reverse := report["reverse"]) is not None:
        parts = {name: reverse[name] for name in ("s1", "s2")}
        _long(parts, len(reverse["layers"]), "report.reverse")
    if (relearn := report["relearn"]) is not None:
        names = ("shown", "held_out", "control", "made_up")
        parts = {name: relearn[name] for name in names if relearn[name] is not None}
        _long(parts, len(relearn["steps"]), "report.relearn")
    return report


def _long(lists: Mapping[str, list[Any]], length: int, at: str) -> None:
    for name, values in lists.items():
        if len(values) != length:
            raise Misfit(f"{at}.{name} has {len(values)} values, it must have {length}")
