"""What a dissection is asked to measure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ftunlearn.components import SWEPT, swept
from ftunlearn.relearning import RelearnConfig
from lipogram.errors import InvalidSetting

ATTACKS = ("logit_lens", "direction_ablation")


@dataclass(frozen=True, kw_only=True)
class DissectConfig:
    """What a dissection measures.

    Attributes:
        components: swept over the layers, of :data:`ftunlearn.components.COMPONENTS`.
        window: blocks replaced together (5 in arXiv 2410.06606).
        stride: every which block is a window's centre.
        whole: also replace each component in all layers at once.
        positions: tokens whose activations are replaced: all, prompt or answer.
        protocol: of the headline: "aligned" scores the rows that predict the answer; "paper" the
            last rows, as the paper's notebooks do. Both are stored.
        n_new_tokens: scored tokens a probe, at most (30 in the paper).
        reverse: run the reverse patch.
        relearn: how to attack; None leaves the attack out.
        side_effects: compare the models on all groups of probes.
        attacks: also try "logit_lens" and "direction_ablation" (:mod:`ftunlearn.attacks`).
        max_tokens: padded tokens of a batch; halved when memory runs out.
        seed: of folds, controls and bootstraps.

    Raises:
        InvalidSetting: a setting outside its values.
    """

    components: tuple[str, ...] = SWEPT
    window: int = 5
    stride: int = 1
    whole: bool = True
    positions: Literal["all", "prompt", "answer"] = "all"
    protocol: Literal["aligned", "paper"] = "aligned"
    n_new_tokens: int = 30
    reverse: bool = True
    relearn: RelearnConfig | None = field(default_factory=RelearnConfig)
    side_effects: bool = True
    attacks: tuple[str, ...] = ()
    max_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "components", tuple(self.components))
        swept(self.components)
        object.__setattr__(self, "attacks", tuple(self.attacks))
        if unknown := [name for name in self.attacks if name not in ATTACKS]:
            raise InvalidSetting(f"attack {unknown[0]!r} is none of {', '.join(ATTACKS)}")
        for name in ("window", "stride", "n_new_tokens", "max_tokens"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"{name} must be >= 1, got {getattr(self, name)}")
        for name, allowed in (
            ("positions", ("all", "prompt", "answer")),
            ("protocol", ("aligned", "paper")),
        ):
            if getattr(self, name) not in allowed:
                raise InvalidSetting(
                    f"{name} {getattr(self, name)!r} is none of {', '.join(allowed)}"
                )
