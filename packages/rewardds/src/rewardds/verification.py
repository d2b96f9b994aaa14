"""Does a bundle keep what it says? Recomputed from its files alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from lipogram.errors import CorruptState, MissingAsset
from rewardds.bundle import PRIVACY, read_bundle
from rewardds.errors import TamperedBundle
from rewardds.privacy_statement import INFINITE, PrivacyStatement

ROUNDED = 1e-4  # of ε, what another version of the accountant may differ by


@dataclass(frozen=True)
class VerifiedPrivacy:
    """A bundle's privacy, recomputed.

    Attributes:
        statement: the mechanisms, δ, n and the unit.
        claimed: ε as the bundle says it; infinite where it promises nothing.
    """

    statement: PrivacyStatement
    claimed: float

    @property
    def epsilon(self) -> float:
        """ε of all mechanisms together, computed from σ, sample rate and steps."""
        return self.statement.epsilon

    @property
    def delta(self) -> float:
        """δ of all together."""
        return self.statement.delta

    def sentence(self) -> str:
        """In words."""
        return self.statement.sentence()


def verify(folder: str | Path) -> VerifiedPrivacy:
    """Recompute a bundle's hashes and its ε.

    Whoever changes a file and its hash alike is found only where the claims contradict each other:
    a bundle that comes over a channel that is not trusted needs a signature beside it.

    Args:
        folder: the bundle.

    Raises:
        TamperedBundle: a file that is missing, not as it was written or does not belong there; an
            ε or words that do not follow from the mechanisms.
        MissingAsset: no such folder.
    """
    if not Path(folder).is_dir():
        raise MissingAsset(f"there is no bundle {folder}: `rewardds client fit` writes one")
    try:
        content = read_bundle(folder).privacy
        statement = PrivacyStatement.from_json(content)
    except CorruptState as error:
        raise TamperedBundle(f"{folder}: {error}") from error
    claimed = _number(content.get("epsilon"))
    if not claimed >= statement.epsilon * (1 - ROUNDED):  # NaN is not
        raise TamperedBundle(
            f"{Path(folder) / PRIVACY} claims ε {content.get('epsilon')!r}; its runs cost "
            f"{statement.epsilon:.6g} at δ {statement.delta:g} together"
        )
    same = math.isclose(claimed, statement.epsilon, rel_tol=ROUNDED)
    if same and content.get("statement") != statement.sentence():
        raise TamperedBundle(
            f"{Path(folder) / PRIVACY} says in words what does not follow from its numbers; it "
            f"would have to be: {statement.sentence()}"
        )
    return VerifiedPrivacy(statement, claimed)


def _number(value: object) -> float:
    if value == INFINITE:
        return math.inf
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if known else math.nan  # type: ignore[arg-type]
