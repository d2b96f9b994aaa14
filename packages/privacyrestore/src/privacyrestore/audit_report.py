"""What an audit found, with the guarantee that it was found under."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from privacyrestore.accounting import Spent
from privacyrestore.attribute_inference import AttributeInference
from privacyrestore.guarantee import Guarantee
from privacyrestore.recovery_scores import Interval, Recovery


@dataclass(frozen=True)
class AuditReport:
    """Span recovery under attack, for one bank and one mechanism.

    Attributes:
        bank: its SHA-256.
        n_spans, n_vectors: M and G.
        guarantee: metric ε, Δ and worst-case local ε of one release.
        spent: of a subject whose query is released once, as a client that keeps its releases does.
        queries: that had spans, and were attacked.
        without_spans: queries that had none; they are not scored.
        repeats: simulations of each query.
        recoveries: by attack.
        attribute: of the probes; None where they were not asked for.
        releases: R fresh releases of each query that `averaged` is about.
        averaged: by attack, for the mean of R releases: what a server without the clients' cache of
            releases could collect; empty for R = 1.
        averaged_spent: of a subject whose query is released R times.
    """

    bank: str
    n_spans: int
    n_vectors: int
    guarantee: Guarantee
    spent: Spent
    queries: int
    without_spans: int
    repeats: int
    recoveries: Mapping[str, Recovery]
    attribute: AttributeInference | None
    releases: int
    averaged: Mapping[str, Recovery]
    averaged_spent: Spent

    @property
    def strongest(self) -> str:
        """The attack of highest recall among those that guess as many spans as there are."""
        return strongest(self.recoveries)

    @property
    def recovery(self) -> Interval:
        """The span-recovery rate: recall of the strongest attack."""
        return self.recoveries[self.strongest].recall

    def sentence(self) -> str:
        """Guarantee, what is spent, and what was recovered."""
        found = self.recoveries[self.strongest]
        text = (
            f"{self.guarantee.sentence()} Spent per subject: {self.spent.sentence()}. Audit of "
            f"{self.queries} queries: the strongest attack ({self.strongest}) recovers "
            f"{found.recall} of the spans and {found.exact.value:.1%} of whole sets; guessing the "
            f"most frequent spans finds {found.chance['recall']:.1%}."
        )
        if self.attribute is not None:
            area = self.attribute.auc
            text += (
                f" Whether a given span is there is told with an area under the curve of "
                f"{area.value:.3f} ({area.low:.3f} to {area.high:.3f}; chance 0.500)."
            )
        if self.averaged:
            name = strongest(self.averaged)
            text += (
                f" Without a cache of releases, {self.releases} of them averaged would give "
                f"{self.averaged[name].recall} ({name}; {self.averaged_spent.sentence()})."
            )
        return text

    def as_json(self) -> dict[str, Any]:
        """As names and values that JSON has; names no span."""
        return {
            "bank": self.bank,
            "spans": self.n_spans,
            "vectors": self.n_vectors,
            "guarantee": self.guarantee.as_json(),
            "spent": _spent(self.spent),
            "queries": self.queries,
            "queries_without_spans": self.without_spans,
            "repeats": self.repeats,
            "strongest": self.strongest,
            "attacks": {name: asdict(found) for name, found in self.recoveries.items()},
            "attribute": asdict(self.attribute) if self.attribute else None,
            "releases": self.releases,
            "averaged": {name: asdict(found) for name, found in self.averaged.items()},
            "averaged_spent": _spent(self.averaged_spent),
        }

    def to_json(self) -> str:
        """:meth:`as_json` as text."""
        return json.dumps(self.as_json(), indent=2, allow_nan=False)


def strongest(recoveries: Mapping[str, Recovery]) -> str:
    """The name of the attack of highest recall; those that do not know the size come last."""
    return max(
        recoveries, key=lambda name: (not name.endswith("unknown"), recoveries[name].recall.value)
    )


def spoken(epsilon: float) -> float | str:
    """A worst case as JSON has it: the word where it is infinite."""
    return "infinite" if math.isinf(epsilon) else epsilon


def _spent(spent: Spent) -> dict[str, Any]:
    return {
        "releases": spent.releases,
        "worst_case_local_epsilon": spoken(spent.local_epsilon),
        "delta": spent.delta,
    }
