import json
import math

import pytest

from privacyrestore.guarantee import Guarantee


@pytest.mark.parametrize(
    ("guarantee", "parts"),
    [
        (Guarantee("subspace", 3.0, 2.0, 6.0), ("metric ε 3 ", "worst-case local ε of 6:", "403")),
        (Guarantee("full", 75.0, 2.0, 150.0), ("metric ε 75 ", "local ε of 150:", "10^65,")),
        (Guarantee("gaussian", None, 2.0, 4.0, 1e-6), ("local ε of 4 at δ = 1e-06", "54.6", "but")),
        (Guarantee("none", None, 2.0, math.inf), ("nothing is hidden", "local ε is infinite")),
        (Guarantee("scalar-compat", None, 2.0, math.inf), ("nothing is hidden", "is infinite")),
    ],
)
def test_every_sentence_has_the_worst_case_and_promises_nothing(guarantee, parts):
    said = guarantee.sentence()
    assert guarantee.mechanism in said
    assert said.endswith(".")
    assert "private" not in said
    for part in parts:
        assert part in said


def test_what_is_infinite_is_a_word_in_json():
    told = Guarantee("none", None, 2.0, math.inf).as_json()
    assert json.loads(json.dumps(told, allow_nan=False))["worst_case_local_epsilon"] == "infinite"
    assert Guarantee("full", 2.0, 2.0, 4.0).as_json()["worst_case_local_epsilon"] == 4.0
