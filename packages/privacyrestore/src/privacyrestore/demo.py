"""The demonstration: one question over a real connection, and what its server could recover."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lipogram.report import Cell, Section, Table, write_report
from lipogram.runs import Run
from privacyrestore.attention_weights import UniformWeigher
from privacyrestore.batch_engine import BatchEngine
from privacyrestore.client import CHAT, PrivacyClient
from privacyrestore.confusable import confusable_bank
from privacyrestore.curve_figure import plot_curve
from privacyrestore.diagnosis_world import DIAGNOSES
from privacyrestore.ledger import PrivacyLedger
from privacyrestore.mechanisms import Exact, Full, Mechanism, Subspace
from privacyrestore.restoration_bank import RestorationBank
from privacyrestore.server import create_app
from privacyrestore.serving import create_server
from privacyrestore.span_detector import SpanDetector
from privacyrestore.steered_model import SteeredModel
from privacyrestore.transport import Http
from privacyrestore.utility_curve import CurvePoint, utility_recovery_curve
from privacyrestore.world_study import WorldStudy, gap_recovered

EPSILONS = (3.0, 10.0, 30.0, 100.0, 300.0)
SHOWN = 30.0
MAX_TOKENS = 4
LEAD = (
    "A client takes chosen spans out of a question and sends one noised vector in their place; the "
    "server adds it into a few attention heads and answers as if it had read them. Whoever can "
    "restore can also decode: the curve shows what the answers gain and what the server recovers. "
    "World, findings and diagnoses are generated; model, training, server, client and attacks are "
    "real."
)
CONFUSED = (
    "In this bank all findings of one diagnosis share one vector: the answer needs no more, and a "
    "message cannot tell the findings of a group apart, with or without noise."
)


def run_demo(
    folder: Path, *, seed: int = 0, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Train a small model and a bank, ask through a real server, attack, and write one page.

    Args:
        folder: of the run: report.html, its figure and data, and summary.json.
        seed: of world, model and bank. The noise of what is sent comes from the system.
        progress: told what is being worked on.

    Returns:
        The summary; its "headline" maps the names of the few figures that matter to their values.

    Raises:
        RunMismatch: `folder` holds a run with other settings.
    """
    run = Run.create(folder, {"seed": seed}, package="lipogram-privacyrestore")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small wait for each other on more
    try:
        return _run(run, seed, progress)
    finally:
        torch.set_num_threads(threads)


def _run(run: Run, seed: int, progress: Callable[[str], None]) -> dict[str, Any]:
    progress("training a small model on the world, then the bank")
    study = WorldStudy.make(seed, folder=run.folder / "training")
    orderings = study.orderings()
    progress("attacking what arrives, at every ε")
    shared = _shared_bank(study)
    curves = {
        "full": _curve(study, study.bank, [Full(epsilon) for epsilon in EPSILONS], seed),
        "subspace": _curve(study, study.bank, [Subspace(epsilon) for epsilon in EPSILONS], seed),
        "subspace, confusable": _curve(
            study, shared, [Exact(unsafe=True), *map(Subspace, EPSILONS)], seed
        ),
    }
    figure = run.figure("curve.svg")
    removed = float(orderings["removed"].mean())
    plot_curve(curves, figure, utility="right answers", removed=removed)
    at = {name: _at(points, SHOWN) for name, points in curves.items()}
    progress("asking over a real connection")
    exchange = _exchange(study, run.folder, at["subspace"].recovery)
    for name, said in exchange["answers"].items():
        progress(f"  {name}: {said}")
    means = {name: float(right.mean()) for name, right in orderings.items()}
    headline: dict[str, Any] = {
        "right, all findings sent": means["full"],
        "right, spans removed": means["removed"],
        "right, restored without noise": means["restored"],
        f"right, restored at ε {SHOWN:g}": at["subspace"].utility,
        f"right, the paper's full space at ε {SHOWN:g}": at["full"].utility,
        f"spans recovered at ε {SHOWN:g}": at["subspace"].recovery,
        f"right, confusable bank at ε {SHOWN:g}": at["subspace, confusable"].utility,
        f"spans recovered, confusable bank at ε {SHOWN:g}": at["subspace, confusable"].recovery,
        "worst-case local ε of that": at["subspace"].local_epsilon,
    }
    write_report(
        run,
        title="A question without its spans, and what still leaks",
        lead=LEAD,
        key_figures=headline,
        sections=[
            *_exchange_sections(exchange),
            _orderings_section(orderings, means),
            Section(
                "Answers against recovery",
                figure=figure,
                caption="Right answers over the share of spans that the strongest attack "
                "recovers; each point is an ε, bands are 95 % intervals over questions.",
            ),
            Section("All points", CONFUSED, _points_table(curves)),
        ],
    )
    summary = {"headline": headline, "exchange": exchange}
    run.summary(summary)
    return summary


def _exchange(study: WorldStudy, folder: Path, audited: float) -> dict[str, Any]:
    """One question to a real server: the three answers, and the bytes that left for the last."""
    case = study.cases[_telling_case(study)]
    messages = [{"role": "user", "content": case.question}]
    ledger = PrivacyLedger(folder / "client" / "ledger.db", budget=1000.0)
    with _serving(study) as url, Http(url) as transport:
        client = PrivacyClient(
            study.bank,
            SpanDetector(study.bank.vocabulary),
            Subspace(SHOWN),
            UniformWeigher(),
            ledger,
            transport,
            audited=audited,
        )
        client.check_server()
        prepared = client.prepare_chat(messages, max_tokens=MAX_TOKENS, temperature=0)
        restored = client.send(prepared).text
        plain = {
            name: _plain(transport, client.model, text)
            for name, text in (
                ("all findings sent", case.question),
                ("spans removed", prepared.public_text),
            )
        }
    return {
        "question": case.question,
        "gold": case.answer,
        "sent": json.loads(prepared.body),
        "bytes": len(prepared.body),
        "report": prepared.report.sentence(),
        "answers": {**plain, "removed and restored": restored},
    }


def _telling_case(study: WorldStudy) -> int:
    """The first case that removal spoils and restoring without noise mends, with a span or two."""
    wrong = study.correct(study.removed) == 0
    mended = study.restored(study.signals) == 1
    rows = torch.nonzero(wrong & mended).flatten().tolist()
    return int(next((row for row in rows if len(study.span_sets[row]) == 2), rows[0]))


@contextmanager
def _serving(study: WorldStudy) -> Iterator[str]:
    """The study's model behind the real server, on a free port of this machine."""
    steered = SteeredModel(study.loaded.model, study.loaded.tokenizer, study.bank)
    started, urls = threading.Event(), []

    def ready(url: str) -> None:
        urls.append(url)
        started.set()

    with BatchEngine(steered, max_rows=4) as engine:
        server = create_server(create_app(engine, model_name=study.bank.model.name), ready=ready)
        thread = threading.Thread(target=server.run, name="demo-server", daemon=True)
        thread.start()
        try:
            if not started.wait(60):
                raise TimeoutError("the demo's server did not start within a minute")
            yield urls[0]
        finally:
            server.should_exit = True
            thread.join()


def _plain(transport: Http, model: str, text: str) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
    said: str = transport.post(CHAT, json.dumps(body).encode())["choices"][0]["message"]["content"]
    return said


def _shared_bank(study: WorldStudy) -> RestorationBank:
    """The trained bank with one vector for all findings of a diagnosis."""
    owners = [int(study.world.owner[finding]) for finding in study.world.spans]
    numbers = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
    return confusable_bank(study.bank, [numbers[owner] for owner in owners])


def _curve(
    study: WorldStudy, bank: RestorationBank, mechanisms: list[Mechanism], seed: int
) -> list[CurvePoint]:
    return utility_recovery_curve(
        bank,
        mechanisms,
        lambda meta: study.correct(study.removed, meta, bank),
        study.span_sets,
        seed=seed,
    )


def _at(points: list[CurvePoint], epsilon: float) -> CurvePoint:
    return next(point for point in points if point.epsilon == epsilon)


def _exchange_sections(exchange: dict[str, Any]) -> list[Section]:
    rows: list[list[Cell]] = [
        [
            name,
            said.replace(" .", "."),
            "right" if exchange["gold"] in said.replace(" .", ".") else "wrong",
        ]
        for name, said in exchange["answers"].items()
    ]
    return [
        Section("The question, which stays", exchange["question"]),
        Section(
            "What left the machine",
            f"{exchange['bytes']} bytes, all of them:\n\n"
            f"{json.dumps(exchange['sent'], sort_keys=True)}\n\n{exchange['report']}",
        ),
        Section("The answers", table=Table(["what the server had", "its answer", ""], rows)),
    ]


def _orderings_section(orderings: dict[str, torch.Tensor], means: dict[str, float]) -> Section:
    rows: list[list[Cell]] = [
        [name, value, gap_recovered(orderings, name)] for name, value in means.items()
    ]
    return Section(
        "Right answers without noise",
        f"{len(orderings['full'])} held-out questions, {len(DIAGNOSES)} diagnoses.",
        Table(["given", "right", "share of the gap"], rows),
    )


def _points_table(curves: dict[str, list[CurvePoint]]) -> Table:
    rows: list[list[Cell]] = [
        [
            name,
            "no noise" if point.epsilon is None else f"{point.epsilon:g}",
            f"{point.local_epsilon:.4g}",
            point.utility,
            point.recovery,
            point.attack,
        ]
        for name, points in curves.items()
        for point in points
    ]
    return Table(
        ["bank and mechanism", "ε", "worst-case local ε", "right", "spans recovered", "attack"],
        rows,
    )
