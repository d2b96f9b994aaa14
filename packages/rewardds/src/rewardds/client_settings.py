"""How the two proxies are trained, besides what the privacy plan says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lipogram.analytic.settings import one_of, positive, whole
from lipogram.errors import InvalidSetting
from lipogram.settings import settings_of
from rewardds.generation_proxy import TASKS, check_tasks
from rewardds.privacy_statement import POLICIES, Policy
from rewardds.privacy_units import UnitKind
from rewardds.prompts import Prompts


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """Settings of a :class:`rewardds.client.RewardDSClient`.

    Attributes:
        clip: C, largest L2 norm of a unit's gradient.
        physical_batch: rows that are run at once; the result does not hang on it.
        lr: AdamW's learning rate.
        autocast: run the models in bfloat16 where PyTorch's autocast does; with "lora" only.
        tune: "lora" for adapters on the blocks' linear layers, "full" for all weights but the
            embeddings, with ghost clipping.
        reward: what is trained of the reward proxy: "tuned" as `tune` says, or the "head" alone, a
            linear one over the frozen base, see :mod:`rewardds.cached_features`.
        reward_clip: C of the reward's training; None for `clip`.
        reward_lr: of it; None for `lr`.
        tasks: what the generator learns, of "answer", "question" and "posed": to write a question
            to a given answer, where the answers are a public set.
        weak_sources: see :data:`rewardds.weak_answers.SOURCES`.
        allow_nonprivate_weak_source: let "sft" be among them; the report says ε = ∞ then.
        unit: what is protected, a "record" or a "group" of them.
        n_policy: "public": the number of units is no secret, and the plan's n is it. With "public
            bound" the plan's n is a bound above it that gives nothing away.
        public_instructions: the instructions are public texts, such as one for each label, and only
            which of them a record has is private: seeds may then be among them.
        public_responses: likewise of the responses, such as the names of labels.
        per_group: records of a group that are used at most.
        prompts: what the proxies are asked.
        max_length: of a training sequence, in tokens.
        max_new_tokens: of a weak answer.
        answer_batch: prompts at a time when weak answers are written; see
            :mod:`rewardds.weak_answers` for what 1 is good for.
        seed: of the initial weights of adapters and head. It is public: masks and noise come from
            the system's secure source.

    Raises:
        InvalidSetting: a setting outside its range.
    """

    clip: float = 0.5
    physical_batch: int = 8
    lr: float = 1e-3
    autocast: bool = False
    tune: Literal["lora", "full"] = "lora"
    reward: Literal["tuned", "head"] = "tuned"
    reward_clip: float | None = None
    reward_lr: float | None = None
    tasks: Sequence[str] = TASKS
    weak_sources: Sequence[str] = ("init", "dp", "corrupt")
    allow_nonprivate_weak_source: bool = False
    unit: UnitKind = "record"
    n_policy: Policy = "public"
    public_instructions: bool = False
    public_responses: bool = False
    per_group: int = 4
    prompts: Prompts = field(default_factory=Prompts)
    max_length: int = 512
    max_new_tokens: int = 128
    answer_batch: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("clip", "lr", "reward_clip", "reward_lr"):
            if (value := getattr(self, name)) is not None or name in ("clip", "lr"):
                positive(name, value)
        for name in ("physical_batch", "per_group", "max_length", "max_new_tokens", "answer_batch"):
            whole(name, getattr(self, name))
        whole("max_length", self.max_length, least=2)
        one_of("tune", self.tune, ("lora", "full"))
        check_tasks(self.tasks)
        one_of("reward", self.reward, ("tuned", "head"))
        one_of("unit", self.unit, ("record", "group"))
        one_of("n_policy", self.n_policy, POLICIES)
        if self.tune == "full" and self.autocast:
            raise InvalidSetting("autocast goes with tune='lora': ghost norms need full precision")
        if self.tune == "full" and "dp_early" in self.weak_sources:
            raise InvalidSetting(
                "the weak source 'dp_early' is the generator with its adapter at half strength: "
                "with tune='full' there is none"
            )

    def to_json(self) -> dict[str, Any]:
        """All settings, as JSON holds them."""
        return settings_of(self)
