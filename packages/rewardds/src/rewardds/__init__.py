"""Synthetic training data from private records, differentially private as a whole."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewardds.accounting import calibrate as calibrate
    from rewardds.accounting import epsilon as epsilon
    from rewardds.audit_report import audit_canaries as audit_canaries
    from rewardds.bundle import Bundle as Bundle
    from rewardds.bundle import read_bundle as read_bundle
    from rewardds.bundle_audit import audit_bundle as audit_bundle
    from rewardds.canaries import make_canaries as make_canaries
    from rewardds.client import RewardDSClient as RewardDSClient
    from rewardds.dp_trainer import DPTrainer as DPTrainer
    from rewardds.ledger import PrivacyLedger as PrivacyLedger
    from rewardds.losses import CausalLMLoss as CausalLMLoss
    from rewardds.losses import PairwiseRewardLoss as PairwiseRewardLoss
    from rewardds.pipeline import PipelineSettings as PipelineSettings
    from rewardds.pipeline import run_pipeline as run_pipeline
    from rewardds.plan import PrivacyPlan as PrivacyPlan
    from rewardds.plan import RunPlan as RunPlan
    from rewardds.privacy_loss import Release as Release
    from rewardds.prompts import Prompts as Prompts
    from rewardds.records import PrivateRecords as PrivateRecords
    from rewardds.records import PublicRecords as PublicRecords
    from rewardds.records import Record as Record
    from rewardds.records import read_records as read_records
    from rewardds.reward_model import RewardModel as RewardModel
    from rewardds.rows import Row as Row
    from rewardds.server import RewardDSServer as RewardDSServer
    from rewardds.training_run import TrainingRun as TrainingRun
    from rewardds.verification import verify as verify

__version__ = version("lipogram-rewardds")

_NAMES = {
    "accounting": ("calibrate", "epsilon"),
    "bundle_audit": ("audit_bundle",),
    "audit_report": ("audit_canaries",),
    "bundle": ("Bundle", "read_bundle"),
    "canaries": ("make_canaries",),
    "client": ("RewardDSClient",),
    "dp_trainer": ("DPTrainer",),
    "ledger": ("PrivacyLedger",),
    "losses": ("CausalLMLoss", "PairwiseRewardLoss"),
    "pipeline": ("PipelineSettings", "run_pipeline"),
    "plan": ("PrivacyPlan", "RunPlan"),
    "privacy_loss": ("Release",),
    "prompts": ("Prompts",),
    "records": ("PrivateRecords", "PublicRecords", "Record", "read_records"),
    "reward_model": ("RewardModel",),
    "rows": ("Row",),
    "server": ("RewardDSServer",),
    "training_run": ("TrainingRun",),
    "verification": ("verify",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = ["__version__", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'rewardds' has no attribute {name!r}")
    return getattr(import_module(f"rewardds.{_MODULES[name]}"), name)
