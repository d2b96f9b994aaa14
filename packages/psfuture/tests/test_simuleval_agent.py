"""The agent under SimulEval's own command: its delays and scores are those of our simulation."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lipogram.assets import find
from psfuture.bergamot import BergamotBackend
from psfuture.futures import Ellipsis
from psfuture.metrics import score
from psfuture.policies import Limits, PsFuture, WaitK
from psfuture.simulation import simulate
from psfuture.trace_log import read_instances

PACKAGE = Path(__file__).parents[1]
COMMAND = PACKAGE.parents[1] / ".venv-simuleval/bin/simuleval"
AGENT = "psfuture.simuleval_agent.PsFutureAgent"
SENTENCES = [
    ("The system must be restarted after the installation.",
     "O sistema deve ser reiniciado após a instalação."),
    ("You can choose another language in the settings menu.",
     "Você pode escolher outro idioma no menu de configurações."),
    ("", ""),
    ("If the disk is full, remove old files before you try again.",
     "Se o disco estiver cheio, remova arquivos antigos antes de tentar novamente."),
    ("This command shows the names of all  installed packages.",
     "Este comando mostra os  nomes de todos os pacotes instalados."),
    ("Yes.", "Sim."),
    ("The administrator may want to change the default password immediately.",
     "O administrador pode querer mudar a senha padrão imediatamente."),
    ("Click the button to save the document, and then close the window.",
     "Clique no botão para salvar o documento e depois feche a janela."),
    ("The network is configured automatically when the computer starts.",
     "A rede é configurada automaticamente quando o computador inicia."),
    ("   ", "Nada."),
    ("Free software is a matter of liberty, not of price.",
     "Software livre é uma questão de liberdade, não de preço."),
    ("It is recommended to make a copy of the data every week.",
     "Recomenda-se fazer uma cópia dos dados toda semana."),
]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    folder = find("bergamot-enpt")
    if folder is None:
        pytest.skip("no EN-PT model: `make demo-psfuture` brings it")
    if not COMMAND.exists():
        pytest.skip("no SimulEval beside the workspace: make .venv-simuleval/.ready")
    return folder


def simuleval(model, folder, *arguments, cases=SENTENCES):
    (folder / "en").write_text("".join(f"{source}\n" for source, _ in cases))
    (folder / "pt").write_text("".join(f"{reference}\n" for _, reference in cases))
    command = [COMMAND, "--source", folder / "en", "--target", folder / "pt"]
    command += ["--model", f"bergamot:{model}", "--no-progress-bar", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def ours(model, policy, cases=SENTENCES):
    sources, references = zip(*cases, strict=True)
    return simulate(BergamotBackend.load(model), policy, sources, references)


def test_delays_and_scores_are_those_of_the_simulation(model, tmp_path):
    out = tmp_path / "out"
    simuleval(
        model, tmp_path, "--agent-class", AGENT, "--output", out,
        "--threshold", "0.05", "--pseudo-future", "ellipsis",
        "--latency-metrics", "AL", "LAAL", "AP", "DAL", "StartOffset", "EndOffset", "NumChunks",
    )  # fmt: skip
    traces = ours(model, PsFuture(0.05, Ellipsis()))
    log = [json.loads(line) for line in (out / "instances.log").read_text().splitlines()]
    assert [line["delays"] for line in log] == [list(trace.delays) for trace in traces]
    assert [line["prediction"] for line in log] == [trace.text for trace in traces]
    assert any(trace.delays[0] < len(trace.source) for trace in traces if trace.words)
    (theirs,) = csv.DictReader(io.StringIO((out / "scores.tsv").read_text()), delimiter="\t")
    found = score(traces)
    assert {name: round(found[name], 3) for name in theirs} == {
        name: float(value) for name, value in theirs.items()
    }
    assert found["empty"] == 2

    read = [*read_instances(out / "instances.log").values()]
    again = score(read)
    assert {name: again[name] for name in found} == pytest.approx(found)


def test_the_file_is_an_agent_too_and_atd_in_memory_is_ours(model, tmp_path):
    cases = SENTENCES[:4]
    printed = simuleval(
        model, tmp_path, "--agent", PACKAGE / "src/psfuture/simuleval_agent.py",
        "--policy", "wait:3", "--no-prefix-eos", "--min-reads", "2",
        "--max-consecutive-writes", "3", "--latency-metrics", "ATD", "DAL",
        cases=cases,
    )  # fmt: skip
    policy = WaitK(3, prefix_eos=False, limits=Limits(min_reads=2, max_consecutive_writes=3))
    found = score(ours(model, policy, cases))
    names, values = (line.split() for line in printed.splitlines()[-2:])
    assert names == ["BLEU", "ATD", "DAL"]
    assert [float(value) for value in values] == [round(found[name], 3) for name in names]


def test_nothing_imports_simuleval_and_the_agent_says_what_it_lacks():
    code = (
        "import sys, psfuture, psfuture.cli, psfuture.metrics, psfuture.trace_log\n"
        "assert not any(name.startswith('simuleval') for name in sys.modules)\n"
        "sys.modules['simuleval'] = None\n"
        "import psfuture.simuleval_agent"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtra: SimulEval is not installed" in ran.stderr
    assert "simuleval==1.1.4" in ran.stderr
