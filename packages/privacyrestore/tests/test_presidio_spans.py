"""Presidio beside the dictionary: its real analyzer, over a pipeline without a model."""

import importlib.util
import sys

import pytest

from lipogram.errors import InvalidSetting, MissingExtra
from privacyrestore.presidio_spans import PresidioRecogniser
from privacyrestore.span_detector import Entity, SpanDetector
from privacyrestore.span_removal import remove_spans

# Importing it takes seconds, so those who only collect the tests do not.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("presidio_analyzer") is None, reason="Presidio is not installed"
)


@pytest.fixture(scope="module")
def analyzer():
    """One of a user's own, which knows numbers of rooms and doubtful words."""
    import presidio_analyzer as presidio
    import spacy
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": "blank"}])
    engine.nlp = {"en": spacy.blank("en")}
    recognizers = [
        presidio.PatternRecognizer(
            supported_entity=name, patterns=[presidio.Pattern(name, regex, score)]
        )
        for name, regex, score in (
            ("ROOM", r"\broom \d+\b", 0.9),
            ("DOUBT", r"\bperhaps \w+\b", 0.4),
        )
    ]
    return presidio.AnalyzerEngine(
        registry=presidio.RecognizerRegistry(recognizers, supported_languages=["en"]),
        nlp_engine=engine,
        supported_languages=["en"],
    )


def test_entities_are_places_of_the_text(analyzer):
    text = "He lies in room 12."
    assert PresidioRecogniser(analyzer).entities(text) == [Entity(11, 18, "ROOM")]
    assert PresidioRecogniser(analyzer).entities("") == []


def test_what_is_below_the_threshold_is_not_named(analyzer):
    sure, unsure = (PresidioRecogniser(analyzer, threshold=least) for least in (0.5, 0.3))
    assert sure.entities("perhaps fever") == []
    assert unsure.entities("perhaps fever") == [Entity(0, 13, "DOUBT")]


def test_a_detector_takes_labels_for_spans_and_removal_takes_them_out(analyzer):
    detector = SpanDetector(
        ("whereabouts", "fever"),
        backend="presidio",
        recogniser=PresidioRecogniser(analyzer, threshold=0.3),
        labels={"ROOM": "whereabouts"},
    )
    removal = remove_spans("He lies in room 12 with perhaps fever.", detector)
    assert removal.text == "He lies."
    assert [span.span_id for span in removal.spans] == [0, 1]
    # An entity without a label of its own counts only where the dictionary knows a part of it.
    assert remove_spans("perhaps chills", detector).text == "perhaps chills"


def test_without_an_analyzer_it_finds_what_the_dictionary_does():
    vocabulary, aliases = ("mild cough", "fever"), {"fever": ("high temperature",)}
    detector = SpanDetector(vocabulary, aliases, backend="presidio")
    alone = SpanDetector(vocabulary, aliases)
    for text in ("A mild cough, high temperature.", "MILD COUGHS", "none", ""):
        assert detector.find(text) == alone.find(text)
    found = PresidioRecogniser.of_dictionary({"fever": ("high temperature",)})
    assert found.entities("a High Temperature") == [Entity(2, 18, "fever")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"language": "xx"}, "knows en"), ({"threshold": 2}, "threshold")],
)
def test_settings_that_mean_nothing_are_refused(analyzer, settings, message):
    with pytest.raises(InvalidSetting, match=message):
        PresidioRecogniser(analyzer, **settings)


def test_what_cannot_analyze_and_an_empty_dictionary_are_refused():
    with pytest.raises(InvalidSetting, match="no presidio_analyzer"):
        PresidioRecogniser(object())
    with pytest.raises(InvalidSetting, match="at least one"):
        PresidioRecogniser.of_dictionary({})


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(MissingExtra, match=r"lipogram-privacyrestore\[presidio\]"):
        SpanDetector(("fever",), backend="presidio")
