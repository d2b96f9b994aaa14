"""What came of a task, as a record that JSON holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from lipogram.analytic.labels import Label
from lipogram.errors import CorruptState

if TYPE_CHECKING:
    from dpcr.shift_map import ShiftMap


@dataclass(frozen=True)
class TaskReport:
    """What came of a task.

    Attributes:
        number: of the task, 0 for the first. ``classes``: its new ones. ``samples``: how many.
        training: ``samples``, ``epochs``, ``losses``, ``accuracies``, ``seconds``, see
            :class:`dpcr.training.TrainReport`; None where no class was new.
        shift: ``eps``, effective ``rank``, ``rows`` and unexplained ``residual`` of the shift map;
            None in the first task.
        seconds: ``observe``, the pass over the samples, and ``solve``.
        accuracy: on the test samples, None without any.
    """

    number: int
    classes: tuple[Label, ...]
    samples: int
    training: dict[str, Any] | None
    shift: dict[str, float] | None
    seconds: dict[str, float]
    accuracy: float | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def of_dict(cls, described: Any) -> Self:
        """The report that :meth:`as_dict` described.

        Raises:
            CorruptState: it is none.
        """
        names = {each.name for each in fields(cls)}
        whole = isinstance(described, Mapping) and described.keys() == names
        if not whole or not isinstance(described["classes"], list):
            raise CorruptState("damaged or hostile state: a task's report is none")
        return cls(**{**described, "classes": tuple(described["classes"])})


def shift_figures(shift: ShiftMap | None) -> dict[str, float] | None:
    """What a report tells of a shift map."""
    if shift is None:
        return None
    return {name: float(getattr(shift, name)) for name in ("eps", "rank", "rows", "residual")}
