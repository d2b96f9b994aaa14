"""The drift of a finished study, looked at again through the networks that it kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpcr.drift_calibrator import DriftCalibrator
from dpcr.drift_picture import drift_distances, drift_picture
from dpcr.study_data import StudyData, features_under
from dpcr.study_settings import Study
from dpcr.trained_networks import TrainedNetworks
from lipogram.runs import Run


def draw_drift(study: Study, data: StudyData, run: Run, *, seed: int) -> tuple[Path, str]:
    """The drift picture of one seed after the last task, and how far off the means are.

    Args:
        study: its settings.
        data: network and samples of that seed.
        run: where its networks are kept, and where the picture goes.
        seed: which of its seeds.

    Returns:
        The picture's path, and a sentence.
    """
    tasks = study.stream(data.train_labels, seed)
    trained = TrainedNetworks(
        run.folder / "networks" / f"seed-{seed}", data, tasks, study.train, seed=seed
    )
    gamma = float(study.options.get("gamma", 200.0))
    calibrator = DriftCalibrator(gamma=gamma, pooled=True)
    stored: dict[int | str | bool, NDArray[np.float64]] = {}
    for t, task in enumerate(tasks):
        labels = data.train_labels[task.train]
        new = features_under(trained.after(t).backbone, data.train, task.train)
        old = features_under(trained.after(t - 1).backbone, data.train, task.train) if t else None
        calibrator.observe(old, new, labels).finish()
        rows = new.double().numpy()
        stored |= {label: rows[labels == label].mean(0) for label in task.classes}
    bank = calibrator.bank
    assert bank is not None
    known = [label for label in bank.classes if label not in set(tasks[-1].classes)]
    positions = np.flatnonzero(np.isin(data.train_labels, known))
    now = features_under(trained.after(len(tasks) - 1).backbone, data.train, positions)
    features, labels = now.double().numpy(), data.train_labels[positions]
    true = np.stack([features[labels == label].mean(0) for label in known])
    stale = np.stack([stored[label] for label in known])
    means = (bank.sums / bank.sums.new_tensor(bank.mass)[:, None]).numpy()
    moved = means[[bank.index.slot(label) for label in known]]
    path = run.figure("drift")
    drift_picture(
        true,
        stale,
        moved,
        [data.called(label) for label in known],
        path,
        title="Old classes after the last task",
    )
    before, after = drift_distances(true, stale).mean(), drift_distances(true, moved).mean()
    told = (
        f"The stored means of {len(known)} old classes are {before:.2f} away from where their "
        f"images are now, the calibrated ones {after:.2f} (mean Euclidean distance; the true "
        f"means are {float(np.linalg.norm(true - true.mean(0), axis=1).mean()):.2f} from their "
        "centre)."
    )
    return path, told
