"""The relearning attack: do facts that were never shown again come back with those that were?

The unlearned model is trained for a few steps on one half of the forgotten facts and asked for the
other half; the control is trained as long on known facts that have nothing to do with them. What
comes back only with the first was still there. A model that never knew the facts cannot know the
half that it is not shown.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ftunlearn.pair import ModelPair
from ftunlearn.probes import Probe, ProbeSet
from lipogram.errors import InvalidSetting, NotFinite
from lipogram.llm.forward import last_logits
from lipogram.llm.scoring import answer_logprobs
from lipogram.llm.seeds import rng
from lipogram.llm.text import encode, pad, pad_id


@dataclass(frozen=True, kw_only=True)
class RelearnConfig:
    """How the attack trains.

    Attributes:
        steps: at which the held-out facts are asked for.
        k: of these, the step that the gain is taken at.
        lr: AdamW's learning rate; that of the unlearning run is a good choice.
        weight_decay: AdamW's.
        clip: largest norm of the gradient.
        folds: 2 shows each half once and holds out the other; 1 only the first.
        made_up: also train on one half of made-up facts, never known, and ask for the other half.
        rank: train a new adapter of this rank in place of all parameters; None trains all.
        seed: of the folds, the control's facts and the made-up ones.

    Raises:
        InvalidSetting: a setting outside its range.
    """

    steps: tuple[int, ...] = (1, 2, 4, 8)
    k: int = 4
    lr: float = 1e-5
    weight_decay: float = 0.01
    clip: float = 1.0
    folds: int = 2
    made_up: bool = False
    rank: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(sorted(self.steps)))
        if not self.steps or self.steps[0] < 1:
            raise InvalidSetting(f"steps must be >= 1, got {self.steps}")
        if self.k not in self.steps:
            raise InvalidSetting(f"k must be one of the steps {self.steps}, got {self.k}")
        if not self.lr > 0 or not self.clip > 0 or self.weight_decay < 0:
            raise InvalidSetting("lr and clip must be > 0 and weight_decay >= 0")
        if self.folds not in (1, 2):
            raise InvalidSetting(f"folds must be 1 or 2, got {self.folds}")
        if self.rank is not None and self.rank < 1:
            raise InvalidSetting(f"rank must be >= 1, got {self.rank}")


@dataclass(frozen=True)
class Relearned:
    """Answer probabilities after each number of steps.

    Attributes:
        ids: (n,) forgotten facts.
        steps: (s,) numbers of steps.
        start: (n,) probabilities before the attack.
        vanilla: (n,) probabilities of the vanilla model.
        held_out: (s, n) after training on other forgotten facts; NaN for one never held out.
        shown: (s, n) after training on the fact itself.
        control: (s, n) after training on unrelated known facts; NaN for one never held out.
        made_up: (s,) mean probability of made-up facts after training on other made-up facts, and
            before (`made_up_start`); None if not asked for.
        made_up_start: see `made_up`.
        k: the step of the headline.
    """

    ids: tuple[str, ...]
    steps: tuple[int, ...]
    start: NDArray[np.float64]
    vanilla: NDArray[np.float64]
    held_out: NDArray[np.float64]
    shown: NDArray[np.float64]
    control: NDArray[np.float64]
    k: int
    made_up: NDArray[np.float64] | None = None
    made_up_start: float | None = None

    @property
    def gains(self) -> NDArray[np.float64]:
        """(n,) [p(held out) - p(control)] / p(vanilla), at step k; NaN for one never held out."""
        at = self.steps.index(self.k)
        return (self.held_out[at] - self.control[at]) / self.vanilla


def control_facts(probes: ProbeSet) -> list[Probe]:
    """Known facts that have nothing to do with those that were forgotten: the control's.

    Group "unrelated"; "retain" only where there is none, since what unlearning was trained to keep
    may be of the forgotten facts' own kind, and then training on it teaches the kind anew.
    """
    for group in ("unrelated", "retain"):
        if facts := [probe for probe in probes.group(group) if probe.answer]:
            return facts
    return []


def relearn_attack(
    pair: ModelPair,
    forget: Sequence[Probe],
    known: Sequence[Probe],
    config: RelearnConfig | None = None,
    *,
    made_up: Sequence[Probe] = (),
    tick: Callable[[], None] = lambda: None,
) -> Relearned:
    """Attack a copy of the unlearned model.

    Args:
        pair: its unlearned model is left as it is.
        forget: n >= 2 forgotten facts with answers.
        known: facts with answers that have nothing to do with them; as many as the half that is
            shown are drawn for the control.
        config: how to train.
        made_up: facts that no model can know, of the same shape, for `config.made_up`.
        tick: called once a training step.

    Raises:
        InvalidSetting: too few facts to hold any out, or to train the control or the made-up arm.
        NotFinite: the loss diverged.
    """
    config = config or RelearnConfig()
    _check(forget, known, made_up, config)
    order = torch.randperm(len(forget), generator=rng("relearn", config.seed)).tolist()
    halves = [order[::2], order[1::2]]
    drawn = torch.randperm(len(known), generator=rng("relearn-control", config.seed)).tolist()
    control = [known[i] for i in drawn[: len(halves[0])]]

    student = _Student(pair, config)
    shape = len(config.steps), len(forget)
    held_out, shown, controlled = (np.full(shape, np.nan) for _ in range(3))
    with pair.as_vanilla() as model:
        vanilla = _probabilities(model, pair.tokenizer, forget)
    start = _probabilities(pair.unlearned, pair.tokenizer, forget)
    asked = sorted(set().union(*(halves[1 - fold] for fold in range(config.folds))))
    for fold in range(config.folds):
        after = student.train([forget[i] for i in halves[fold]], forget, tick)
        shown[:, halves[fold]] = after[:, halves[fold]]
        held_out[:, halves[1 - fold]] = after[:, halves[1 - fold]]
    controlled[:, asked] = student.train(control, forget, tick)[:, asked]
    invented, before = None, None
    if config.made_up:
        half = len(made_up) // 2
        before = float(_probabilities(pair.unlearned, pair.tokenizer, made_up[half:]).mean())
        invented = student.train(made_up[:half], made_up[half:], tick).mean(1)
    return Relearned(
        tuple(probe.id for probe in forget),
        config.steps,
        start,
        vanilla,
        held_out,
        shown,
        controlled,
        config.k,
        invented,
        before,
    )


@dataclass
class _Student:
    """A copy of the unlearned model, trained anew from the same state each time."""

    pair: ModelPair
    config: RelearnConfig
    model: Any = field(init=False)

    def __post_init__(self) -> None:
        model = copy.deepcopy(self.pair.unlearned)
        if self.pair.has_adapter:
            model = model.merge_and_unload()
        if self.config.rank is not None:
            model = _with_adapter(model, self.config.rank)
        else:
            model.requires_grad_(True)
        self.model = model.eval()  # no dropout: the attack is the same each time
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.trained]

    def train(
        self, facts: Sequence[Probe], asked: Sequence[Probe], tick: Callable[[], None]
    ) -> NDArray[np.float64]:
        """(s, n) answer probabilities of `asked` after each of the configured steps."""
        with torch.no_grad():
            for parameter, value in zip(self.trained, self.start, strict=True):
                parameter.copy_(value)
        config, tokenizer = self.config, self.pair.tokenizer
        optimizer = torch.optim.AdamW(self.trained, lr=config.lr, weight_decay=config.weight_decay)
        texts = [encode(tokenizer, fact.prompt, fact.answer or "") for fact in facts]
        batch = pad(texts, pad_id(tokenizer)).to(self.pair.device)
        rows = batch.rows[:, -batch.n_logits :]
        tokens = batch.input_ids[batch.answer_mask]
        found = []
        for step in range(1, config.steps[-1] + 1):
            logits, _ = last_logits(self.model, batch.inputs(), batch.n_logits, use_cache=False)
            loss = torch.nn.functional.cross_entropy(logits[rows].float(), tokens)
            if not bool(torch.isfinite(loss)):
                raise NotFinite(f"the relearning attack diverged at step {step}: lower its lr")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, config.clip)
            optimizer.step()
            if step in config.steps:
                found.append(_probabilities(self.model, tokenizer, asked))
            tick()
        optimizer.zero_grad()
        return np.stack(found)


def _with_adapter(model: Any, rank: int) -> Any:
    import peft

    from lipogram.llm.tuning import lora_config

    return peft.get_peft_model(model, lora_config(model, r=rank, alpha=2 * rank))


def _probabilities(model: Any, tokenizer: Any, facts: Sequence[Probe]) -> NDArray[np.float64]:
    """(n,) geometric mean probability of each answer's tokens."""
    prompts = [fact.prompt for fact in facts]
    answers = [fact.answer or "" for fact in facts]
    means = answer_logprobs(model, tokenizer, prompts, answers, reduction="mean")
    return np.exp(np.asarray(means, dtype=np.float64))


def _check(
    forget: Sequence[Probe],
    known: Sequence[Probe],
    made_up: Sequence[Probe],
    config: RelearnConfig,
) -> None:
    if len(forget) < 2:
        raise InvalidSetting(f"the attack needs 2 forgotten facts at least, got {len(forget)}")
    if not known:
        raise InvalidSetting("the attack's control needs known facts (group retain or unrelated)")
    if config.made_up and len(made_up) < 2:
        raise InvalidSetting(f"the made-up arm needs 2 facts at least, got {len(made_up)}")
    for probe in (*forget, *known, *made_up):
        if not probe.answer:
            raise InvalidSetting(f"probe {probe.id} has no answer to train on")
