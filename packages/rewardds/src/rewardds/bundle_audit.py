"""The audit of a bundle whose training set had canaries planted in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lipogram.llm.text import pad_id
from rewardds.audit_report import AuditReport, audit_canaries
from rewardds.bundle import read_bundle
from rewardds.canaries import Canaries
from rewardds.generation_proxy import generation_rows
from rewardds.losses import CausalLMLoss
from rewardds.membership_test import row_losses
from rewardds.privacy_units import Unit
from rewardds.verification import verify


def audit_bundle(
    bundle: str | Path,
    canaries: Canaries,
    *,
    confidence: float = 0.95,
    batch_size: int = 16,
    base: Any = None,
    **how: Any,
) -> AuditReport:
    """Attack the canaries through the generation proxy, with its base as reference.

    The bound is on what the generator alone gives away, so on the ε of the whole, too.

    Args:
        bundle: its folder.
        canaries: that were planted in the records it was trained on.
        confidence: of the bound.
        batch_size: canaries at once.
        base: see :meth:`rewardds.bundle.Bundle.load_generator`.
        how: device and dtype of the model.

    Raises:
        TamperedBundle: see :func:`rewardds.verification.verify`.
        InvalidSetting: see :func:`rewardds.audit_report.audit_canaries`.
    """
    claimed, held = verify(bundle), read_bundle(bundle)
    loaded = held.load_generator(base, **how)
    rows = generation_rows(
        [Unit(record.id, (record,)) for record in canaries.records],
        loaded.tokenizer,
        held.prompts,
        max_length=int(held.config["max_length"]),
        tasks=held.config["tasks"],
    ).rows
    padding = pad_id(loaded.tokenizer)

    def losses() -> Any:
        return row_losses(loaded.model, rows, CausalLMLoss(), batch_size=batch_size, pad_id=padding)

    references = None
    if hasattr(loaded.model, "peft_config"):
        with loaded.model.disable_adapter():
            references = {"generator": losses()}
    return audit_canaries(
        canaries,
        {"generator": losses()},
        references,
        epsilon=claimed.epsilon,
        delta=claimed.delta,
        confidence=confidence,
    )
