"""The demonstration: private posts in, synthetic ones out, and what these are worth."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lipogram.runs import Run
from rewardds.baselines import perplexity_filter, random_subset, shuffled_rewards
from rewardds.bundle_audit import audit_bundle
from rewardds.canaries import Canaries, make_canaries
from rewardds.demo_report import write_demo_report
from rewardds.dreaddit import Post, as_records, labelled, read_dreaddit, request
from rewardds.ledger import PrivacyLedger
from rewardds.pipeline import PipelineResult, PipelineSettings, run_pipeline
from rewardds.pool import first_pool
from rewardds.records import PrivateRecord, PrivateRecords, PublicRecords, Record
from rewardds.synthetic import SyntheticRow
from rewardds.text_classifier import ClassifierScore, held_out_score, majority_score
from rewardds.text_overlap import PrivateGrams

CANARIES = 200
WORDS = 32  # of a post, of whole sentences where they fit
PROMPTS = {"answer": "", "question": "Write a request for a post.", "judge": ""}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How much a run does.

    Attributes:
        steps: noisy updates of the generator.
        reward_steps: of the reward.
        batch: records an update, on average.
        rows: synthetic posts asked for.
        candidates: drafts of each.
        keep: share of the posts that stays.
        stages: of refinement.
    """

    steps: int
    reward_steps: int
    batch: int
    rows: int
    candidates: int
    keep: float
    stages: int


QUICK = Size(steps=10, reward_steps=8, batch=64, rows=160, candidates=4, keep=0.5, stages=0)
FULL = Size(steps=200, reward_steps=120, batch=128, rows=2000, candidates=6, keep=0.25, stages=2)


def run_demo(
    folder: Path,
    *,
    seed: int = 0,
    full: bool = False,
    size: Size | None = None,
    base: Any = "smollm2",
    progress: Say = lambda line: None,
) -> dict[str, Any]:
    """Train both proxies on sensitive posts at ε = 8 in all, sample, filter, audit, and compare.

    Args:
        folder: of the run: report.html, its figures and data, and summary.json.
        seed: of what is public. Masks and noise come from the system.
        full: hours instead of minutes.
        size: in place of both.
        base: of both proxies.
        progress: told what is being worked on.

    Returns:
        The summary; its "headline" maps the names of the few figures that matter to their values.

    Raises:
        MissingAsset, ModelNotFound: the posts or the model cannot be had.
        RunMismatch: `folder` holds a run with other settings.
    """
    size = size or (FULL if full else QUICK)
    data = read_dreaddit()
    settings = _settings(size, seed, base)
    asked = {"seed": seed, "size": asdict(size), "base": str(base)}
    run = Run.create(folder, asked, package="lipogram-rewardds")
    began = time.monotonic()
    canaries = _canaries(run.folder / "canaries.json")
    cut = [_shortened(post) for post in data.train]
    records = canaries.planted(as_records(cut))
    public = PublicRecords(Record(f"request-{label}", request(label), "") for label in (0, 1))
    done = run_pipeline(
        records,
        settings,
        run.folder,
        public=public,
        ledger=PrivacyLedger(run.folder / "client" / "ledger.jsonl"),
        progress=progress,
    )
    progress("what the synthetic posts are worth")
    scores = _scores(done, cut, [_shortened(post) for post in data.disjoint_test], seed)
    progress("auditing what was released")
    audit = audit_bundle(done.bundle, canaries)
    overlap = _overlap(done, records)
    summary = {
        "headline": {
            "epsilon, everything together": done.epsilon,
            "accuracy on real posts, trained on synthetic ones": scores["filtered"].accuracy,
            "the same, of as many unfiltered": scores["random subset"].accuracy,
            "the same, on as many real posts": scores["as many real posts"].accuracy,
            "the same, on all real posts": scores["all real posts"].accuracy,
            "the commonest label": scores["majority"].accuracy,
            "epsilon that canaries prove": audit.bound.epsilon,
        },
        "scores": {name: score.to_json() for name, score in scores.items()},
        "audit": audit.as_json(),
        "overlap": overlap,
        "counts": done.counts,
        "stages": done.stages,
        "seconds": round(time.monotonic() - began, 1),
    }
    write_demo_report(run, done, settings.plan(records.n), scores, audit, overlap)
    run.summary(summary)
    return summary


def _settings(size: Size, seed: int, base: Any) -> PipelineSettings:
    n = 2838  # of posts; canaries come on top
    return PipelineSettings(
        base=base,
        llm=base,
        epsilon=8.0,
        batch=size.batch,
        epochs=(size.steps + 0.5) * size.batch / n,
        reward_epochs=(size.reward_steps + 0.5) * size.batch / n,
        lora={
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "v_proj", "o_proj"],
            "layers_to_transform": list(range(20, 30)),
        },
        client={
            "clip": 0.5,
            "lr": 2e-3,
            "tasks": ("answer",),
            "weak_sources": ("offquestion",),
            "prompts": PROMPTS,
            "max_length": 96,
            "physical_batch": 16,
            "autocast": True,
            "public_instructions": True,
            "seed": seed,
        },
        asked=[request(label) for label in (0, 1)],
        questions=size.rows,
        candidates=size.candidates,
        sampling={"answer_tokens": 80, "top_p": 0.95, "seed": seed},
        keep=size.keep,
        alpha=1.0,
        stages=size.stages,
        finetune=size.stages > 0,
    )


def _canaries(path: Path) -> Canaries:
    if path.exists():
        return Canaries.read(path)
    made = make_canaries(CANARIES)
    made.save(path)
    return made


def _shortened(post: Post) -> Post:
    """The post's first sentences, of at most so many words; a function of the post alone."""
    kept: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", post.text.strip()):
        if kept and len(" ".join([*kept, sentence]).split()) > WORDS:
            break
        kept.append(sentence)
    text = " ".join(" ".join(kept).split()[:WORDS])
    return Post(PrivateRecord(post.id, text, post.record.response))


def _scores(
    done: PipelineResult, train: Sequence[Post], test: Sequence[Post], seed: int
) -> dict[str, ClassifierScore]:
    """A TF-IDF classifier learnt from each set, on real held-out posts."""
    held = ([post.text for post in test], [post.label for post in test])
    kept = list(done.pool.kept)
    raw = list(done.raw.rows)
    m = len(kept)
    sets: dict[str, list[SyntheticRow]] = {
        "filtered": kept,
        "random subset": random_subset(raw, m, seed=seed),
        "perplexity filter": perplexity_filter(raw, m),
        "shuffled reward": list(
            first_pool(shuffled_rewards(raw, seed=seed), keep=done.raw.keep).kept
        ),
        "all unfiltered": raw,
    }
    found = {}
    for name, rows in sets.items():
        texts, labels, _ = labelled(rows)
        found[name] = held_out_score((texts, labels), held)
    for name, posts in (("as many real posts", train[:m]), ("all real posts", train)):
        found[name] = held_out_score(
            ([post.text for post in posts], [post.label for post in posts]), held
        )
    found["majority"] = majority_score([post.label for post in train], held[1])
    return found


def _overlap(done: PipelineResult, records: PrivateRecords) -> dict[str, Any]:
    """Runs of eight private words in the bundle and in the synthetic posts."""
    grams = PrivateGrams(records, public=[request(0), request(1)])
    texts = [(row.id, text) for row in done.raw.rows for text in row.candidates]
    rows, bundle = grams.scan(texts), grams.scan_folder(done.bundle)
    return {
        "bundle": {"grams": bundle.grams, "hits": len(bundle.hits)},
        "rows": {"texts": rows.texts, "grams": rows.grams, "hits": len(rows.hits)},
    }
