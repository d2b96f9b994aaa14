"""What a bundle says about privacy: the mechanisms that read the records, and what follows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

from lipogram.analytic.settings import one_of, whole
from lipogram.errors import CorruptState, InvalidSetting
from rewardds.accounting import epsilon
from rewardds.plan import check_delta
from rewardds.privacy_loss import AnyRelease, BoundedRelease, Release

FORMAT = 1
INFINITE = "infinite"  # JSON has no number for it
UNITS = ("record", "group")
POLICIES = ("public", "public bound")
LIBRARIES = ("lipogram-rewardds", "numpy", "scipy")

Policy = Literal["public", "public bound"]


@dataclass(frozen=True)
class PrivacyStatement:
    """Everything that has read the private records, and what it costs together.

    Attributes:
        releases: by the name of what was done: "generator", "reward" ...; the counts of steps are
            those that happened.
        delta: δ of all together.
        n: units that are protected.
        unit: "record", or "group" where the records of one key count as one.
        n_policy: n itself is "public", or a "public bound" above the number.
        clips: C of the trainings by name.
        unprotected: what read the records without noise, in words; with any, ε is infinite.
        epsilon: ε of all together, computed here.

    Raises:
        InvalidSetting: a δ outside (0, 1/n), another unit or policy, no release.
    """

    releases: Mapping[str, AnyRelease]
    delta: float
    n: int
    unit: str = "record"
    n_policy: Policy = "public"
    clips: Mapping[str, float] | None = None
    unprotected: Sequence[str] = ()
    epsilon: float = field(init=False)

    def __post_init__(self) -> None:
        whole("n", self.n)
        check_delta(self.delta, self.n)
        one_of("unit", self.unit, UNITS)
        one_of("n_policy", self.n_policy, POLICIES)
        if not self.releases:
            raise InvalidSetting("a statement without a release says nothing: name what was run")
        found = math.inf if self.unprotected else epsilon([*self.releases.values()], self.delta)
        object.__setattr__(self, "epsilon", found)
        object.__setattr__(self, "unprotected", tuple(self.unprotected))

    def sentence(self) -> str:
        """In words."""
        whose = {"record": "one record", "group": "all records of one group"}[self.unit]
        runs = "; ".join(f"{name}: {_words(each)}" for name, each in self.releases.items())
        if self.unprotected:
            return (
                f"ε is infinite, nothing is promised: {', '.join(self.unprotected)} read the "
                f"private records without noise. With noise did: {runs}."
            )
        if math.isinf(self.epsilon):
            return f"ε is infinite, nothing is promised. The runs were: {runs}."
        return (
            f"What leaves is (ε, δ)-differentially private together with ε = {self.epsilon:.4g} "
            f"and δ = {self.delta:.3g}: adding or removing {whose} changes the chance of any "
            f"outcome by a factor of at most e^{self.epsilon:.4g}, but for a chance of "
            f"{self.delta:.3g}. n = {self.n} is taken as a {self.n_policy}"
            f"{' number' if self.n_policy == 'public' else ''}. The runs were: {runs}."
        )

    def as_json(self) -> dict[str, Any]:
        """For `privacy.json`: finite JSON values, from which :meth:`from_json` makes the same."""
        return {
            "format": FORMAT,
            "epsilon": INFINITE if math.isinf(self.epsilon) else self.epsilon,
            "delta": self.delta,
            "n": self.n,
            "n_policy": self.n_policy,
            "unit": self.unit,
            "adjacency": "add or remove one",
            "releases": {name: release_as_json(each) for name, each in self.releases.items()},
            "clips": dict(self.clips or {}),
            "unprotected": list(self.unprotected),
            "accountants": {
                "privacy loss distribution": "upper bound, both directions",
                "checked by": "Rényi moments",
                **{name: version(name) for name in LIBRARIES},
            },
            "statement": self.sentence(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PrivacyStatement:
        """The statement whose mechanisms are these; its ε is computed, not read.

        Raises:
            CorruptState: what is no statement of this version.
        """
        try:
            if content["format"] != FORMAT:
                raise InvalidSetting(f"the format is {content['format']!r}, not {FORMAT}")
            return cls(
                {str(name): release_from_json(each) for name, each in content["releases"].items()},
                content["delta"],
                content["n"],
                content["unit"],
                content["n_policy"],
                {str(name): float(each) for name, each in content["clips"].items()},
                [str(each) for each in content["unprotected"]],
            )
        except (InvalidSetting, KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptState(f"no statement of privacy: {error!r}") from error


def release_as_json(release: AnyRelease) -> dict[str, Any]:
    """A mechanism by names and values."""
    if isinstance(release, BoundedRelease):
        kind: dict[str, Any] = {"mechanism": "bounded", "delta": release.delta}
        return kind | {"epsilon": release.epsilon, "steps": release.steps}
    kind = {"mechanism": "Poisson-subsampled Gaussian", "sigma": release.sigma}
    return kind | {"sample_rate": release.sample_rate, "steps": release.steps}


def release_from_json(content: Mapping[str, Any]) -> AnyRelease:
    """The mechanism again.

    Raises:
        InvalidSetting, KeyError, TypeError: what is none.
    """
    if content["mechanism"] == "bounded":
        return BoundedRelease(content["epsilon"], content["delta"], content["steps"])
    if content["mechanism"] != "Poisson-subsampled Gaussian":
        raise InvalidSetting(f"the mechanism is {content['mechanism']!r}, which is not known")
    return Release(content["sigma"], content["sample_rate"], content["steps"])


def _words(release: AnyRelease) -> str:
    if isinstance(release, BoundedRelease):
        at = f", δ {release.delta:.3g}" if release.delta else ""
        return f"{release.steps} × ε {release.epsilon:.4g}{at}"
    return (
        f"σ {release.sigma:.4g}, sample rate {release.sample_rate:.4g}, "
        f"{release.steps} noise additions"
    )
