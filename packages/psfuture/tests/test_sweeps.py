"""Sweeps over a toy model: the same result in one go, in pieces, and by several processes."""

import itertools
import json
import multiprocessing

import pandas as pd
import pytest

from lipogram.errors import CorruptState, InvalidSetting, RunMismatch
from psfuture.futures import Fixed, Frequent, Multi, Oracle
from psfuture.points import Point, against, description, identity, knob_of, table
from psfuture.policies import HoldN, Limits, LocalAgreement, Offline, PsFuture, WaitK
from psfuture.simulation import simulate
from psfuture.sweep_files import read_points
from psfuture.sweeps import Share, sweep, sweep_points

from .toy_backend import ToyBackend

FAMILIES = {
    "psfuture": [PsFuture(0.01), PsFuture(0.3)],
    "wait-k": [WaitK(1), WaitK(3)],
    "offline": [Offline()],
}
WORDS = "the cat sat on every second mat and did not want to leave".split()
SOURCES = [" ".join(WORDS[at % 4 : at % 4 + 3 + at % 6]) for at in range(11)] + [""]
REFERENCES = [trace.text + " ." for trace in simulate(ToyBackend(), Offline(), SOURCES)]


def asked(toy):
    return toy.asked["begun"] + toy.asked["stepped"]


@pytest.fixture
def toy():
    return ToyBackend()


@pytest.fixture
def whole(toy):
    return sweep(toy, FAMILIES, SOURCES, REFERENCES)


def test_a_row_is_the_score_of_the_policys_traces(toy, whole):
    assert whole.policy.tolist() == ["psfuture"] * 2 + ["wait-k"] * 2 + ["offline"]
    assert whole.knob.tolist()[:4] == [0.01, 0.3, 1, 3]
    assert whole.knob.isna().tolist() == [False] * 4 + [True]
    for (_, row), policy in zip(whole.iterrows(), itertools.chain(*FAMILIES.values()), strict=True):
        alone = table([Point("x", None, True, simulate(toy, policy, SOURCES, REFERENCES))])
        for column in ("BLEU", "chrF", "AL", "LAAL", "AP", "DAL", "CW", "ATD"):
            assert row[column] == pytest.approx(alone[column][0])
        assert (row.sentences, row["empty"]) == (alone.sentences[0], alone["empty"][0])
    assert (whole["empty"] >= 1).all()
    assert whole.AL.nunique() > 3


def test_a_folder_changes_nothing_and_is_not_done_again(toy, whole, tmp_path):
    kept = sweep(toy, FAMILIES, SOURCES, REFERENCES, folder=tmp_path, batch_size=4)
    pd.testing.assert_frame_equal(kept, whole)
    before = asked(toy)
    again = sweep(toy, FAMILIES, SOURCES, REFERENCES, folder=tmp_path)
    pd.testing.assert_frame_equal(again, whole)
    assert asked(toy) == before
    file = pd.read_csv(tmp_path / "curve.tsv", sep="\t")
    assert sorted(file.AL) == pytest.approx(sorted(whole.AL), abs=1e-4)
    assert not list(tmp_path.rglob("part-*"))


def test_another_point_joins_those_that_are_done(toy, tmp_path):
    sweep(toy, FAMILIES, SOURCES, REFERENCES, folder=tmp_path)
    more = {"wait-k": [WaitK(1), WaitK(2)]}
    assert sweep(toy, more, SOURCES, REFERENCES, folder=tmp_path).knob.tolist() == [1, 2]
    assert [p.knob for p in read_points(tmp_path) if p.family == "wait-k"] == [1, 2, 3]
    assert len(pd.read_csv(tmp_path / "curve.tsv", sep="\t")) == 6


@pytest.mark.parametrize("batches", [1, 2])
def test_an_interrupted_sweep_goes_on_where_it_was(toy, whole, tmp_path, batches):
    class Interrupted(KeyboardInterrupt):
        pass

    seen = []

    def stop(count):
        seen.append(count)
        if len(seen) == batches:
            raise Interrupted

    with pytest.raises(Interrupted):
        sweep(toy, FAMILIES, SOURCES, REFERENCES, folder=tmp_path, batch_size=4, progress=stop)
    parts = list(tmp_path.rglob("part-0.jsonl"))
    assert len(parts) == 5
    for part in parts:
        assert len([json.loads(line) for line in part.read_text().splitlines()]) == 4 * batches
        with open(part, "a") as file:
            file.write('{"index": 11, "sour')  # torn by a power cut
    assert read_points(tmp_path) == []
    fresh = ToyBackend()
    rest = sweep(fresh, FAMILIES, SOURCES, REFERENCES, folder=tmp_path, batch_size=4)
    pd.testing.assert_frame_equal(rest, whole)
    assert asked(fresh) < asked(toy)


def _process(rank, world, folder):
    frame = sweep(
        ToyBackend(),
        FAMILIES,
        SOURCES,
        REFERENCES,
        folder=folder,
        batch_size=2,
        share=Share(rank, world),
    )
    frame.to_pickle(f"{folder}/rank-{rank}.frame")


def test_two_processes_make_what_one_makes(whole, toy, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    sweep(toy, FAMILIES, SOURCES, REFERENCES, folder=alone)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_process, args=(rank, 2, shared)) for rank in (1, 0)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (shared / "curve.tsv").read_bytes() == (alone / "curve.tsv").read_bytes()
    for path in (alone / "points").glob("*/trace.jsonl"):
        assert (shared / path.relative_to(alone)).read_bytes() == path.read_bytes()


def test_the_launchers_share(monkeypatch):
    assert Share.of_launcher() == Share(0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert Share.of_launcher() == Share(2, 3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidSetting, match="rank 2 of 2"):
        Share.of_launcher()
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(InvalidSetting, match="many"):
        Share.of_launcher()


def test_timed_streams_say_the_same_and_how_long_they_computed(toy, whole):
    timed = sweep(toy, FAMILIES, SOURCES, REFERENCES, timed=True)
    for column in ("BLEU", "AL", "DAL"):
        assert timed[column].tolist() == pytest.approx(whole[column].tolist())
    assert (timed.AL_CA >= timed.AL).all()
    assert (timed.AL_CA <= timed.AL + 5).all()


def test_what_cannot_be_swept_is_refused_before_anything_runs(toy, tmp_path):
    with pytest.raises(InvalidSetting, match="12 sources and 11 references"):
        sweep(toy, FAMILIES, SOURCES, REFERENCES[:-1], folder=tmp_path / "run")
    with pytest.raises(InvalidSetting, match="wait-1 is twice"):
        sweep(toy, {"a": [WaitK(1), WaitK(1)]}, SOURCES, REFERENCES, folder=tmp_path / "run")
    with pytest.raises(InvalidSetting, match="at least one policy"):
        sweep(toy, {"a": []}, SOURCES, REFERENCES, folder=tmp_path / "run")
    with pytest.raises(InvalidSetting, match="folder"):
        sweep(toy, FAMILIES, SOURCES, REFERENCES, share=Share(0, 2))
    with pytest.raises(InvalidSetting, match="analysis"):
        sweep(toy, {"a": [PsFuture(0.1, Oracle())]}, SOURCES, REFERENCES, folder=tmp_path / "run")
    with pytest.raises(InvalidSetting, match="sentence 2 has"):
        sweep(toy, FAMILIES, ["a", "b " * 2000], ["a", "b"], folder=tmp_path / "run")
    with pytest.raises(InvalidSetting, match="0 sentences"):
        sweep(toy, FAMILIES, [], [], folder=tmp_path / "run")
    with pytest.raises(InvalidSetting, match="batches of 0"):
        sweep(toy, FAMILIES, SOURCES, REFERENCES, folder=tmp_path / "run", batch_size=0)
    assert not (tmp_path / "run").exists()
    assert asked(toy) == 0


def test_a_folder_of_other_sentences_is_refused_and_left_alone(toy, tmp_path):
    sweep(toy, FAMILIES, SOURCES, REFERENCES, folder=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunMismatch, match="data"):
        sweep(toy, FAMILIES, SOURCES, REFERENCES[::-1], folder=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_files_that_are_no_traces_are_refused(toy, tmp_path):
    sweep(toy, {"wait-k": [WaitK(1)]}, SOURCES, REFERENCES, folder=tmp_path)
    path = next(tmp_path.rglob("trace.jsonl"))
    lines = path.read_text().splitlines(keepends=True)
    for broken in (["{}\n", *lines[1:]], lines[:-1], ["no json\n", *lines[1:]]):
        path.write_text("".join(broken))
        with pytest.raises(CorruptState, match=r"trace\.jsonl"):
            read_points(tmp_path)
    with pytest.raises(CorruptState, match="no run"):
        read_points(tmp_path / "points")


def test_the_knob_is_what_a_curve_runs_over():
    assert knob_of(PsFuture(0.25)) == 0.25
    assert [knob_of(policy) for policy in (WaitK(3), LocalAgreement(2), HoldN(4))] == [3, 2, 4]
    assert knob_of(Offline()) is None


def test_every_setting_has_a_name_of_its_own():
    policies = [
        PsFuture(0.1),
        PsFuture(0.2),
        PsFuture(0.1, prefix_eos=False),
        PsFuture(0.1, divergence="js"),
        PsFuture(0.1, limits=Limits(min_reads=2)),
        PsFuture(0.1, future=Fixed("or else.")),
        PsFuture(0.1, future=Frequent(["a b c d"])),
        PsFuture(0.1, future=Frequent(["a b c e"])),
        PsFuture(0.1, future=Multi([Fixed("a"), Fixed("b")])),
        PsFuture(0.1, future=Multi([Fixed("a"), Fixed("c")])),
        WaitK(1),
        WaitK(1, catchup=0.1),
    ]
    assert len({identity("x", policy) for policy in policies}) == len(policies)
    assert identity("x", WaitK(1)) == identity("x", WaitK(1)) != identity("y", WaitK(1))
    assert identity("x", WaitK(1)) != identity("x", WaitK(1), timed=True)
    assert all(json.dumps(description(policy)) for policy in policies)
    assert "/" not in identity("../x", WaitK(1))


def test_each_curve_meets_each_curve_of_the_baseline(toy):
    families = {
        "psfuture": [PsFuture(0.01), PsFuture(0.3), PsFuture(0.01, prefix_eos=False)],
        "wait-k": [WaitK(1), WaitK(3), WaitK(1, prefix_eos=False), WaitK(3, prefix_eos=False)],
        "offline": [Offline()],
    }
    points = sweep_points(toy, families, SOURCES, REFERENCES)
    found = against(points, "wait-k", at=[1.5], resamples=20)
    assert set(found) == {
        (f"psfuture, {ours}", f"wait-k, {theirs}")
        for ours in ("closed", "open")
        for theirs in ("closed", "open")
    }
    assert [row.latency for row in found["psfuture, closed", "wait-k, open"]] == [
        "AL",
        "LAAL",
        "DAL",
    ]
    with pytest.raises(InvalidSetting, match="agreement"):
        against(points, "agreement", at=[1.5])
