"""What is claimed of drifting features, on handwritten digits and five seeds."""

from dataclasses import replace

import pytest

from dpcr.real_images import data_of, study_of
from dpcr.study import run_study

METHODS = ("lwf", "stale", "frozen", "dpcr, by rows", "oracle")


@pytest.fixture(scope="module")
def last(tmp_path_factory):
    """Mean accuracy on all ten classes after five tasks of two, by method."""
    study = replace(
        study_of("digits", seeds=(0, 1, 2, 3, 4), methods=("lwf",)),
        methods=METHODS,
        variants={"dpcr, by rows": {"method": "dpcr", "eps": "auto"}},
    )
    folder = tmp_path_factory.mktemp("digits")
    methods = run_study(study, data_of("digits"), folder).result["methods"]
    return {name: figures["a_last"]["mean"] for name, figures in methods.items()}


def test_moved_statistics_beat_the_training_head_which_beats_stale_ones(last):
    assert last["dpcr, by rows"] > last["lwf"] + 0.08
    assert last["lwf"] > last["stale"] + 0.05


def test_all_images_kept_are_still_out_of_reach(last):
    assert last["oracle"] > last["dpcr, by rows"] + 0.10


def test_where_the_first_task_teaches_enough_a_frozen_network_wins(last):
    """Digits drift for nothing: what two of them teach a network serves for all ten."""
    assert last["frozen"] > last["dpcr, by rows"] + 0.05
