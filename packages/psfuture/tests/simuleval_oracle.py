"""SimulEval's and OmniSTEval's own numbers; runs in .venv-simuleval, JSON in and out.

Reads [{"source", "reference", "words", "delays", "unit", "line", "computed"}]; `line` is ours of
instances.log, `computed` the same sentence's with its computation. Answers for each what SimulEval
says of the sentence in memory and of our line, the line that it writes itself, and what OmniSTEval
says.
"""

import json
import sys
from argparse import Namespace

from omnisteval.data import Instance as OmniInstance
from omnisteval.scoring import APScorer, DALScorer, YAALScorer
from simuleval.data.dataloader import TextToTextDataloader
from simuleval.data.segments import TextSegment
from simuleval.evaluator.instance import LogInstance, TextToTextInstance
from simuleval.evaluator.scorers import get_scorer_class

NAMES = ["AL", "LAAL", "AP", "DAL", "ATD", "NumChunks", "StartOffset", "EndOffset"]


def instance(case):
    loader = TextToTextDataloader([case["source"]], [case["reference"]])
    made = TextToTextInstance(0, loader, Namespace(eval_latency_unit=case["unit"]))
    for step in range(1, made.source_length + 1):
        made.send_source(None)
        words = [w for w, d in zip(case["words"], case["delays"], strict=True) if d == step]
        done = step == made.source_length
        made.receive_prediction(TextSegment(content=" ".join(words), finished=done))
    return made


def scores(made, names):
    return {name: get_scorer_class("latency", name)()({0: made}) for name in names}


def answer(case):
    made = instance(case)
    omni = OmniInstance.from_dict(case["line"], latency_unit=case["unit"])
    computed = OmniInstance.from_dict(case["computed"], latency_unit=case["unit"])
    return {
        "memory": scores(made, NAMES),
        "line": made.summarize(),
        "log": scores(
            LogInstance(json.dumps(case["line"]), case["unit"]),
            [name for name in NAMES if name != "ATD"],
        ),
        "yaal": YAALScorer().compute(omni),
        "computed": {
            "AP": APScorer(computation_aware=True)([computed]),
            "DAL": DALScorer(computation_aware=True)([computed]),
        },
    }


json.dump([answer(case) for case in json.load(sys.stdin)], sys.stdout)
