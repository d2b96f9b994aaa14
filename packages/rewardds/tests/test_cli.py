"""The commands, as a person types them."""

import importlib.metadata
import json
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path

import pytest

from lipogram.llm import tiny_random
from rewardds.canaries import Canaries, make_canaries
from rewardds.cli import main
from rewardds.client import RewardDSClient
from rewardds.data_key import data_key
from rewardds.ledger import PrivacyLedger
from rewardds.plan import PrivacyPlan, RunPlan
from rewardds.pool import Pool
from rewardds.pool_files import read_pool, write_pool
from rewardds.records import PrivateRecords, Record
from rewardds.synthetic import SyntheticRow, write_rows

COMMAND = Path(sysconfig.get_path("scripts")) / "rewardds"
WORDS = "amber birch cedar dunes ember fjord grove heath inlet jetty"


@pytest.fixture
def rewardds(monkeypatch, capsys):
    """Runs the command in this process; its exit code, and what it said on both streams."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rewardds", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return code, told.out, told.err

    return run


@pytest.fixture(scope="module", autouse=True)
def state(tmp_path_factory):
    """A key and a ledger of these tests' own."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rewardds.data_key.state_folder", lambda: folder)
        patch.setattr("rewardds.ledger.state_folder", lambda: folder)
        yield folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    base = tiny_random("llama", layers=1, width=16)
    base.model.save_pretrained(folder / "base")
    base.tokenizer.save_pretrained(folder / "base")
    canaries = make_canaries(20, seed=1)
    n = 40 - sum(canaries.included)
    own = [Record(f"r{i}", f"What of {i}?", WORDS) for i in range(n)]
    canaries.save(folder / "canaries.json")
    records = canaries.planted(PrivateRecords(own, data_key()))
    plan = PrivacyPlan(8, 1e-3, n=40, generator=RunPlan(4, 0.5), reward=RunPlan(4, 0.5))
    client = RewardDSClient(
        str(folder / "base"),
        plan,
        folder=folder,
        ledger=PrivacyLedger(folder / "ledger.jsonl"),
        weak_sources=("corrupt",),
        max_length=64,
    )
    return client.fit(records).folder


@pytest.fixture
def private(tmp_path):
    path = tmp_path / "private.jsonl"
    rows = [{"q": f"What of {i}?", "a": f"It is {i}. {WORDS}"} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_version_and_help_in_a_process_of_their_own():
    result = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    version = importlib.metadata.version("lipogram-rewardds")
    assert result.stdout.strip() == f"rewardds {version}"
    code = "import sys, rewardds.cli; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "rewardds.cli" in result.stdout
    assert not {"numpy", "torch", "transformers", "opacus"} & set(result.stdout.split())


def test_a_plan_says_both_runs_and_their_total(rewardds):
    code, out, _ = rewardds("plan", "--n", 3364, "--batch", 64, "--epochs", 3, "--json")
    assert code == 0
    told = json.loads(out)
    assert 7.9 < told["epsilon"] <= 8
    assert told["delta"] == 1e-5
    runs = told["runs"]
    assert runs["generator"] == runs["reward"]
    assert runs["generator"]["steps"] == 157
    assert runs["generator"]["sigma"] > 0.6  # more than the 0.557 of one run alone
    assert "together: ε" in rewardds("plan", "--n", 3364)[1]


def test_verify_says_epsilon_and_finds_a_changed_file(rewardds, bundle, tmp_path):
    code, out, _ = rewardds("verify", bundle)
    assert code == 0
    assert "differentially private together with ε = " in out
    told = json.loads(rewardds("verify", bundle, "--json")[1])
    assert set(told["releases"]) == {"generator", "reward"}
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", bundle, copy], check=True)
    stated = (copy / "privacy.json").read_text()
    (copy / "privacy.json").write_text(stated.replace('"n": 40', '"n": 41'))
    code, out, err = rewardds("verify", copy)
    assert (code, out) == (1, "")
    assert "not as it was written" in err


def test_canaries_are_planted_and_their_secret_kept(rewardds, private, tmp_path):
    out, secret = tmp_path / "planted.jsonl", tmp_path / "canaries.json"
    told = ("--out", out, "--canaries", secret, "--size", 30)
    columns = ("--column", "instruction=q", "--column", "response=a")
    code, said, err = rewardds("plant", private, *told, *columns)
    assert code == 0, err
    canaries = Canaries.read(secret)
    lines = out.read_text().splitlines()
    assert len(lines) == 20 + sum(canaries.included)
    assert f"{len(lines)} records, {sum(canaries.included)} of 30 canaries" in said
    assert {path.stat().st_mode & 0o777 for path in (out, secret)} == {0o600}


def test_what_was_planted_is_not_written_over(rewardds, private, tmp_path):
    told = ("--column", "instruction=q", "--column", "response=a", "--size", 30)
    for there in ("planted.jsonl", "canaries.json"):
        (tmp_path / there).write_text("of an earlier run")
        files = ("--out", tmp_path / "planted.jsonl", "--canaries", tmp_path / "canaries.json")
        code, out, err = rewardds("plant", private, *told, *files)
        assert (code, out) == (1, "")
        assert f"{there} is there already" in err
        assert (tmp_path / there).read_text() == "of an earlier run"
        assert {path.name for path in tmp_path.iterdir()} == {"private.jsonl", there}
        (tmp_path / there).unlink()


def test_audit_holds_the_canaries_against_the_claim(rewardds, bundle, tmp_path):
    canaries = bundle.parent / "canaries.json"
    code, out, err = rewardds("audit", bundle, canaries, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["bound"]["canaries"] == 20
    assert set(told["attacks"]) >= {"generator: calibrated", "all"}
    code, _, err = rewardds("audit", bundle, tmp_path / "nothing.json")
    assert code == 3
    assert "nothing.json" in err


def test_an_audit_with_canaries_of_another_run_proves_nothing(rewardds, bundle, tmp_path):
    other = tmp_path / "other.json"
    make_canaries(20, seed=2).save(other)
    code, out, err = rewardds("audit", bundle, other)
    assert (code, out) == (1, "")
    assert "0 are among the records that this run was trained on, and 0 of" in err
    own = Canaries.read(bundle.parent / "canaries.json")
    tossed = (not own.included[0], *own.included[1:])
    Canaries(own.records, tossed).save(other)
    assert rewardds("audit", bundle, other)[0] == 1
    alone = tmp_path / "sent" / "bundle"  # as on a server, where nothing of the set is known
    subprocess.run(["mkdir", alone.parent], check=True)
    subprocess.run(["cp", "-r", bundle, alone], check=True)
    assert rewardds("audit", alone, other)[0] == 0


@pytest.mark.filterwarnings("default::rewardds.errors.TooFewQuestions")
def test_sampling_without_a_row_fails_and_says_why(rewardds, bundle, tmp_path):
    out = tmp_path / "rows"
    told = ("--n", 1, "--candidates", 1, "--question-tokens", 8, "--answer-tokens", 8)
    moved = ("--base", bundle.parent / "moved")
    (bundle.parent / "base").rename(bundle.parent / "moved")
    try:
        code, said, err = rewardds("sample", bundle, "--out", out, *told)
        assert (code, said) == (3, "")  # the base is not where the bundle says
        code, said, err = rewardds("sample", bundle, "--out", out, *told, *moved)
    finally:
        (bundle.parent / "moved").rename(bundle.parent / "base")
    assert (code, said) == (1, "")
    assert "error: no row out of 20 questions and 0 answers; dropped were questions:" in err
    assert not (out / "rows.jsonl").exists()


def test_a_client_that_samples_shows_no_private_seed(rewardds, bundle, tmp_path):
    seeds = tmp_path / "seeds.txt"
    seeds.write_text(f"What is moss?\n{WORDS.replace(' ', '_')}\n")
    code, _, err = rewardds("sample", bundle, "--out", tmp_path / "rows", "--seeds", seeds)
    assert code == 1
    assert "seed 1 shares 8 words" in err
    assert "amber" not in err
    assert not (tmp_path / "rows").exists()


def test_scan_tells_copied_words_by_ids_alone(rewardds, private, tmp_path):
    columns = ("--column", "instruction=q", "--column", "response=a")
    clean, copied = tmp_path / "clean", tmp_path / "copied"
    for folder, text in ((clean, "nothing of them"), (copied, f"so {WORDS} they said")):
        folder.mkdir()
        (folder / "rows.jsonl").write_text(json.dumps({"text": text}) + "\n")
    assert rewardds("scan", clean, private, *columns)[0] == 0
    code, out, _ = rewardds("scan", copied, private, *columns)
    assert code == 1
    assert "rows.jsonl" in out
    assert "amber" not in out


def test_labelled_texts_have_their_labels_as_candidates(rewardds, bundle, tmp_path):
    """A head as the reward, closed answers, margins; the untrained writer's texts are given."""
    base = bundle.parent / "base"
    path, labels = tmp_path / "texts.jsonl", tmp_path / "labels.jsonl"
    rows = [{"q": f"Text {i} of forty.", "a": ("calm", "busy")[i % 2]} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = [{"instruction": "", "response": name} for name in ("calm", "busy")]
    labels.write_text("".join(json.dumps(one) + "\n" for one in told))
    asked = ["client", "fit", path, "--out", tmp_path / "run", "--base", base, "--delta", 1e-3]
    asked += ["--column", "instruction=q", "--column", "response=a", "--batch", 4]
    asked += ["--epochs", 0.2, "--max-length", 96, "--task", "question", "--split", 0.4]
    asked += ["--reward", "head", "--reward-clip", 2, "--weak-source", "offtopic"]
    asked += ["--public-seeds", labels]
    code, _, err = rewardds(*asked)
    assert code == 1
    assert "shares" in err
    code, out, _ = rewardds(*asked, "--public-responses")
    assert code == 0, out
    made = tmp_path / "run" / "bundle"
    assert [path.name for path in (made / "reward").iterdir()] == ["head.safetensors"]
    rows = [SyntheticRow(f"q{i}", f"Text {i}?", ("calm", "busy")) for i in range(6)]
    write_rows(tmp_path / "rows.jsonl", rows)
    how = ("--base", base, "--dtype", "float32", "--alpha", 1, "--keep", 0.5)
    code, out, _ = rewardds(
        "filter", made, tmp_path / "rows.jsonl", *how, "--select", "margin", "--out", tmp_path / "p"
    )
    assert code == 0
    assert "3 of 6 questions kept, by margin from" in out
    pool = read_pool(tmp_path / "p")
    assert pool.select == "margin"
    assert all(row.rejected is not None for row in pool.kept)
    assert all(row.rewards[row.chosen] > row.rewards[row.rejected] for row in pool.kept)


def test_a_pool_is_tuned_on(rewardds, bundle, tmp_path):
    row = SyntheticRow("q1", "Who?", ("a", "b"), (1.0, 0.5), (2.0, 3.0), 0, 1)
    write_pool(tmp_path / "pool", Pool((row,), (row,), 1.0))
    told = ("--llm", "tiny-random", "--epochs", 1, "--batch", 1, "--micro-batch", 1)
    out = ("--out", tmp_path / "model", "--dtype", "float32")
    code, said, err = rewardds("finetune", bundle, tmp_path / "pool", *told, *out)
    assert code == 0, err
    assert "tuned on 1 rows" in said
    assert (tmp_path / "model" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "--n", "20", "--epsilon", "-1"), "epsilon is -1"),
        (("plan", "--n", "20", "--delta", "0.5"), "delta is 0.5"),
        (("plan", "--n", "20", "--batch", "64"), "batch is 64"),
        (("plan", "--n", "20", "--split", "2", "--batch", "2"), "the split is 2"),
        (("verify", "{}"), "hashes.json"),
        (("verify", "{}/nowhere"), "there is no bundle"),
        (("audit", "{bundle}", "{}/nowhere"), "there are no canaries"),
        (("filter", "{}", "rows.jsonl"), "hashes.json"),
        (("finetune", "{bundle}", "{}"), "holds no pool"),
        (("refine", "{bundle}", "{}", "--llm", "nothing"), "holds no pool"),
        (("refine", "{bundle}", "{}", "--candidates", "0"), "candidates is 0"),
        (("run", "{}/none.toml"), "none.toml"),
        (("client", "fit", "{}/none.jsonl"), "none.jsonl"),
        (("client", "fit", "{}/none.jsonl", "--column", "q"), "FIELD=COLUMN"),
        (("eval", "tiny-random", "cooking", "--data", "{}"), "cooking"),
    ],
)
def test_bad_input_is_one_line(rewardds, bundle, tmp_path, arguments, message):
    told = [each.format(tmp_path, bundle=bundle) for each in arguments]
    code, out, err = rewardds(*told)
    assert code != 0
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [("--base", "{}/none"), ("--base", "{base}", "--device", "tpu9"), ("--max-length", "1")],
)
def test_what_cannot_be_trained_costs_the_records_nothing(
    rewardds, bundle, private, tmp_path, wrong
):
    fit = ("client", "fit", private, "--out", tmp_path / "out", "--batch", 2)
    columns = ("--column", "instruction=q", "--column", "response=a")
    told = [each.format(tmp_path, base=bundle.parent / "base") for each in wrong]
    code, out, err = rewardds(*fit, *columns, *told)
    assert code != 0
    assert out == ""
    assert err.startswith("error: ")
    assert not (tmp_path / "out").exists()
    assert rewardds("client", "spent", private, *columns)[1].startswith("0 runs, together ε 0 ")


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("kept = 1", "no setting 'kept'"),
        ("questions = 0", "questions is 0"),
        ("keep = 0", "keep is 0"),
        ("alpha = 2", "alpha is 2"),
        ("stages = -1", "stages is -1"),
        ("asked = 'Why?'", "asked in"),
        ("epsilon = -1", "epsilon is -1"),
        ("epsilon = 'eight'", "epsilon is"),
        ("client = 3", "client in"),
        ("client.lrr = 1", "[pipeline.client] in"),
        ("client.clip = 0", "clip is 0"),
        ("client.prompts.answr = ''", "'answr'; there are answer"),
        ("client.prompts = 'Ask.'", "[pipeline.client.prompts] in"),
        ("sampling.tokens = 3", "'tokens'; there are candidates"),
        ("sampling.temperature = 0", "temperature 0"),
        ("sampling.question_filter.least = 3", "question_filter cannot be set in a file"),
        ("refinement.cands = 3", "'cands'"),
        ("tuning.epocs = 3", "'epocs'"),
        ("tuning.epochs = 0", "epochs"),
        ("lora.rank = 3", "rank"),
        ("lora.r = 2.5", "r is 2.5"),
        ("lora.r = 0", "r is 0"),
    ],
)
def test_a_slip_in_a_run_is_found_before_anything_is_trained(
    rewardds, private, tmp_path, told, message
):
    file = tmp_path / "run.toml"
    columns = 'columns = {instruction = "q", response = "a"}'
    file.write_text(
        f'[data]\nsource = "private.jsonl"\n{columns}\n'
        f'[pipeline]\nbase = "none"\nbatch = 2\n{told}\n'
    )
    code, out, err = rewardds("run", file, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "out").exists()
