"""Language models: loaded, looked into, changed for a while, tuned; nothing is imported before."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lipogram.llm.adapters import without_adapter as without_adapter
    from lipogram.llm.architecture import GROUPS as GROUPS
    from lipogram.llm.architecture import SITES as SITES
    from lipogram.llm.architecture import Architecture as Architecture
    from lipogram.llm.architecture import describe as describe
    from lipogram.llm.chat import format_chat as format_chat
    from lipogram.llm.generation import Generation as Generation
    from lipogram.llm.generation import generate as generate
    from lipogram.llm.loaded import LoadedModel as LoadedModel
    from lipogram.llm.loading import load_model as load_model
    from lipogram.llm.loading import load_tokenizer as load_tokenizer
    from lipogram.llm.loading import model_info as model_info
    from lipogram.llm.patching import patch as patch
    from lipogram.llm.recording import Recording as Recording
    from lipogram.llm.recording import record as record
    from lipogram.llm.restoring import restore as restore
    from lipogram.llm.running import run_from as run_from
    from lipogram.llm.scoring import answer_logprobs as answer_logprobs
    from lipogram.llm.scoring import multiple_choice as multiple_choice
    from lipogram.llm.scoring import perplexity as perplexity
    from lipogram.llm.seeds import rng as rng
    from lipogram.llm.seeds import seed_all as seed_all
    from lipogram.llm.steering import Steering as Steering
    from lipogram.llm.text import encode as encode
    from lipogram.llm.text import pad as pad
    from lipogram.llm.tiny import tiny_random as tiny_random
    from lipogram.llm.tuning import lora_config as lora_config
    from lipogram.llm.tuning import training_args as training_args

_NAMES = {
    "adapters": ("without_adapter",),
    "architecture": ("GROUPS", "SITES", "Architecture", "describe"),
    "chat": ("format_chat",),
    "generation": ("Generation", "generate"),
    "loaded": ("LoadedModel",),
    "loading": ("load_model", "load_tokenizer", "model_info"),
    "patching": ("patch",),
    "recording": ("Recording", "record"),
    "restoring": ("restore",),
    "running": ("run_from",),
    "scoring": ("answer_logprobs", "multiple_choice", "perplexity"),
    "seeds": ("rng", "seed_all"),
    "steering": ("Steering",),
    "text": ("encode", "pad"),
    "tiny": ("tiny_random",),
    "tuning": ("lora_config", "training_args"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'lipogram.llm' has no attribute {name!r}")
    return getattr(import_module(f"lipogram.llm.{_MODULES[name]}"), name)
