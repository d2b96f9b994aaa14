import re
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from dpcr import DriftCalibrator
from dpcr.augmentation import image_recipe
from dpcr.presets import (
    DEVIATIONS,
    NAMES,
    deviations_table,
    preset,
    presets_table,
)
from dpcr.train_settings import TrainConfig
from lipogram.analytic.sources import IMAGE_SETS
from lipogram.errors import InvalidSetting

AUTHORS = TrainConfig(
    first_epochs=200,
    first_lr=0.1,
    first_milestones=(60, 120, 160),
    first_decay=0.1,
    first_weight_decay=5e-4,
    epochs=100,
    lr=0.05,
    milestones=(45, 90),
    decay=0.1,
    weight_decay=2e-4,
    momentum=0.9,
    batch_size=128,
    lam=10.0,
    temperature=2.0,
    head_scale=1.0,
)
RECIPES = Path(__file__).parents[1] / "docs" / "recipes.md"


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}-released" for name in NAMES)])
def test_every_preset_is_whole(name: str) -> None:
    found = preset(name)
    assert found.name == name
    assert found.dataset in IMAGE_SETS
    assert image_recipe(found.dataset).side in (32, 64, 224)
    assert found.init_cls + (found.n_tasks - 1) * found.increment == found.n_classes
    assert max(found.train.first_milestones) < found.train.first_epochs
    assert found.released == name.endswith("-released")


def test_cold_and_warm_starts() -> None:
    cold, warm = preset("cifar100-20"), preset("cifar100-b50-inc10")
    assert (cold.init_cls, cold.increment, cold.n_tasks) == (5, 5, 20)
    assert (warm.init_cls, warm.increment, warm.n_tasks) == (50, 10, 6)
    uneven = preset("cifar100-b50-inc20")
    assert uneven.n_tasks == 4
    assert preset("imagenet1k-10").increment == 100
    assert preset("cub200-5").increment == 40


def test_intended_and_released_differ_where_the_code_shadows_its_settings() -> None:
    intended = {
        "cifar100": (0.05, 10, 200),
        "tinyimagenet": (0.001, 10, 2000),
        "imagenet100": (0.05, 5, 2000),
        "imagenet1k": (0.05, 5, 2000),
        "cub200": (0.05, 20, 200),
    }
    for name, (lr, lam, gamma) in intended.items():
        meant, runs = preset(f"{name}-10"), preset(f"{name}-10-released")
        assert meant.gamma == runs.gamma == gamma
        assert meant.train == replace(AUTHORS, lr=lr, lam=lam)
        assert runs.train == AUTHORS
        assert (meant.cip, meant.stats_augment) == ("none", "none")
        assert (meant.eps, meant.prior) == ("classes", "auto")
        assert (runs.cip, runs.stats_augment) == ("official", "train")
        assert (runs.eps, runs.prior) == (1e-12, "zero")
        for each in (meant, runs):
            DriftCalibrator(gamma=each.gamma, eps=each.eps, prior=each.prior, cip=each.cip)
        assert runs.reported == meant.reported
        assert not runs.pretrained
        differing = {
            f.name for f in fields(meant) if getattr(meant, f.name) != getattr(runs, f.name)
        }
        assert differing <= {"name", "train", "eps", "prior", "cip", "stats_augment", "pretrained"}


def test_stems_are_those_of_the_released_networks() -> None:
    stems = {name: preset(name).stem for name in NAMES}
    assert {stems["cifar100-10"], stems["tinyimagenet-10"]} == {"small"}
    assert {stems["imagenet100-10"], stems["imagenet1k-10"]} == {"small-pool"}
    assert stems["cub200-5"] == "imagenet"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("cifar100", "no preset 'cifar100'.*cifar100-10"),
        ("mnist-10", "no preset"),
        ("cifar100-3", "do not make 3 equal"),
        ("cifar100-0", "do not make 0"),
        ("cifar100-b0-inc10", "0 classes first"),
        ("cifar100-b50-inc60", "60 a task"),
        ("cifar100-10-released-released", "no preset"),
    ],
)
def test_an_unknown_name_is_refused(name: str, match: str) -> None:
    with pytest.raises(InvalidSetting, match=match):
        preset(name)


def test_presets_are_listed_without_torch() -> None:
    code = "import sys, dpcr.presets as p; p.presets_table(); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


@pytest.mark.skipif(not RECIPES.exists(), reason="the source archive has no docs")
def test_the_recipes_state_the_presets() -> None:
    text = RECIPES.read_text(encoding="utf-8")
    named = set(re.findall(r"--preset ([\w-]+)", text.replace("$", " ")))
    assert {"cifar100-10", "tinyimagenet-10-released"} <= named
    for name in named:
        preset(name)
    rows = re.findall(
        r"^\| (`\S+?`.*?) \|[^|]*\| (\d+) \| ([\d.]+) \| (\d+) \|", text, re.MULTILINE
    )
    told = {
        name: tuple(map(float, row[1:])) for row in rows for name in re.findall(r"`(.+?)`", row[0])
    }
    assert set(told) == {name for name in NAMES if "-b" not in name}
    for name, numbers in told.items():
        found = preset(name)
        assert numbers == (found.gamma, found.train.lr, found.train.lam)
    for name in ("cifar100-10", "tinyimagenet-10", "imagenet100-10"):
        last, average = preset(name).reported or ()
        assert f"≈ {last} / {average}" in text


def test_the_tables_name_everything() -> None:
    table = presets_table()
    assert [row[0] for row in table.rows] == list(NAMES)
    row = next(row for row in table.rows if row[0] == "tinyimagenet-10")
    assert row == ["tinyimagenet-10", 10, "20+20", 2000.0, 0.001, 10.0, "≈ 35.2 / 47.6"]
    assert len(deviations_table().rows) == len(DEVIATIONS) >= 10
    assert asdict(preset("cifar100-10"))["train"]["first_epochs"] == 200
