"""From records to kept rows in one go, which a second call finds done."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lipogram.errors import CorruptState, InvalidSetting, MissingAsset
from lipogram.llm import tiny_random
from lipogram.llm.loaded import LoadedModel
from rewardds.errors import InvalidRows, PrivateText
from rewardds.ledger import PrivacyLedger
from rewardds.losses import CausalLMLoss
from rewardds.pipeline import PipelineResult, PipelineSettings, run_pipeline
from rewardds.pipeline_file import read_pipeline
from rewardds.pool import Pool
from rewardds.pool_files import read_pool, write_pool
from rewardds.prompts import Prompts, sequence
from rewardds.records import PrivateRecords, PublicRecords, Record
from rewardds.rows import Row, collate
from rewardds.synthetic import SyntheticRow

ASKED = ("Write red.", "Write blue.")
PUBLIC = PublicRecords([Record(f"p{i}", text, "") for i, text in enumerate(ASKED)])
TOLD = "amber birch cedar dunes ember fjord grove heath inlet jetty".split()
RECORDS = PrivateRecords(
    [Record(f"r{i}", ASKED[i % 2], f"{TOLD[i % 10]} {i} {TOLD[-i % 10]}") for i in range(40)],
    b"k" * 16,
)
SETTINGS = PipelineSettings(
    epsilon=8.0,
    delta=1e-3,
    batch=4,
    epochs=0.5,
    client={
        "weak_sources": ("offquestion",),
        "prompts": {"answer": "", "question": "Ask.", "judge": ""},
        "max_length": 64,
        "tasks": ("answer",),
        "public_instructions": True,
    },
    lora={"r": 2, "target_modules": ["q_proj"]},
    asked=ASKED,
    questions=6,
    candidates=3,
    sampling={"answer_tokens": 24, "top_p": 1.0},
    keep=0.5,
    stages=0,
    finetune=False,
)


def row(number: int, reward: float = 1.0) -> SyntheticRow:
    return SyntheticRow(f"q{number}", "Who?", ("a", "b"), (reward, 0.0), (2.0, 3.0), 0, 1)


def taught() -> LoadedModel:
    """A model that ends what it says."""
    loaded = tiny_random("llama", layers=1, width=32)
    prompts = Prompts(**SETTINGS.client["prompts"])
    rows = [
        Row(str(i), [sequence(loaded.tokenizer, prompts.answer_turns(asked, word), 64)[0]])
        for i, (asked, word) in enumerate(itertools.product(ASKED, TOLD))
    ]
    batch, loss = collate(rows, pad_id=256), CausalLMLoss()
    loaded.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss(loaded.model, batch).mean().backward()
        optimizer.step()
    loaded.model.requires_grad_(False)
    return loaded


def test_everything_runs_and_is_found_done(tmp_path: Path) -> None:
    base, settings = taught(), SETTINGS
    said: list[str] = []
    ledger = PrivacyLedger(tmp_path / "ledger.jsonl")

    def run() -> PipelineResult:
        return run_pipeline(
            RECORDS,
            settings,
            tmp_path / "run",
            public=PUBLIC,
            ledger=ledger,
            base=base,
            progress=said.append,
        )

    first = run()
    assert first.epsilon <= 8
    assert first.epsilon == pytest.approx(settings.plan(40).total, rel=1e-6)
    assert {row.question for row in first.raw.rows} <= set(ASKED)
    assert len(first.pool.kept) == max(round(len(first.raw.rows) / 2), 1)
    assert first.counts["attempts"] == 6
    assert len(ledger.rows(RECORDS.fingerprint)) == 2
    before = (tmp_path / "run" / "pool" / "kept.jsonl").read_bytes()
    again = run()
    assert again == first
    assert (tmp_path / "run" / "pool" / "kept.jsonl").read_bytes() == before
    assert len(ledger.rows(RECORDS.fingerprint)) == 2
    assert sum("sampling" in line for line in said) == 1
    shutil.rmtree(tmp_path / "run" / "sampled")
    settings = replace(SETTINGS, asked=(RECORDS[23].response,))
    with pytest.raises(PrivateText):  # the server's part knows what must not be asked
        run()


def test_a_pool_comes_back(tmp_path: Path) -> None:
    pool = Pool((row(1), row(2, 3.0)), (row(2, 3.0),), 0.5)
    assert read_pool(tmp_path / "pool") is None
    write_pool(tmp_path / "pool", pool)
    assert read_pool(tmp_path / "pool") == pool
    (tmp_path / "pool" / "pool.json").unlink()  # killed before the last file was there
    assert read_pool(tmp_path / "pool") is None


def test_a_pool_that_is_none_is_refused(tmp_path: Path) -> None:
    pool = Pool((row(1), row(2)), (row(2),), 0.5)
    write_pool(tmp_path, pool)
    for content in ("{}", "nothing", '{"keep": 2.0, "rows": 2, "kept": 1}'):
        (tmp_path / "pool.json").write_text(content)
        with pytest.raises((CorruptState, InvalidSetting), match=r"pool|keep"):
            read_pool(tmp_path)
    (tmp_path / "pool.json").write_text('{"keep": 0.5, "select": "reward", "rows": 2, "kept": 2}')
    with pytest.raises(CorruptState, match="filter again"):
        read_pool(tmp_path)
    plain = SyntheticRow("q1", "Who?", ("a",))
    write_pool(tmp_path, Pool((plain,), (plain,), 1.0))
    with pytest.raises(InvalidRows, match="not scored"):
        read_pool(tmp_path)


def test_a_run_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"q": "Who?", "a": "Me."}\n')
    (tmp_path / "all.jsonl").write_text('{"prompt": "What?", "completion": "This."}\n')
    config = tmp_path / "run.toml"
    config.write_text(
        '[data]\nsource = "mine.jsonl"\ncolumns = {instruction = "q", response = "a"}\n'
        '[public]\nsource = "all.jsonl"\n'
        "[pipeline]\nepsilon = 4.0\nstages = 1\n"
    )
    private, public, settings = read_pipeline(config)
    assert isinstance(private, PrivateRecords)
    assert [record.response for record in private] == ["Me."]
    assert isinstance(public, PublicRecords)
    assert (settings.epsilon, settings.stages) == (4.0, 1)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("[data", InvalidSetting, "TOML"),
        ("[server]\n", InvalidSetting, "'server'"),
        ("[pipeline]\nepsilom = 3\n", InvalidSetting, "'epsilom'"),
        ("[pipeline]\nepsilon = 3\n", InvalidSetting, "no source"),
        ('[data]\nsource = "x.jsonl"\nname = 1\n', InvalidSetting, "name"),
        ('[data]\nsource = "x.jsonl"\n', MissingAsset, "x.jsonl"),
    ],
)
def test_a_file_that_is_no_run(tmp_path: Path, content: str, error: type, message: str) -> None:
    (tmp_path / "run.toml").write_text(content)
    with pytest.raises(error, match=message):
        read_pipeline(tmp_path / "run.toml")


def test_an_adapter_by_another_name_is_refused(tmp_path: Path) -> None:
    settings = PipelineSettings(
        **json.loads(json.dumps({"lora": {"rang": 2}, "delta": 1e-3, "batch": 4, "epochs": 0.5}))
    )
    with pytest.raises(InvalidSetting, match="rang"):
        run_pipeline(RECORDS, settings, tmp_path / "run", base=tiny_random("llama"))
    assert not (tmp_path / "run").exists()
