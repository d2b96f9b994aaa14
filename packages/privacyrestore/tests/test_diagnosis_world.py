"""The generated world agrees with the package that it serves to test."""

import pytest

from privacyrestore.diagnosis_world import DiagnosisWorld
from privacyrestore.span_detector import SpanDetector
from privacyrestore.span_removal import remove_spans


@pytest.mark.parametrize("seed", range(4))
def test_removal_makes_of_a_question_what_the_world_says_without_its_spans(seed):
    world = DiagnosisWorld(seed)
    detector = SpanDetector(world.vocabulary)
    for case in world.cases(1_000, seed=5):
        removal = remove_spans(case.question, detector)
        assert removal.text == world.removed(case)
        assert tuple(span.span_id for span in removal.spans) == world.span_ids(case)
