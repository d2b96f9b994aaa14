"""Unlearn facts in a language model, then find out whether they are gone or only hidden."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftunlearn import losses as losses
    from ftunlearn.collateral import side_effects as side_effects
    from ftunlearn.dissect_config import DissectConfig as DissectConfig
    from ftunlearn.dissection import dissect as dissect
    from ftunlearn.dissection_report import DissectionReport as DissectionReport
    from ftunlearn.membership_inference import membership as membership
    from ftunlearn.pair import ModelPair as ModelPair
    from ftunlearn.probes import Probe as Probe
    from ftunlearn.probes import ProbeSet as ProbeSet
    from ftunlearn.relearning import RelearnConfig as RelearnConfig
    from ftunlearn.relearning import relearn_attack as relearn_attack
    from ftunlearn.scores import krs as krs
    from ftunlearn.trainer import UnlearnTrainer as UnlearnTrainer
    from ftunlearn.unlearn_config import UnlearnConfig as UnlearnConfig
    from ftunlearn.unlearning import unlearn as unlearn
    from ftunlearn.verdict import Verdict as Verdict
    from lipogram.llm import patch as patch
    from lipogram.llm import record as record
    from lipogram.llm import restore as restore

__version__ = version("lipogram-ftunlearn")

_NAMES = {
    "ftunlearn.dissect_config": ("DissectConfig",),
    "ftunlearn.dissection": ("dissect",),
    "ftunlearn.dissection_report": ("DissectionReport",),
    "ftunlearn.membership_inference": ("membership",),
    "ftunlearn.pair": ("ModelPair",),
    "ftunlearn.probes": ("Probe", "ProbeSet"),
    "ftunlearn.relearning": ("RelearnConfig", "relearn_attack"),
    "ftunlearn.scores": ("krs",),
    "ftunlearn.collateral": ("side_effects",),
    "ftunlearn.trainer": ("UnlearnTrainer",),
    "ftunlearn.unlearn_config": ("UnlearnConfig",),
    "ftunlearn.unlearning": ("unlearn",),
    "ftunlearn.verdict": ("Verdict",),
    "lipogram.llm": ("patch", "record", "restore"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = ["losses", *_MODULES]


def __getattr__(name: str) -> Any:  # torch and transformers are imported when a name is used
    if name == "losses":
        return import_module("ftunlearn.losses")
    if name not in _MODULES:
        raise AttributeError(f"module 'ftunlearn' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
