"""The generated world as files, for every command to be tried on without any other data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lipogram.files import write_atomically
from privacyrestore.diagnosis_world import DIAGNOSES, FINDINGS, Case, DiagnosisWorld
from privacyrestore.world_study import MODEL_STEPS, TEST, TRAIN

N_TRAIN, N_TEST = 2000, 400


def write_world(folder: str | Path, seed: int = 0) -> dict[str, Path]:
    """Train the world's model and write it, the span types and questions; a minute on one core.

    Args:
        folder: gets `model/`, `spans.json`, `train.jsonl` and `test.jsonl`.
        seed: of world and model.

    Returns:
        The four paths by name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    world = DiagnosisWorld(seed)
    loaded = world.train_model(seed=seed, steps=MODEL_STEPS)
    loaded.model.save_pretrained(folder / "model")
    loaded.tokenizer.save_pretrained(folder / "model")
    write_atomically(folder / "spans.json", json.dumps(world.vocabulary, indent=1).encode())
    for name, n, cases in (("train", N_TRAIN, TRAIN), ("test", N_TEST, TEST)):
        _write_rows(folder / f"{name}.jsonl", world, world.cases(n, cases))
    return {
        "model": folder / "model",
        "spans": folder / "spans.json",
        "train": folder / "train.jsonl",
        "test": folder / "test.jsonl",
    }


def _write_rows(path: Path, world: DiagnosisWorld, cases: Sequence[Case]) -> None:
    lines = []
    for case in cases:
        hidden = [i for i in case.findings if i in world.spans]
        row = {
            "question": case.question,
            "question_removed": world.removed(case),
            "private_spans": [FINDINGS[i] for i in hidden],
            "kept_spans": [FINDINGS[i] for i in case.findings if i not in hidden],
            "options": list(DIAGNOSES),
            "answer": DIAGNOSES[case.diagnosis],
            "answer_index": case.diagnosis,
        }
        lines.append(json.dumps(row) + "\n")
    write_atomically(path, "".join(lines).encode())
