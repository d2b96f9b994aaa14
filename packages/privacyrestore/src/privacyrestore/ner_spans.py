"""Entities by a token classifier of Hugging Face, for the detector's backend "hf-ner"."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from lipogram.errors import InvalidSetting
from lipogram.llm.hub import hub_folder
from privacyrestore.attention_weights import window_length
from privacyrestore.span_detector import Entity

_KIND = "ForTokenClassification"
"""What the names of all token classifiers end in."""


class NerRecogniser:
    """The entities that a token classifier sees; texts of any length, in overlapping windows.

    Args:
        model: a folder or hub id of a token classifier with safetensors, or one in memory.
        tokenizer: of a model in memory; None for the one beside the weights.
        threshold: the least score of an entity, in [0, 1].

    Raises:
        InvalidSetting: a model that classifies no tokens, a tokenizer without offsets, or another
            threshold.
        ModelNotFound, UnsafeCheckpoint: as `lipogram.llm.load_model`.
    """

    def __init__(self, model: Any, tokenizer: Any = None, *, threshold: float = 0.5):
        from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

        if not 0 <= threshold <= 1:
            raise InvalidSetting(f"threshold = {threshold}, it must be within [0, 1]")
        if isinstance(model, str | Path):
            folder = Path(model) if Path(model).is_dir() else hub_folder(str(model))[0]
            model = AutoModelForTokenClassification.from_pretrained(folder, use_safetensors=True)
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder)
        if not hasattr(model, "config") or not type(model).__name__.endswith(_KIND):
            raise InvalidSetting(f"{type(model).__name__} is no model {_KIND}")
        if tokenizer is None or not tokenizer.is_fast:
            raise InvalidSetting("recognising needs the model's tokenizer, one that gives offsets")
        longest = window_length(model, tokenizer)
        tokenizer = deepcopy(tokenizer)
        tokenizer.model_max_length = longest  # which is how the pipeline cuts windows
        overlap = (longest - tokenizer.num_special_tokens_to_add()) // 4
        self._threshold = threshold
        self._pipeline = pipeline(
            "token-classification",
            model=model.eval(),
            tokenizer=tokenizer,
            aggregation_strategy="simple",
            stride=overlap,
            device=model.device,
        )

    def entities(self, text: str) -> list[Entity]:
        """All entities of a text that the model is sure enough of, labels without B- and I-."""
        if not text.strip():
            return []
        entities: list[dict[str, Any]] = self._pipeline(text)
        return [
            Entity(int(found["start"]), int(found["end"]), found["entity_group"])
            for found in entities
            if found["score"] >= self._threshold
        ]
