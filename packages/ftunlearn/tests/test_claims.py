"""What the README says of SmolLM2, with slack; minutes of work each."""

import pytest

from ftunlearn.demo import run_demo
from ftunlearn.dissection_report import DissectionReport
from lipogram.errors import MissingExtra, ModelNotFound


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_patching_and_restoring_bring_back(seed, tmp_path):
    try:
        run_demo(tmp_path, seed=seed)
    except (MissingExtra, ModelNotFound) as error:
        pytest.skip(str(error))
    report = DissectionReport.load(tmp_path)
    before, after = (report.content["baseline"][m]["probability"] for m in ("vanilla", "unlearned"))
    assert before >= 20 * after
    both = report.curve("coef+attn")
    best = both.argmax()
    assert both[best] >= 0.85
    assert both[best] >= max(report.curve("coef")[best], report.curve("attn")[best]) - 0.02
    assert report.curve("values").max() <= 0.35
    whole = {item["component"]: item["mean"] for item in report.content["whole"]}
    assert whole["values"]["prob"] < min(whole["keys"]["prob"], whole["attn_weights"]["prob"])
    relearn = report.content["relearn"]
    assert relearn["held_out"][-1] >= 10 * relearn["control"][-1]
    assert report.verdict.numbers["gain"].value >= 0.2
    assert report.verdict.label == "suppressed"
