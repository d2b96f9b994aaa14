"""A training run in a process of its own, to be killed: `python p2f_run.py OUT`."""

import importlib.util
import sys
from pathlib import Path

from psfuture.p2f_settings import P2FSettings
from psfuture.p2f_training import train_p2f

SETTINGS = P2FSettings(
    steps=9,
    tokens=24,
    save_every=2,
    log_every=2,
    held_out=4,
    learning_rate=1e-2,
    threads=1,
    freeze_embeddings=False,
)

if __name__ == "__main__":
    place = Path(__file__).with_name("p2f_models.py")
    spec = importlib.util.spec_from_file_location("p2f_models", place)
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    train_p2f(tiny.backend(), tiny.pairs(16), sys.argv[1], SETTINGS)
