"""The demonstration: private posts in, synthetic ones out, and what these are worth."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipogram.llm.loaded import LoadedModel
from lipogram.llm.loading import load_model
from lipogram.llm.seeds import rng
from lipogram.llm.text import pad_id
from lipogram.runs import Run
from rewardds.baselines import perplexity_filter, shuffled_rewards
from rewardds.bundle_audit import audit_bundle
from rewardds.canaries import Canaries, make_canaries
from rewardds.demo_report import write_demo_report
from rewardds.dreaddit import LABELS, Form, Post, as_records, labelled, read_dreaddit
from rewardds.errors import WeakAmplification
from rewardds.ledger import PrivacyLedger
from rewardds.pipeline import PipelineResult, PipelineSettings, run_pipeline
from rewardds.pool import first_pool
from rewardds.prompts import Prompts, sequence
from rewardds.records import PrivateRecord, PrivateRecords, PublicRecords, Record
from rewardds.sentence_embeddings import SentenceEmbeddings
from rewardds.sequence_scores import perplexities
from rewardds.text_classifier import ClassifierScore, held_out_score, majority_score
from rewardds.text_overlap import PrivateGrams

CANARIES = 200
FORM: Form = "post-to-label"
MAX_LENGTH = 128
WORDS = 32  # of a post, of whole sentences where they fit
PROMPTS = {
    "answer": "Say whether the writer of the post is stressed or not stressed.",
    "posed": "Write one or two sentences that someone who is {answer} posts in an online forum.",
    "judge": "Is the writer of the post stressed?",
}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How much a run does.

    Attributes:
        posts: private posts, the first ones of the data set.
        held_out: real posts to be labelled, the first ones.
        steps: noisy updates of the generator.
        reward_steps: of the reward.
        batch: records an update of the generator, on average.
        reward_batch: likewise of the reward.
        rows: synthetic posts asked for.
        keep: share of the posts that stays.
        epochs: of the language model's tuning on them.
    """

    posts: int
    held_out: int
    steps: int
    reward_steps: int
    batch: int
    reward_batch: int
    rows: int
    keep: float
    epochs: int


QUICK = Size(2838, 712, 24, 30, batch=64, reward_batch=512, rows=640, keep=0.25, epochs=2)
FULL = Size(2838, 712, 200, 60, batch=128, reward_batch=512, rows=4000, keep=0.25, epochs=3)


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
    asked = {"seed": seed, "size": asdict(size), "base": str(base)}
    run = Run.create(folder, asked, package="lipogram-rewardds")
    began = time.monotonic()
    canaries = _canaries(run.folder / "canaries.json")
    cut = [_shortened(post) for post in data.train[: size.posts]]
    records = canaries.planted(as_records(cut, FORM))
    settings = _settings(size, seed, base, records.n)
    public = PublicRecords(Record(name, "", name) for name in LABELS)
    with warnings.catch_warnings():
        # A head has so few weights that large batches, hardly hidden by sampling, still pay.
        warnings.simplefilter("ignore", WeakAmplification)
        plan = settings.plan(records.n)
        done = run_pipeline(
            records,
            settings,
            run.folder,
            public=public,
            ledger=PrivacyLedger(run.folder / "client" / "ledger.jsonl"),
            progress=progress,
        )
    progress("what the synthetic posts are worth")
    held_out = [_shortened(post) for post in data.disjoint_test[: size.held_out]]
    scores = _scores(done, cut, held_out, seed)
    tuned = load_model(base, adapter=run.folder / "model", dtype="fast")
    after = label_accuracy(tuned, held_out[::3])
    with tuned.model.disable_adapter():
        before = label_accuracy(tuned, held_out[::3])
    progress("auditing what was released")
    audit = audit_bundle(done.bundle, canaries)
    overlap = _overlap(done, records)
    accuracy = {name: both["embeddings"].accuracy for name, both in scores.items()}
    summary = {
        "headline": {
            "epsilon, everything together": done.epsilon,
            "accuracy on real posts, learnt from synthetic ones": accuracy["filtered"],
            "the same, of as many unfiltered": accuracy["as many unfiltered"],
            "the same, on as many real posts": accuracy["as many real posts"],
            "the same, on all real posts": accuracy["all real posts"],
            "the commonest label": accuracy["majority"],
            "of the language model tuned on synthetic posts": after,
            "of the language model before": before,
            "epsilon that canaries prove": audit.bound.epsilon,
        },
        "scores": {
            name: {kind: score.to_json() for kind, score in both.items()}
            for name, both in scores.items()
        },
        "audit": audit.as_json(),
        "overlap": overlap,
        "counts": done.counts,
        "stages": done.stages,
        "seconds": round(time.monotonic() - began, 1),
    }
    tuned_scores = (after, before, len(held_out[::3]))
    write_demo_report(run, done, plan, scores, tuned_scores, audit, overlap)
    run.summary(summary)
    return summary


def _settings(size: Size, seed: int, base: Any, n: int) -> PipelineSettings:
    return PipelineSettings(
        base=base,
        llm=base,
        server_dtype="fast",
        epsilon=8.0,
        split=0.35,
        batch=size.batch,
        epochs=(size.steps + 0.5) * size.batch / n,
        reward_batch=size.reward_batch,
        reward_epochs=(size.reward_steps + 0.5) * size.reward_batch / n,
        lora={
            "r": 1,
            "lora_alpha": 2,
            "target_modules": ["q_proj", "v_proj", "o_proj"],
            "layers_to_transform": list(range(20, 30)),
        },
        client={
            "clip": 0.5,
            "lr": 4e-3,
            "reward": "head",
            "reward_clip": 5.0,
            "reward_lr": 0.02,
            "tasks": ("posed",),
            "weak_sources": ("offtopic",),
            "prompts": PROMPTS,
            "max_length": MAX_LENGTH,
            "physical_batch": 16,
            "autocast": True,
            "public_responses": True,
            "seed": seed,
        },
        questions=size.rows,
        answers=LABELS,
        sampling={"question_tokens": 72, "top_p": 0.95, "seed": seed},
        keep=size.keep,
        alpha=1.0,
        select="posed",
        stages=0,
        tuning={"epochs": size.epochs, "batch": 32, "lr": 1e-3},
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
) -> dict[str, dict[str, ClassifierScore]]:
    """Classifiers learnt from each set, on real held-out posts: of embeddings, and of words."""
    held = _columns(test)
    kept, raw = list(done.pool.kept), list(done.raw.rows)
    m = len(kept)
    shuffled = shuffled_rewards(raw, alpha=1.0, seed=seed)
    dealt = first_pool(shuffled, keep=done.raw.keep, select=done.raw.select)
    order = torch.randperm(len(raw), generator=rng("some posts", seed)).tolist()
    sets = {
        name: labelled(rows, FORM)[:2]
        for name, rows in {
            "filtered": kept,
            "as many unfiltered": [raw[i] for i in sorted(order[:m])],
            "all unfiltered": raw,
            "labels by likelihood": perplexity_filter(raw, m),
            "shuffled rewards": dealt.kept,
        }.items()
    }
    sets |= {"as many real posts": _columns(train[:m]), "all real posts": _columns(train)}
    texts = sorted({text for told, _ in [held, *sets.values()] for text in told})
    vectors = dict(zip(texts, SentenceEmbeddings()(texts), strict=True))
    found = {
        name: {
            "embeddings": held_out_score(
                own, held, features=lambda told: np.stack([vectors[text] for text in told])
            ),
            "words": held_out_score(own, held),
        }
        for name, own in sets.items()
    }
    common = majority_score([post.label for post in train], held[1])
    return found | {"majority": {"embeddings": common, "words": common}}


def _columns(posts: Sequence[Post]) -> tuple[list[str], list[int]]:
    return [post.text for post in posts], [post.label for post in posts]


def label_accuracy(model: LoadedModel, posts: Sequence[Post]) -> float:
    """Share of posts whose label a language model thinks likelier than the other one.

    Args:
        model: asked as the tuned one is.
        posts: at least one.

    Raises:
        NotFinite, InvalidSetting, OverBudget: see :func:`rewardds.sequence_scores.perplexities`.
    """
    prompts = Prompts(**PROMPTS)
    groups = [
        [
            sequence(model.tokenizer, prompts.answer_turns(post.text, name), MAX_LENGTH)[0]
            for name in LABELS
        ]
        for post in posts
    ]
    found = perplexities(model.model, groups, padding=pad_id(model.tokenizer))
    right = [row[post.label] < row[1 - post.label] for row, post in zip(found, posts, strict=True)]
    return float(np.mean(right))


def _overlap(done: PipelineResult, records: PrivateRecords) -> dict[str, Any]:
    """Runs of eight private words in the bundle and in the synthetic posts."""
    grams = PrivateGrams(records, public=LABELS)
    texts = [(row.id, row.question) for row in done.raw.rows]
    rows, bundle = grams.scan(texts), grams.scan_folder(done.bundle)
    return {
        "bundle": {"grams": bundle.grams, "hits": len(bundle.hits)},
        "rows": {"texts": rows.texts, "grams": rows.grams, "hits": len(rows.hits)},
    }
