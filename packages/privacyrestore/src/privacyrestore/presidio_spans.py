"""Entities that Microsoft Presidio finds, for the detector's backend "presidio"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lipogram.errors import InvalidSetting, MissingExtra
from privacyrestore.span_detector import Entity


class PresidioRecogniser:
    """The entities of a Presidio analyzer.

    Some of Presidio's own recognisers (of addresses in the web and of mail) fetch a list of domains
    when first used; those of :meth:`of_dictionary` load and send nothing.

    Args:
        analyzer: a `presidio_analyzer.AnalyzerEngine`.
        language: of the texts; the analyzer must know it.
        threshold: the least score of an entity, in [0, 1].

    Raises:
        InvalidSetting: no analyzer, one of other languages, or another threshold.
    """

    def __init__(self, analyzer: Any, *, language: str = "en", threshold: float = 0.35):
        if not hasattr(analyzer, "analyze"):
            raise InvalidSetting(
                f"{type(analyzer).__name__} is no presidio_analyzer.AnalyzerEngine: it cannot "
                "analyze"
            )
        if language not in analyzer.supported_languages:
            known = ", ".join(analyzer.supported_languages)
            raise InvalidSetting(f"the analyzer knows {known}, not {language!r}")
        if not 0 <= threshold <= 1:
            raise InvalidSetting(f"threshold = {threshold}, it must be within [0, 1]")
        self._analyzer, self._language, self._threshold = analyzer, language, threshold

    @classmethod
    def of_dictionary(
        cls, spellings: Mapping[str, Sequence[str]], language: str = "en"
    ) -> PresidioRecogniser:
        """One that looks for given spellings, over a spaCy pipeline without a model.

        Args:
            spellings: for each span type, which is the entity's label, how it is written.
            language: of the texts; one that spaCy can split into words.

        Raises:
            MissingExtra: Presidio is not installed.
            InvalidSetting: a language that spaCy does not know, or nothing to look for.
        """
        try:
            import spacy
            from presidio_analyzer import AnalyzerEngine, PatternRecognizer, RecognizerRegistry
            from presidio_analyzer.nlp_engine import SpacyNlpEngine
        except ImportError as error:
            raise MissingExtra(
                "presidio-analyzer", "pip install 'lipogram-privacyrestore[presidio]'"
            ) from error
        if not spellings:
            raise InvalidSetting("Presidio needs at least one span type to look for")
        engine: Any = SpacyNlpEngine(models=[{"lang_code": language, "model_name": "blank"}])
        try:
            engine.nlp = {language: spacy.blank(language)}  # or it would fetch a model
        except ImportError:
            raise InvalidSetting(f"spaCy knows no language {language!r}") from None
        recognizers = [
            PatternRecognizer(
                supported_entity=name, supported_language=language, deny_list=list(written)
            )
            for name, written in spellings.items()
        ]
        registry = RecognizerRegistry(recognizers, supported_languages=[language])
        analyzer = AnalyzerEngine(
            registry=registry, nlp_engine=engine, supported_languages=[language]
        )
        return cls(analyzer, language=language)

    def entities(self, text: str) -> list[Entity]:
        """All entities of a text that the analyzer is sure enough of."""
        found = self._analyzer.analyze(
            text, language=self._language, score_threshold=self._threshold
        )
        return [Entity(result.start, result.end, result.entity_type) for result in found]
