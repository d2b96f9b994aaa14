"""A question to a hosted language model without chosen spans, and the measure of what leaks."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privacyrestore.answer import Answer as Answer
    from privacyrestore.attention_weights import AwaWeigher as AwaWeigher
    from privacyrestore.attention_weights import UniformWeigher as UniformWeigher
    from privacyrestore.audit_report import AuditReport as AuditReport
    from privacyrestore.auditing import audit as audit
    from privacyrestore.bank_training import train_bank as train_bank
    from privacyrestore.batch_engine import BatchEngine as BatchEngine
    from privacyrestore.client import PrivacyClient as PrivacyClient
    from privacyrestore.confusable import anonymity as anonymity
    from privacyrestore.confusable import cluster_groups as cluster_groups
    from privacyrestore.confusable import confusable_bank as confusable_bank
    from privacyrestore.curve_figure import plot_curve as plot_curve
    from privacyrestore.engine_request import Request as Request
    from privacyrestore.evaluation import evaluate as evaluate
    from privacyrestore.guarantee import Guarantee as Guarantee
    from privacyrestore.head_selection import HeadSelection as HeadSelection
    from privacyrestore.head_selection import SpanPair as SpanPair
    from privacyrestore.head_selection import select_heads as select_heads
    from privacyrestore.ledger import PrivacyLedger as PrivacyLedger
    from privacyrestore.mechanisms import Exact as Exact
    from privacyrestore.mechanisms import Full as Full
    from privacyrestore.mechanisms import Gaussian as Gaussian
    from privacyrestore.mechanisms import Subspace as Subspace
    from privacyrestore.mechanisms import make_mechanism as make_mechanism
    from privacyrestore.model_answers import answer_pairs as answer_pairs
    from privacyrestore.multiple_choice import mc_scores as mc_scores
    from privacyrestore.ner_spans import NerRecogniser as NerRecogniser
    from privacyrestore.presidio_spans import PresidioRecogniser as PresidioRecogniser
    from privacyrestore.pri_datasets import load_questions as load_questions
    from privacyrestore.pri_datasets import load_spans as load_spans
    from privacyrestore.proxy import create_proxy as create_proxy
    from privacyrestore.proxy import serve_proxy as serve_proxy
    from privacyrestore.restoration import restored as restored
    from privacyrestore.restoration_bank import RestorationBank as RestorationBank
    from privacyrestore.restoration_bank import identify as identify
    from privacyrestore.server import create_app as create_app
    from privacyrestore.serving import serve as serve
    from privacyrestore.span_detector import Span as Span
    from privacyrestore.span_detector import SpanDetector as SpanDetector
    from privacyrestore.span_removal import remove_spans as remove_spans
    from privacyrestore.steered_model import SteeredModel as SteeredModel
    from privacyrestore.training_config import TrainConfig as TrainConfig
    from privacyrestore.training_rows import PromptTemplate as PromptTemplate
    from privacyrestore.training_rows import TrainingRow as TrainingRow
    from privacyrestore.transport import Http as Http
    from privacyrestore.utility_curve import at_equal_recovery as at_equal_recovery
    from privacyrestore.utility_curve import utility_recovery_curve as utility_recovery_curve

__version__ = version("lipogram-privacyrestore")

_NAMES = {
    "answer": ("Answer",),
    "model_answers": ("answer_pairs",),
    "attention_weights": ("AwaWeigher", "UniformWeigher"),
    "auditing": ("audit",),
    "audit_report": ("AuditReport",),
    "bank_training": ("train_bank",),
    "batch_engine": ("BatchEngine",),
    "client": ("PrivacyClient",),
    "confusable": ("anonymity", "cluster_groups", "confusable_bank"),
    "curve_figure": ("plot_curve",),
    "engine_request": ("Request",),
    "evaluation": ("evaluate",),
    "guarantee": ("Guarantee",),
    "head_selection": ("HeadSelection", "SpanPair", "select_heads"),
    "ledger": ("PrivacyLedger",),
    "mechanisms": ("Exact", "Full", "Gaussian", "Subspace", "make_mechanism"),
    "multiple_choice": ("mc_scores",),
    "ner_spans": ("NerRecogniser",),
    "presidio_spans": ("PresidioRecogniser",),
    "pri_datasets": ("load_questions", "load_spans"),
    "proxy": ("create_proxy", "serve_proxy"),
    "restoration": ("restored",),
    "restoration_bank": ("RestorationBank", "identify"),
    "server": ("create_app",),
    "serving": ("serve",),
    "span_detector": ("Span", "SpanDetector"),
    "span_removal": ("remove_spans",),
    "steered_model": ("SteeredModel",),
    "training_config": ("TrainConfig",),
    "training_rows": ("PromptTemplate", "TrainingRow"),
    "transport": ("Http",),
    "utility_curve": ("at_equal_recovery", "utility_recovery_curve"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = ["__version__", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'privacyrestore' has no attribute {name!r}")
    value = getattr(import_module(f"privacyrestore.{_MODULES[name]}"), name)
    globals()[name] = (
        value  # `import privacyrestore.auditing` would else put the module in its place
    )
    return value
