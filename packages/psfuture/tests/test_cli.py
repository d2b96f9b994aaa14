"""The real command on the real model, as a person types it."""

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import urllib.request
import warnings
from pathlib import Path

import pytest

from lipogram import assets
from psfuture import models, policy_text
from psfuture.cli import main

from .echo_server import english_portuguese

COMMAND = Path(sysconfig.get_path("scripts")) / "psfuture"
COMMANDS = "demo translate simulate sweep plot calibrate score train-p2f convert serve agent data"
ENGLISH = [
    "Click the button to open the file .",
    "",
    "I do not know what he wants to say .",
    " \t ",
    "If the disk is full , remove some files .",
]
PORTUGUESE = [
    "Clique no botão para abrir o arquivo .",
    "",
    "Não sei o que ele quer dizer .",
    "",
    "Se o disco estiver cheio , remova alguns arquivos .",
]


def typed(*arguments, text=None):
    return subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, input=text, check=False
    )


@pytest.fixture(scope="module")
def model():
    return english_portuguese()


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs the command in this process: exit code, stdout, stderr."""

    def run(*arguments, text=""):
        typed_in = tmp_path / "stdin"
        typed_in.write_bytes(text if isinstance(text, bytes) else text.encode())
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["psfuture", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        # The language model takes seconds to load; it has a test of its own.
        monkeypatch.setattr(policy_text, "default_future", lambda *_: "fixed: and so on.")
        with open(typed_in) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            with pytest.raises(SystemExit) as stopped:
                main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def ready(command, model, monkeypatch):
    """The command with the model loaded once for all tests; it must succeed."""
    load = models.load

    def once(spec, **settings):
        usual = spec == "enpt" and set(settings.values()) <= {None, "auto"}
        return model if usual else load(spec, **settings)

    monkeypatch.setattr(models, "load", once)

    def run(*arguments, text=""):
        code, out, err = command(*arguments, text=text)
        assert code == 0, err
        return out

    return run


@pytest.fixture
def files(tmp_path):
    source, references = tmp_path / "en.txt", tmp_path / "pt.txt"
    source.write_text("\n".join(ENGLISH) + "\n")
    references.write_text("\n".join(PORTUGUESE) + "\n")
    return source, references


def test_version_is_the_distributions():
    result = typed("--version")
    assert result.returncode == 0
    assert result.stdout.strip() == f"psfuture {importlib.metadata.version('lipogram-psfuture')}"


def test_help_names_every_command(command):
    _, shown, _ = command("--help")
    for name in COMMANDS.split():
        assert re.search(rf"^│ {name} ", shown, re.MULTILINE), name
        code, own, _ = command(name, "--help")
        assert code == 0
        assert "Usage" in own


def test_command_line_loads_nothing_heavy():
    code = "import sys, psfuture.cli; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    heavy = {"numpy", "torch", "transformers", "pandas", "matplotlib", "sacrebleu", "fastapi"}
    assert not heavy & set(result.stdout.split())
    assert "psfuture.cli" in result.stdout


def test_words_are_translated_while_they_are_typed(model):
    process = subprocess.Popen(
        [COMMAND, "translate", "--policy", "wait:1", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        process.stdin.write("Click the button ")
        process.stdin.flush()
        events = []
        while len([event for event in events if event["kind"] == "read"]) < 3:
            events.append(json.loads(process.stdout.readline()))
        assert [e["text"] for e in events if e["kind"] == "read"] == ["Click", "the", "button"]
        process.stdin.write("now .\n")
        process.stdin.close()
        rest = process.stdout.read()  # communicate() would lose lines that were read ahead
    finally:
        process.kill()
        process.wait()
    events += map(json.loads, rest.splitlines())
    *_, end = events
    written = [event for event in events if event["kind"] == "write"]
    assert any(event["src_read"] < 5 for event in written)
    assert end["text"] == " ".join(event["text"] for event in written)
    assert end["delays"] == [event["src_read"] for event in written]
    assert {event["sentence"] for event in events} == {1}


def test_a_line_in_is_a_line_out_and_what_the_simulation_says(ready, files, tmp_path):
    shown = ready("translate", "--policy", "wait:2", text="\n".join(ENGLISH))
    ready("simulate", files[0], "--policy", "wait:2", "--out", tmp_path / "run")
    traces = [json.loads(line) for line in (tmp_path / "run/trace.jsonl").read_text().splitlines()]
    assert shown.splitlines() == [" ".join(trace["words"]) for trace in traces]
    assert shown.splitlines()[1] == shown.splitlines()[3] == ""


def test_english_is_continued_by_a_language_model(ready):
    if assets.find("smollm2") is None:
        pytest.skip("smollm2 is not here; `psfuture demo` brings it")
    asked = ("--future", "lm", "--max-words-per-read", 1, "--json")
    lines = ready("translate", *asked, text="Click the button to open the file .").splitlines()
    events = [json.loads(line) for line in lines]
    early = [e["src_read"] for e in events if e["kind"] == "write" and e["src_read"] < 8]
    assert early
    assert max(map(early.count, early)) == 1


def test_an_empty_line_has_no_delays(ready):
    lines = ready("translate", "--json", text="\n \t\n").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"sentence": number, "kind": "end", "text": "", "delays": []} for number in (1, 2)
    ]


def test_a_simulation_goes_on_and_its_log_scores_the_same(ready, files, tmp_path):
    run = tmp_path / "run"
    asked = ("simulate", files[0], "--refs", files[1], "--out", run, "--json")
    scores = json.loads(ready(*asked))
    assert scores["BLEU"] > 30
    assert (scores["sentences"], scores["empty"]) == (3, 2)
    assert json.loads(ready(*asked)) == scores
    assert json.loads(ready("score", run / "instances.log", "--json")) == scores
    assert json.loads(ready("score", run / "trace.jsonl", "--json")) == scores
    others = ready("score", run / "trace.jsonl", "--refs", files[0], "--json")
    assert json.loads(others)["BLEU"] < scores["BLEU"]
    table = ready("score", run / "instances.log")
    assert f"{scores['LAAL']:.3f}" in table
    assert scores["BLEU_signature"] in table


def test_timed_sentences_tell_what_computing_costs(ready, files):
    scores = json.loads(ready("simulate", files[0], "--first", 1, "--timed", "--json"))
    assert scores["AL_CA"] > scores["AL"]


def test_a_sweep_draws_curves_and_calls_no_win_over_zero(ready, files, tmp_path):
    out = tmp_path / "sweep"
    policies = (
        "--policy",
        "psfuture:0.001,0.02,0.5",
        "--policy",
        "wait:1,3",
        "--policy",
        "offline",
    )
    asked = ("sweep", files[0], "--refs", files[1], "--out", out, *policies, "--resamples", 50)
    shown = ready(*asked, "--at", "2,3,50")
    assert f"report: {out / 'report.html'}" in shown
    assert "offline, closed" in shown
    assert (out / "report.html").read_text().count("data:image/svg+xml") == 4
    assert len((out / "curve.tsv").read_text().splitlines()) == 7
    found = json.loads(ready(*asked, "--at", "2,3,50", "--json"))
    names = ["psfuture"] * 3 + ["wait"] * 2 + ["offline"]
    assert [row["policy"] for row in found["points"]] == names
    assert len(found["differences"]) == 9
    for row in found["differences"]:
        if row["gap"]:
            assert row["verdict"] == "not compared"
            assert row["difference"] is None
        elif row["low"] <= 0 <= row["high"]:
            assert row["verdict"] == "not told apart"
    assert all(row["gap"] for row in found["differences"] if row["at"] == 50)
    shown = ready("plot", out, "--x", "CW", "--baseline", "wait", "--sentence", 5)
    assert "Not compared elsewhere" in shown
    assert (out / "curve-CW.svg").exists()
    assert "disco" in (out / "trace.svg").read_text()
    assert "wait, closed" in (out / "report.html").read_text()


def test_a_calibrated_threshold_is_used(ready, command, files, tmp_path):
    held = tmp_path / "held.json"
    asked = ("calibrate", files[0], "--refs", files[1], "--targets", "2.5,4,6", "--out", held)
    assert "medium" in ready(*asked)
    levels = json.loads(held.read_text())["levels"]
    for level in ("low", "high"):
        chosen = ("--calibration", held, "--level", level, "--json")
        scores = json.loads(ready("simulate", *files[:1], "--refs", files[1], *chosen))
        assert scores["AL"] == pytest.approx(levels[level]["latency"], abs=1e-6)
    held.write_text(held.read_text().replace("bergamot:", "other:"))
    code, _, err = command("translate", "--calibration", held)
    assert code == 2
    assert "other:" in err


def test_the_agents_path_is_printed(ready):
    assert Path(ready("agent").strip()).name == "simuleval_agent.py"


def test_a_converted_model_translates_the_same(ready, tmp_path):
    folder = assets.find("bergamot-enpt")
    assert "model: bergamot:" in ready(
        "convert", tmp_path / "made", "--model", f"bergamot:{folder}"
    )
    line = "Click the button to open the file .\n"
    ours = ready("translate", "--model", f"bergamot:{tmp_path / 'made'}", text=line)
    assert ours == ready("translate", text=line)


@pytest.mark.slow
def test_a_model_is_trained_a_step(ready, files, tmp_path):
    out = tmp_path / "p2f"
    asked = ("--steps", 1, "--held-out", 1, "--targets", "reference", "--seed", 3, "--json")
    found = json.loads(ready("train-p2f", files[0], "--refs", files[1], "--out", out, *asked))
    assert found["steps"] == 1
    assert (out / "model").is_dir()


@pytest.mark.slow
def test_the_page_is_served_until_it_is_interrupted(model):
    process = subprocess.Popen(
        [COMMAND, "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
        assert url
        with urllib.request.urlopen(url[0], timeout=10) as answer:
            assert b"<html" in answer.read()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert "Traceback" not in err
    finally:
        process.kill()
        process.wait()


def test_parallel_text_is_brought_and_swept(ready, tmp_path):
    if assets.find("debian-handbook") is None:
        pytest.skip("debian-handbook is not here; `psfuture data debian` brings it")
    out = tmp_path / "handbook.tsv"
    shown = ready("data", "debian", "--words", "8-12", "--sample", 3, "--swap", "--out", out)
    assert shown.startswith("3 pairs of debian-handbook")
    head, *rows = out.read_text().splitlines()
    assert head.split("\t")[:2] == ["pt-br", "en"] or head.lower().startswith("pt")
    assert len(rows) == 3
    scores = json.loads(ready("simulate", out, "--policy", "offline", "--json"))
    assert scores["sentences"] == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("simulate", "missing.txt"), 1, r"missing\.txt"),
        (("simulate", "en.txt", "--refs", "short.txt"), 1, "5 lines and .* has 1"),
        (("simulate", "latin.txt"), 1, r"line 1: byte 2 is no UTF-8"),
        (("simulate", "none.txt"), 2, "no sentence"),
        (("simulate", "en.txt", "--policy", "psfuture:nan"), 2, "threshold is nan"),
        (("simulate", "en.txt", "--policy", "psfuture:1.5"), 2, r"1\.5"),
        (("simulate", "en.txt", "--policy", "waitk:3"), 2, "no policy 'waitk:3'; there are"),
        (("simulate", "en.txt", "--policy", "wait:0"), 2, "k >= 1"),
        (("simulate", "en.txt", "--future", "crystal ball"), 2, "no future"),
        (("simulate", "en.txt", "--future", "oracle:2"), 2, "analysis"),
        (("simulate", "en.txt", "--policy", "wait:3", "--future", "eos"), 2, "--future"),
        (("simulate", "en.txt", "--divergence", "far"), 2, "no divergence 'far'"),
        (("simulate", "en.txt", "--unit", "metre"), 2, "metre"),
        (("simulate", "en.txt", "--model", "bergamot:nowhere"), 3, "nowhere"),
        (("simulate", "en.txt", "--out", "junk"), 1, "no config.json"),
        (("translate", "--model", "enpt", "--src-lang", "en"), 2, "src_lang"),
        (("translate", "--calibration", "missing.json"), 1, r"missing\.json"),
        (("sweep", "en.txt", "--out", "run"), 2, "--refs"),
        (("sweep", "en.txt", "--refs", "pt.txt", "--out", "run", "--at", "low"), 2, "--at"),
        (
            ("sweep", "en.txt", "--refs", "pt.txt", "--out", "run", "--policy", "wait:x"),
            2,
            "wait:x",
        ),
        (
            ("sweep", "en.txt", "--refs", "pt.txt", "--out", "run", "--baseline", "hold"),
            2,
            "'hold' is none of psfuture, wait, agreement, offline",
        ),
        (("calibrate", "en.txt", "--targets", "0,99"), 2, "cannot be reached"),
        (("calibrate", "en.txt", "--metric", "BLEU"), 2, "BLEU"),
        (("plot", "junk"), 1, "no run"),
        (("score", "en.txt"), 1, r"en\.txt, line 1"),
        (("convert", "out", "--model", "enpt"), 2, "fairseq:FILE"),
        (("train-p2f", "en.txt", "--out", "run"), 2, "--refs"),
        (("serve", "--policy", "wait:3"), 2, "--policy"),
        (("serve", "--host", "0.0.0.0"), 2, "other machines"),
        (("data", "debian", "almanac", "--out", "x.tsv"), 2, "almanac"),
        (("data", "sacrebleu", "wmt99", "de-en", "--out", "x.tsv"), 2, "wmt99"),
        (("data", "debian", "--words", "many", "--out", "x.tsv"), 2, "--words"),
    ],
)
def test_wrong_input_is_one_line_and_an_exit_code(
    ready, command, files, monkeypatch, tmp_path, arguments, code, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("uma linha\n")
    (tmp_path / "latin.txt").write_bytes("né\n".encode("latin-1"))
    (tmp_path / "none.txt").write_text("")
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "metrics.jsonl").write_text("")
    before = sorted(path for path in tmp_path.rglob("*") if path.name != "stdin")
    found, out, err = command(*arguments)
    assert found == code, err
    assert re.search(said, err), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "stdin") == before


def test_bytes_that_are_no_text_end_the_translation(ready, command):
    code, out, err = command("translate", text=b"\nOpen the file .\n\xff\n")
    assert code == 1
    assert "line 3" in err
    assert out.splitlines()[0] == ""
