"""What a federated round is to do, as Flower's run configuration carries it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, get_args

from afl.cohort import default_threshold
from afl.limits import MINIMUM_COHORT, MINIMUM_ROWS, Precision
from lipogram.analytic.settings import one_of, whole
from lipogram.errors import InvalidSetting

if TYPE_CHECKING:
    from lipogram.analytic.labels import Label

Scalar = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One round. Field names with dashes are the keys of Flower's run configuration.

    Attributes:
        gamma: ridge γ, a number or ``gcv``.
        intercept: also fit an intercept.
        class_weight: ``balanced``, which needs ``per_class``, or nothing.
        clip: largest norm of a row; 0 for none.
        per_class: clients send one second moment a class.
        dtype: precision of the messages.
        epsilon: ask for statistics with noise; 0 for none.
        delta: of the noise.
        classes: by commas, the labels that everybody knows; needed for masks and noise.
        masked: the server sees the sum of a cohort only; with ``epsilon``, each client adds a
            share of the noise that makes this sum private.
        noise_shares: m, honest clients whose shares are enough; fewer open nothing. Two thirds of
            ``minimum_clients`` by default (0), as masks need so many in any case.
        most_rows: for masks, most rows of a client.
        minimum_cohort: for masks, fewest clients to a sum.
        minimum_rows: clients with fewer rows (but some) are refused.
        minimum_clients: clients to wait for, and fewest for a head.
        wait: seconds to wait for them.
        timeout: seconds to wait for answers of each stage.
        evaluate: send the head back and count what it gets right.
        round: number of the clients' contributions; higher for further rows of the same clients.
        into: folder of an earlier run to go on from; nothing begins anew.
        out: folder of the result at the server.
        data: for simulations, what the nodes share: ``digits``, an ``.npz`` or a ``.csv``.
        split: for simulations, ``iid`` or ``dirichlet``.
        alpha: concentration of the Dirichlet split.
        seed: of the split.
    """

    gamma: str = "1"
    intercept: bool = False
    class_weight: str = ""
    clip: float = 0.0
    per_class: bool = False
    dtype: str = "float64"
    epsilon: float = 0.0
    delta: float = 1e-5
    classes: str = ""
    masked: bool = False
    noise_shares: int = 0
    most_rows: int = 0
    minimum_cohort: int = MINIMUM_COHORT
    minimum_rows: int = MINIMUM_ROWS
    minimum_clients: int = 2
    wait: float = 60.0
    timeout: float = 600.0
    evaluate: bool = True
    round: int = 0
    into: str = ""
    out: str = "runs/afl"
    data: str = ""
    split: str = "iid"
    alpha: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("dtype", self.dtype, get_args(Precision))
        one_of("split", self.split, ("iid", "dirichlet"))
        one_of("class-weight", self.class_weight, ("", "balanced"))
        whole("minimum-clients", self.minimum_clients)
        whole("round", self.round, least=0)
        for name in ("wait", "timeout"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InvalidSetting(f"{name} is {getattr(self, name)!r}, it must be above 0 s")
        if self.clip < 0 or self.epsilon < 0:
            raise InvalidSetting(f"clip {self.clip} and epsilon {self.epsilon} may not be negative")
        _ = self.ridge
        if (self.masked or self.epsilon) and not (self.clip and self.classes):
            raise InvalidSetting("masks and noise need a clip and the classes that everybody knows")
        if self.masked:
            whole("most-rows", self.most_rows)
            if self.per_class:
                raise InvalidSetting("under masks go pooled statistics, not per-class ones")
            _ = self.noise_agreed

    @property
    def ridge(self) -> float | str:
        """γ as :meth:`afl.Federation.solve` takes it.

        Raises:
            InvalidSetting: neither a number nor ``gcv``.
        """
        if self.gamma == "gcv":
            return self.gamma
        try:
            return float(self.gamma)
        except ValueError:
            raise InvalidSetting(f"gamma is {self.gamma!r}, it must be a number or gcv") from None

    @property
    def noise_agreed(self) -> dict[str, float | int] | None:
        """What the clients of a cohort add together, as :class:`afl.noise_shares.NoiseShares`.

        Raises:
            InvalidSetting: more shares than clients that are waited for.
        """
        if not (self.masked and self.epsilon):
            return None
        enough = default_threshold(max(self.minimum_clients, self.minimum_cohort))
        shares = whole("noise-shares", self.noise_shares or enough)
        return {"epsilon": self.epsilon, "delta": self.delta, "shares": shares}

    def labels(self) -> list[Label]:
        """The public classes: whole numbers where all of them read like that."""
        words = [word.strip() for word in self.classes.split(",") if word.strip()]
        if words and all(word.lstrip("-").isdecimal() for word in words):
            return [int(word) for word in words]
        return list(words)

    def to_config(self) -> dict[str, Scalar]:
        """Keys with dashes, as in ``[tool.flwr.app.config]``."""
        return {name.replace("_", "-"): value for name, value in asdict(self).items()}

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Plan:
        """The plan of a run configuration; keys of other owners are left alone.

        Raises:
            InvalidSetting: a value of another type or outside its range.
        """
        given: dict[str, Scalar] = {}
        for field in fields(cls):
            key, default = field.name.replace("_", "-"), field.default
            if key not in config:
                continue
            value = config[key]
            if isinstance(default, float) and type(value) is int:
                value = float(value)
            if isinstance(default, str) and type(value) in (int, float):
                value = str(value)  # gamma = 1 and classes = 7 are meant as they are written
            if type(value) is not type(default):
                raise InvalidSetting(f"{key} is {value!r}, it must be {type(default).__name__}")
            given[field.name] = value  # type: ignore[assignment]
        return cls(**given)  # type: ignore[arg-type]
