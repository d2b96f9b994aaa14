"""The settings of a study: which classes come when, what is trained, what is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dpcr.methods import METHODS, Method, method_of, options_of
from dpcr.train_settings import WITHOUT_EFFECT, TrainConfig
from lipogram.analytic.scenarios import Task, class_incremental
from lipogram.analytic.scenarios.class_order import ClassOrder
from lipogram.analytic.settings import whole
from lipogram.errors import InvalidSetting
from lipogram.settings import settings_of


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything that decides the result of a comparison, but for the data and the network.

    Attributes:
        data: name of both, as :class:`dpcr.study_data.StudyData` has it.
        tasks: number of tasks, the first included; None where ``increment`` says it.
        initial: classes of the first task; 0 for as many as the others (cold start).
        increment: classes of each later task; None where ``tasks`` says it.
        order: ``"shuffled"`` by the seed, None for sorted, or every class in the order wanted.
        order_seed: seed of the order; None takes each run's own.
        methods: names out of :data:`dpcr.methods.METHODS` or of ``variants``.
        variants: further methods by a name of their own: ``{"method": NAME, option: value, …}``.
        options: of every method that has them, such as gamma and eps; a variant's own come first.
        seeds: of class order, initial network, order of the samples.
        train: how the backbone is trained.
        batch_size: samples to a forward pass outside training.
        top: also count an answer as right among so many of largest score.
    """

    data: str
    tasks: int | None = 5
    initial: int = 0
    increment: int | None = None
    order: ClassOrder = "shuffled"
    order_seed: int | None = None
    methods: tuple[str, ...] = METHODS
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    train: TrainConfig = field(default_factory=TrainConfig)
    batch_size: int = 256
    top: int = 5

    def __post_init__(self) -> None:
        """Refuse what cannot run.

        Raises:
            InvalidSetting: naming the setting.
        """
        if (self.tasks is None) == (self.increment is None):
            raise InvalidSetting(
                f"tasks is {self.tasks} and increment {self.increment}: give one, None for the "
                "other"
            )
        for name in ("tasks", "increment"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name))
        whole("initial", self.initial, least=0)
        whole("batch_size", self.batch_size)
        whole("top", self.top)
        for name in ("methods", "seeds"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise InvalidSetting(f"{name} is {given!r}: name at least one, and none twice")
        for name in self.methods:
            self.method(name)
        known = set().union(*map(options_of, METHODS))
        strange = sorted(set(self.options) - known)
        if strange:
            raise InvalidSetting(
                f"no method has an option {strange[0]!r}; options: {', '.join(sorted(known))}"
            )

    def settings(self) -> dict[str, Any]:
        """What a run's folder has to agree with: all but what has no effect on the figures."""
        settings = settings_of(self)
        for name in WITHOUT_EFFECT:
            del settings["train"][name]
        return settings

    def method(self, name: str) -> Method:
        """A new classifier of that name.

        Raises:
            InvalidSetting: an unknown name or option, or a value that the method refuses.
        """
        own = dict(self.variants.get(name, {}))
        base = own.pop("method", name)
        common = {k: v for k, v in self.options.items() if k in options_of(base)}
        return method_of(base, **(common | own))

    def stream(self, labels: Any, seed: int) -> list[Task]:
        """The tasks, positions into the training samples.

        Raises:
            InvalidSetting: more classes asked for than there are, or an order that is none.
        """
        classes = len(np.unique(labels))
        if self.initial > classes:
            raise InvalidSetting(f"initial is {self.initial}, but there are {classes} classes")
        later = None if self.tasks is None else self.tasks - (self.initial > 0)
        increment = self.increment or -(-(classes - self.initial) // max(later or 1, 1)) or 1
        tasks = class_incremental(
            labels,
            base=self.initial,
            increment=increment,
            order=self.order,
            seed=seed if self.order_seed is None else self.order_seed,
        )
        if self.tasks not in (None, len(tasks)):
            sizes = ", ".join(str(len(task.classes)) for task in tasks)
            raise InvalidSetting(
                f"{classes} classes do not make {self.tasks} tasks as equal as can be, but "
                f"{len(tasks)} ({sizes} classes): set increment instead of tasks"
            )
        return tasks
