"""How pseudo-features should spread: covariances compared on real features, split by split.

    python packages/aefocl/bench/study_covariance.py [openclipart|digits|both] [SPLITS]

Balanced accuracy and overall accuracy, and the gain in balanced accuracy over the paper's diagonal
covariance (mean, and worst split). Pseudo-features enter by their expectation, so no draw is in the
figures.
"""

import sys
import warnings

import numpy as np

from aefocl.baselines import ClassBalancedRidge
from aefocl.classifier import AEFOCLClassifier
from lipogram.analytic.metrics import accuracy, balanced_accuracy
from lipogram.analytic.scenarios import long_tailed
from lipogram.analytic.sources import features_of
from lipogram.console import show
from lipogram.errors import IllConditioned
from lipogram.report import Table

COVARIANCES = ("diag", "shared", "diag+shared", "lowrank:4")
GAMMAS = {"openclipart": (1.0, 100.0, 1000.0), "digits": (0.01, 1.0, 10.0)}
SPLITS = {"openclipart": 10, "digits": 30}
SIZES = "openclipart has 44 classes of 188 to 16 training rows; digits 100:1"

Scores = dict[tuple[str, float], list[tuple[float, float]]]


def one_split(name: str, seed: int, scores: Scores) -> None:
    """Fit once, then solve for every covariance and γ."""
    data = features_of(name, seed=seed, progress=False)
    rows, labels = data.train.astype(np.float64), data.train_labels
    if name == "digits":
        kept = long_tailed(labels, rho=100, seed=seed)
        rows, labels = rows[kept], labels[kept]

    def add(method: str, gamma: float, predicted: np.ndarray) -> None:
        truth = data.test_labels
        pair = (balanced_accuracy(truth, predicted), accuracy(truth, predicted))
        scores.setdefault((method, gamma), []).append(pair)

    for covariance in COVARIANCES:
        head = AEFOCLClassifier(buffer_size=None, sampler="expected", covariance=covariance)
        head.fit(rows, labels)
        for gamma in GAMMAS[name]:
            head.gamma = gamma
            add(covariance, gamma, head.predict(data.test))
            if covariance == "diag":
                add("plain ridge", gamma, head.predict(data.test, balanced=False))
    for gamma in GAMMAS[name]:
        air = ClassBalancedRidge(gamma).partial_fit(rows, labels)
        add("AIR", gamma, air.predict(data.test))


def study(name: str, splits: int) -> Table:
    """One row a method, three columns a γ."""
    scores: Scores = {}
    for seed in range(splits):
        one_split(name, seed, scores)
        print(f"{name}: split {seed + 1} of {splits}", file=sys.stderr)
    methods = list(dict.fromkeys(method for method, _ in scores))
    rows: list[list[str | float]] = []
    for method in methods:
        row: list[str | float] = [method]
        for gamma in GAMMAS[name]:
            mine, theirs = np.array(scores[method, gamma]), np.array(scores["diag", gamma])
            gain = mine[:, 0] - theirs[:, 0]
            both = f"{mine[:, 0].mean():.3f} / {mine[:, 1].mean():.3f}"
            row += [both, f"{gain.mean():+.3f} ({gain.min():+.3f})"]
        rows.append(row)
    columns = ["covariance"]
    for gamma in GAMMAS[name]:
        columns += [f"γ={gamma:g}: balanced / overall", "over diag (worst)"]
    return Table(columns=columns, rows=rows, caption=f"{splits} splits; {SIZES}.")


def main(arguments: list[str]) -> None:
    """Print a table a data set."""
    wanted = arguments[0] if arguments else "both"
    for name in SPLITS if wanted == "both" else (wanted,):
        splits = int(arguments[1]) if len(arguments) > 1 else SPLITS[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IllConditioned)
            show(study(name, splits), name)


if __name__ == "__main__":
    main(sys.argv[1:])
