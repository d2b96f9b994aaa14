"""What privacy costs in speed and memory, against plain loops, and what batched scoring gains.

All on a random model of the Llama kind, so that no file is needed. Ways to do one thing take turns,
and medians count. On a CPU ratios are of the process's own seconds, which other processes change
least; those of the clock stand beside them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lipogram.analytic.settings import one_of, whole
from lipogram.errors import InvalidSetting
from lipogram.llm.objectives import IGNORED
from lipogram.llm.seeds import rng
from lipogram.llm.tuning import lora_config
from rewardds.clipped_gradients import ClippedGradients
from rewardds.dp_trainer import DPTrainer
from rewardds.losses import CausalLMLoss
from rewardds.proxy_models import trainable
from rewardds.reward_model import RewardModel
from rewardds.rows import Row, collate
from rewardds.rows import Sequence as Tokens
from rewardds.sequence_scores import perplexities, rewards
from rewardds.training_run import TrainingRun

Way = Literal["plain", "hooks", "ghost"]
WAYS: tuple[Way, ...] = ("plain", "hooks", "ghost")
Tune = Literal["lora", "full"]


@dataclass(frozen=True)
class Shape:
    """The model and the data.

    Attributes:
        layers: blocks.
        width: of the residual stream.
        vocabulary: tokens.
        batch: expected records a step; there are ten times as many in all.
        physical_batch: rows at once, of both loops.
        length: of a record, in tokens.
        steps: updates timed.
    """

    layers: int = 4
    width: int = 256
    vocabulary: int = 2048
    batch: int = 32
    physical_batch: int = 16
    length: int = 64
    steps: int = 3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            whole(name, value)
        if self.width % 32:
            raise InvalidSetting(f"width is {self.width}, it must be a multiple of 32")

    def model(self, device: str | torch.device = "cpu") -> Any:
        """A random one, the same every time, frozen."""
        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=3 * self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.width // 32,
            max_position_embeddings=2048,
            pad_token_id=0,
        )
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(0)
            model: Any = LlamaForCausalLM(config)
        return model.to(device).eval().requires_grad_(False)

    def rows(self) -> list[Row]:
        """Ten batches of records of one sequence each."""
        draw = rng("benchmark", 0)
        ids = torch.randint(1, self.vocabulary, (10 * self.batch, self.length), generator=draw)
        scored = [False] * (self.length // 2) + [True] * (self.length - self.length // 2)
        return [Row(str(i), [Tokens(row, scored)]) for i, row in enumerate(ids.tolist())]


@dataclass(frozen=True)
class Seconds:
    """How long a thing took.

    Attributes:
        own: seconds of the process on a CPU, of the clock on an accelerator.
        wall: of the clock.
    """

    own: float
    wall: float

    @classmethod
    def median(cls, many: Sequence[Seconds]) -> Seconds:
        """Of each kind by itself."""
        return cls(
            statistics.median(each.own for each in many),
            statistics.median(each.wall for each in many),
        )


def train(shape: Shape, way: Way, tune: Tune, device: str | torch.device = "cpu") -> Seconds:
    """Seconds a token of a training, after one step to warm up.

    Args:
        shape: of model and data.
        way: "plain", or how clipped gradients are made.
        tune: adapters of rank 8 on all linear layers, or all weights but the embeddings.
        device: where.

    Raises:
        InvalidSetting: another way, or another part to be tuned.
    """
    one_of("way", way, WAYS)
    one_of("tune", tune, ("lora", "full"))
    model, rows = _tuned(shape, tune, device), shape.rows()
    trainer = _plain if way == "plain" else _private

    def run(steps: int) -> int:
        return trainer(model, rows, shape, steps, way, tune)

    run(1)
    records, took = _timed(lambda: run(shape.steps), device)
    tokens = max(1, records) * shape.length
    return Seconds(took.own / tokens, took.wall / tokens)


def training_speeds(
    shape: Shape, tune: Tune, *, repeats: int = 3, device: str | torch.device = "cpu"
) -> dict[Way, Seconds]:
    """Seconds a token of each way: the median of interleaved repeats."""
    found: dict[Way, list[Seconds]] = {way: [] for way in WAYS}
    for _ in range(whole("repeats", repeats)):
        for way in WAYS:
            found[way].append(train(shape, way, tune, device))
    return {way: Seconds.median(took) for way, took in found.items()}


def gradient_difference(shape: Shape, tune: Tune, device: str | torch.device = "cpu") -> float:
    """How far clipped sums are from gradients of one row at a time, as a part of their norm.

    The larger of both ways. Half of the rows are cut: C is the median of their norms.
    """
    model, rows = _tuned(shape, tune, device).train(), shape.rows()[: shape.physical_batch]
    weights = [p for p in model.parameters() if p.requires_grad]
    alone = []
    for row in rows:
        loss = CausalLMLoss()(model, collate([row], pad_id=0).to(device)).sum()
        parts = torch.autograd.grad(loss, weights)
        alone.append(torch.cat([part.flatten() for part in parts]).double())
    norms = [float(each.norm()) for each in alone]
    clip = statistics.median(norms)
    expected = sum(each * min(1.0, clip / n) for each, n in zip(alone, norms, strict=True))
    assert isinstance(expected, torch.Tensor)
    worst = 0.0
    modes: tuple[Literal["hooks", "ghost"], ...] = ("hooks", "ghost")
    for mode in modes:
        found = ClippedGradients(
            model, CausalLMLoss(), clip, mode, lambda part: collate(part, pad_id=0)
        )
        found.add(rows)
        found.close()
        ours = torch.cat([part.flatten() for part in found.sums]).double()
        worst = max(worst, float((ours - expected).norm() / expected.norm()))
    return worst


def peak_memory(shape: Shape, way: Way, tune: Tune) -> int:
    """Bytes that a training on the CPU adds at most to its process, its model included.

    Each is run by a process of its own: what one has freed, the next would seem to need no more.
    """
    asked = json.dumps({"shape": vars(shape), "way": way, "tune": tune})
    done = subprocess.run(
        [sys.executable, "-m", "rewardds.benchmark", asked],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@dataclass(frozen=True)
class ScorerSpeed:
    """Scoring candidates in batches against one by one.

    Attributes:
        batched: ours.
        one_by_one: a call of each proxy for each candidate.
        difference: largest relative difference of a score.
    """

    batched: Seconds
    one_by_one: Seconds
    difference: float

    @property
    def ratio(self) -> float:
        """How many times as fast."""
        return self.one_by_one.own / self.batched.own


def scorer_speed(
    shape: Shape,
    *,
    question: int = 36,
    answers: tuple[int, int] = (6, 24),
    questions: int = 32,
    candidates: int = 6,
    batch_size: int = 32,
    repeats: int = 3,
    device: str | torch.device = "cpu",
) -> ScorerSpeed:
    """Reward and perplexity of candidates of many lengths.

    Args:
        shape: of the model.
        question: tokens of a question with its prompt.
        answers: tokens of an answer, at least and at most.
        questions: how many.
        candidates: of each.
        batch_size: candidates at a time.
        repeats: interleaved; the medians count.
        device: where.
    """
    draw = rng("benchmark", 1)

    def ids(n: int) -> list[int]:
        return torch.randint(1, shape.vocabulary, (n,), generator=draw).tolist()

    groups = []
    for _ in range(questions):
        asked = ids(question)
        group = []
        for _ in range(candidates):
            n = int(torch.randint(answers[0], answers[1] + 1, (1,), generator=draw))
            group.append(Tokens(asked + ids(n), [False] * question + [True] * n))
        groups.append(group)
    lm = shape.model(device)
    judge = RewardModel(shape.model(device)).eval()

    def batched() -> list[float]:
        first = perplexities(lm, groups, padding=0, batch_size=batch_size)
        second = rewards(judge, groups, padding=0, batch_size=batch_size)
        return [value for rows in (*first, *second) for value in rows]

    def single() -> list[float]:
        flat = [tokens for group in groups for tokens in group]
        with torch.inference_mode():
            first = [_perplexity(lm, tokens, device) for tokens in flat]
            second = [
                float(judge(input_ids=torch.tensor([tokens.ids], device=device))[0, -1])
                for tokens in flat
            ]
        return first + second

    batched(), single()  # what the libraries do once
    ours, theirs = [], []
    for _ in range(whole("repeats", repeats)):
        scores, took = _timed(batched, device)
        ours.append(took)
        expected, took = _timed(single, device)
        theirs.append(took)
    difference = max(abs(a - b) / max(abs(b), 1e-6) for a, b in zip(scores, expected, strict=True))
    return ScorerSpeed(Seconds.median(ours), Seconds.median(theirs), difference)


def _perplexity(lm: Any, tokens: Tokens, device: str | torch.device) -> float:
    """As one would write it: the model's own loss of the answer, and exp."""
    ids = torch.tensor([tokens.ids], device=device)
    scored = torch.tensor([tokens.scored], device=device)
    return float(lm(input_ids=ids, labels=ids.where(scored, IGNORED)).loss.exp())


def _tuned(shape: Shape, tune: Tune, device: str | torch.device) -> Any:
    frozen = shape.model(device)
    return trainable(frozen, tune, lora_config(frozen, r=8, alpha=16), 0)


def _private(
    model: Any, rows: Sequence[Row], shape: Shape, steps: int, way: Way, tune: Tune
) -> int:
    """Ours; how many records were drawn."""
    assert way != "plain"
    trainer = DPTrainer(
        model,
        TrainingRun(1.0, len(rows), shape.batch, steps),
        loss=CausalLMLoss(),
        lr=1e-4,
        clip=1.0,
        physical_batch=shape.physical_batch,
        grad=way,
        full=tune == "full",
    )
    trainer.train(rows)
    return trainer.tally.records


def _plain(model: Any, rows: Sequence[Row], shape: Shape, steps: int, *_: str) -> int:
    """An ordinary loop: shuffled batches, the model's own loss, AdamW; how many records it saw."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    order = torch.randperm(len(rows), generator=rng("order", 0)).tolist()
    device = next(model.parameters()).device
    model.train()
    parts = shape.batch // shape.physical_batch
    for step in range(steps):
        chosen = [order[(step * shape.batch + i) % len(rows)] for i in range(shape.batch)]
        for start in range(0, shape.batch, shape.physical_batch):
            sequences = [rows[i].sequences[0] for i in chosen[start : start + shape.physical_batch]]
            ids = torch.tensor([one.ids for one in sequences], device=device)
            scored = torch.tensor([one.scored for one in sequences], device=device)
            loss = model(input_ids=ids, labels=ids.where(scored, IGNORED), use_cache=False).loss
            (loss / parts).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return steps * shape.batch


def _timed(work: Callable[[], Any], device: str | torch.device) -> tuple[Any, Seconds]:
    """What it gives, and how long it took."""
    on_cpu = torch.device(device).type == "cpu"
    if not on_cpu:
        torch.accelerator.synchronize()
    wall, own = time.perf_counter(), time.process_time()
    result = work()
    if not on_cpu:
        torch.accelerator.synchronize()
    wall, own = time.perf_counter() - wall, time.process_time() - own
    return result, Seconds(own if on_cpu else wall, wall)


def _peak(asked: str) -> int:
    """In a process of its own: train, and tell how far its memory has grown."""
    told = json.loads(asked)
    shape = Shape(**told["shape"])
    tiny = Shape(1, 32, 64, 2, 2, 8, 1)
    train(tiny, told["way"], told["tune"])  # what the libraries load when first used
    begun, _ = _memory()
    train(shape, told["way"], told["tune"])
    return _memory()[1] - begun


def _memory() -> tuple[int, int]:
    """Bytes that are in use, and the most since the last call or, but on Linux, since the start."""
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        most = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most, most
    found = dict(line.split(":", 1) for line in status.read_text().splitlines())
    now, most = (1024 * int(found[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return now, most


if __name__ == "__main__":
    print(_peak(sys.argv[1]))
