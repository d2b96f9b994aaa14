"""The real command on a tiny random model, in the order in which a person would type it."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import sysconfig
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from lipogram.llm.tiny import tiny_random
from privacyrestore.cli import main
from privacyrestore.restoration_bank import RestorationBank

from .banks import WORDS, tiny_bank

COMMAND = Path(sysconfig.get_path("scripts")) / "privacyrestore"
COMMANDS = "demo world heads answers train confuse serve proxy ask ledger audit bank-info eval"
SPANS = [f"{word} cough" for word in WORDS[:4]]


def typed(*arguments):
    return subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def called(monkeypatch, capsys):
    """Runs the command in this process: exit code, output, errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["privacyrestore", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return (left.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny random model, its span types and questions about them, as files."""
    folder = tmp_path_factory.mktemp("cli")
    loaded = tiny_random(layers=2)
    loaded.model.save_pretrained(folder / "model")
    loaded.tokenizer.save_pretrained(folder / "model")
    (folder / "spans.json").write_text(json.dumps(SPANS))
    rows = []
    for i in range(24):
        hidden = sorted({SPANS[i % 4], SPANS[(i * i + 1) % 4]})
        rows.append(
            {
                "question": f"Case {i}: {' and '.join(hidden)}. Which?",
                "question_removed": f"Case {i}. Which?",
                "private_spans": hidden,
                "kept_spans": [],
                "options": ["ab", "cd", "ef"],
                "answer": ["ab", "cd", "ef"][i % 3],
                "answer_index": i % 3,
            }
        )
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_bank(loaded.model, 4, gamma=0.5).with_vectors(
        tiny_bank(loaded.model, 4).vectors, vocabulary=tuple(SPANS)
    ).save(folder / "bank")
    return folder


@contextmanager
def running(*arguments, says):
    """The command as a process, and the address that it says it serves."""
    with subprocess.Popen(
        [COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if says in line:
                    break
            else:
                pytest.fail("".join(said))
            yield line.split(says)[1].strip()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def test_version_and_commands():
    assert importlib.metadata.version("lipogram-privacyrestore") in typed("--version").stdout
    said = typed("--help").stdout
    assert all(f" {command} " in said for command in COMMANDS.split())


def test_command_line_loads_nothing_heavy():
    code = "import sys, privacyrestore, privacyrestore.cli; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    heavy = {"numpy", "torch", "transformers", "fastapi", "httpx", "cryptography"}
    assert not heavy & set(result.stdout.split())
    assert "privacyrestore.cli" in result.stdout


def test_public_names_are_there():
    import privacyrestore

    for name in privacyrestore.__all__:
        value = getattr(privacyrestore, name)
        assert name == "__version__" or callable(value), name


def test_from_heads_to_a_bank(called, place, tmp_path):
    files = ["--questions", place / "questions.jsonl", "--spans", place / "spans.json"]
    model = ["--model", place / "model"]
    code, out, err = called("heads", *model, *files, "--out", tmp_path / "heads", "--k", "3")
    assert code == 0, err
    assert "heads:" in out
    answers = ["--answers", tmp_path / "answers.jsonl", "--max-new-tokens", "4"]
    few = ["--first", "8", "--template", "{question}"]
    code, out, err = called(
        "answers", *model, *files, *few, "--out", tmp_path / "answers.jsonl",
        "--max-new-tokens", "4",
    )  # fmt: skip
    assert code == 0, err
    assert "8 pairs" in out
    code, out, err = called(
        "train", *model, *files, *few, *answers, "--heads", tmp_path / "heads",
        "--out", tmp_path / "bank", "--epochs", "1", "--gamma", "0.7",
    )  # fmt: skip
    assert code == 0, err
    bank = RestorationBank.load(tmp_path / "bank")
    assert (len(bank.sites), bank.gamma, bank.vocabulary) == (3, 0.7, tuple(SPANS))
    code, out, err = called("bank-info", tmp_path / "bank")
    assert code == 0, err
    assert f"sha256: {bank.sha256}" in out
    assert "worst-case local ε" in out
    code, out, err = called(
        "confuse", tmp_path / "bank", "--n-groups", "2", "--out", tmp_path / "shared"
    )
    assert code == 0, err
    assert "4 span types share 2 vectors" in out
    assert len(RestorationBank.load(tmp_path / "shared").vectors) == 2


def test_audit_and_eval(called, place, tmp_path):
    questions = ["--questions", place / "questions.jsonl", "--bank", place / "bank"]
    code, out, err = called("audit", *questions, "--epsilon", "50", "--out", tmp_path / "a.json")
    assert code == 0, err
    assert "worst-case local ε" in out
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["guarantee"]["metric_epsilon"] == 50
    code, out, err = called(
        "audit", *questions, "--epsilon", "50", "--first", "12", "--model", place / "model",
        "--out", tmp_path / "p.json",
    )  # fmt: skip
    assert code == 0, err
    assert "prompt injection, likelihood" in out
    assert "by_text" in json.loads((tmp_path / "p.json").read_text())["prompt_injection"]
    code, out, err = called(
        "eval", *questions, "--model", place / "model", "--epsilons", "20", "--first", "9",
        "--template", "{question}", "--out", tmp_path / "e.json",
    )  # fmt: skip
    assert code == 0, err
    assert "full question" in out
    assert "restored, subspace 20" in out
    assert set(json.loads((tmp_path / "e.json").read_text())) == {"given", "audits"}


def test_served_asked_and_proxied(called, place, tmp_path):
    serving = ["serve", "--model", place / "model", "--bank", place / "bank", "--port", "0"]
    with running(*serving, says="serving at ") as url:
        asking = ["--server", url, "--bank", place / "bank", "--epsilon", "20"]
        ledger = ["--ledger", tmp_path / "state" / "ledger.db"]
        question = f"Is {SPANS[0]} bad?"
        code, out, err = called(
            "ask", question, *asking, *ledger, "--max-tokens", "3", "--show-wire"
        )
        assert code == 0, err
        assert SPANS[0] not in out
        assert '"privacy_restore"' in out
        assert "1 release, metric ε 20, worst-case local ε 40" in err
        code, again, err = called("ask", question, *asking, *ledger, "--dry-run")
        assert code == 0, err
        assert (
            json.loads(again)["privacy_restore"]
            == json.loads(out.splitlines()[0])["privacy_restore"]
        )
        code, out, err = called("ledger", *ledger)
        assert code == 0, err
        assert "together: 1 release" in out
        digest = RestorationBank.load(place / "bank").sha256
        code, _, err = called(
            "ask", question, "--server", url, "--bank", digest, "--epsilon", "20", *ledger,
            "--max-tokens", "2",
        )  # fmt: skip
        assert code == 0, err
        with running(
            "proxy", *asking, *ledger, "--port", "0", says="base URL for apps of this machine: "
        ) as base:
            app = openai.OpenAI(base_url=base, api_key="none", max_retries=0)
            said = app.chat.completions.create(
                model=RestorationBank.load(place / "bank").model.name,
                messages=[{"role": "user", "content": question}],
                max_tokens=3,
            )
            assert said.choices[0].finish_reason in ("length", "stop")
        assert "together: 1 release" in called("ledger", *ledger)[1]


def test_a_budget_that_is_spent(called, place, tmp_path):
    spending = [
        "--server", "http://127.0.0.1:9", "--bank", place / "bank", "--epsilon", "20",
        "--budget", "50", "--ledger", tmp_path / "ledger.db", "--dry-run",
    ]  # fmt: skip
    assert called("ask", f"About {SPANS[0]}.", *spending)[0] == 0
    code, out, err = called("ask", f"About {SPANS[1]}.", *spending)
    assert (code, out) == (1, "")
    assert "budget" in err
    assert SPANS[1] not in err


def test_a_file_of_settings(called, place, tmp_path):
    config = tmp_path / "settings.toml"
    config.write_text(f'[audit]\nbank = "{place / "bank"}"\nepsilon = 40.0\nfirst = 12\n')
    code, out, err = called("--config", config, "audit", "--questions", place / "questions.jsonl")
    assert code == 0, err
    assert "metric ε 40" in out
    code, out, _ = called(
        "--config", config, "audit", "--questions", place / "questions.jsonl", "--epsilon", "7"
    )
    assert code == 0
    assert "metric ε 7 " in out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[audit\n", "TOML"),
        ("[nothing]\nx = 1\n", "no command"),
        ("audit = 3\n", "no command"),
        ("[audit]\ncolour = 3\n", "sets 'colour'"),
    ],
)
def test_a_file_of_settings_that_is_none(called, tmp_path, content, said):
    (tmp_path / "settings.toml").write_text(content)
    code, _, err = called("--config", tmp_path / "settings.toml", "audit")
    assert code == 2
    assert said in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["bank-info", "nowhere"], 1, "no bank"),
        (["audit", "--bank", "{}/bank", "--questions", "{}/questions.jsonl"], 2, "an epsilon"),
        (
            ["audit", "--bank", "{}/bank", "--questions", "{}/nothing.jsonl", "--epsilon", "3"],
            None,
            "nothing.jsonl",
        ),
        (
            [
                "audit", "--bank", "{}/bank", "--questions", "{}/questions.jsonl",
                "--mechanism", "none",
            ],
            2,
            "unsafe",
        ),
        (
            ["ask", "x", "--server", "http://example.org", "--bank", "{}/bank", "--epsilon", "3"],
            2,
            "not encrypted",
        ),
        (
            ["serve", "--model", "{}/model", "--bank", "{}/bank", "--host", "0.0.0.0"],
            2,
            "everybody on the way",
        ),
        (["serve", "--model", "./nothing", "--port", "0"], 3, "nothing"),
        (
            [
                "train", "--model", "{}/model", "--questions", "{}/questions.jsonl",
                "--spans", "{}/spans.json", "--heads", "{}/spans.json", "--out", "{}/x",
            ],
            1,
            "no selection",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(called, place, arguments, code, said):
    found, _, err = called(*(argument.format(place) for argument in arguments))
    assert found == code or (code is None and found in (1, 2, 3))
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
