"""What privacy costs in speed and memory, against plain loops, and what batched scoring gains.

All on a random model of the Llama kind, so that no file is needed. On a CPU seconds are those of
this process, not of the clock: other processes beside it change little.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lipogram.analytic.settings import one_of, whole
from lipogram.errors import InvalidSetting
from lipogram.llm.forward import evaluating
from lipogram.llm.seeds import rng
from lipogram.llm.tuning import lora_config
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


def train(shape: Shape, way: Way, tune: Tune, device: str | torch.device = "cpu") -> float:
    """Tokens a second of a training, after one step to warm up.

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
    frozen = shape.model(device)
    model = trainable(frozen, tune, lora_config(frozen, r=8, alpha=16), 0)
    rows = shape.rows()
    if way == "plain":
        _plain(model, rows, shape, 1)
        count, seconds = _timed(lambda: _plain(model, rows, shape, shape.steps), device)
        return count * shape.length / seconds

    def private(steps: int) -> int:
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

    private(1)
    count, seconds = _timed(lambda: private(shape.steps), device)
    return count * shape.length / seconds


def training_speeds(
    shape: Shape, tune: Tune, *, repeats: int = 3, device: str | torch.device = "cpu"
) -> dict[Way, float]:
    """Tokens a second of each way: the most of several interleaved repeats."""
    found: dict[Way, float] = dict.fromkeys(WAYS, 0.0)
    for _ in range(whole("repeats", repeats)):
        for way in WAYS:
            found[way] = max(found[way], train(shape, way, tune, device))
    return found


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
        batched: seconds, ours.
        one_by_one: seconds, a forward pass a candidate and proxy.
        difference: largest relative difference of a score.
    """

    batched: float
    one_by_one: float
    difference: float

    @property
    def ratio(self) -> float:
        """How many times as fast."""
        return self.one_by_one / self.batched


def scorer_speed(
    shape: Shape,
    *,
    questions: int = 32,
    candidates: int = 6,
    batch_size: int = 32,
    repeats: int = 3,
    device: str | torch.device = "cpu",
) -> ScorerSpeed:
    """Reward and perplexity of candidates of many lengths.

    A question has three quarters of `shape.length` tokens, an answer between an eighth and a half
    of it.

    Args:
        shape: of the model; of the data the length counts.
        questions: how many.
        candidates: of each.
        batch_size: candidates at a time.
        repeats: interleaved, of which the least time counts.
        device: where.
    """
    draw = rng("benchmark", 1)

    def ids(n: int) -> list[int]:
        return torch.randint(1, shape.vocabulary, (n,), generator=draw).tolist()

    groups = []
    for _ in range(questions):
        question = ids(3 * shape.length // 4)
        group = []
        for _ in range(candidates):
            low, high = max(1, shape.length // 8), shape.length // 2 + 1
            n = int(torch.randint(low, high, (1,), generator=draw))
            scored = [False] * len(question) + [True] * n
            group.append(Tokens(question + ids(n), scored))
        groups.append(group)
    lm = shape.model(device)
    judge = RewardModel(shape.model(device)).eval()

    def batched() -> list[float]:
        first = perplexities(lm, groups, padding=0, batch_size=batch_size)
        second = rewards(judge, groups, padding=0, batch_size=batch_size)
        return [value for rows in (*first, *second) for value in rows]

    def single() -> list[float]:
        flat = [tokens for group in groups for tokens in group]
        with evaluating(lm), evaluating(judge):
            first = [_perplexity(lm, tokens, device) for tokens in flat]
            second = [
                float(judge(input_ids=torch.tensor([tokens.ids], device=device))[0, -1])
                for tokens in flat
            ]
        return first + second

    times: dict[str, list[float]] = {"batched": [], "single": []}
    for _ in range(whole("repeats", repeats)):
        ours, seconds = _timed(batched, device)
        times["batched"].append(seconds)
        theirs, seconds = _timed(single, device)
        times["single"].append(seconds)
    difference = max(abs(a - b) / max(abs(b), 1e-6) for a, b in zip(ours, theirs, strict=True))
    return ScorerSpeed(min(times["batched"]), min(times["single"]), difference)


def _perplexity(lm: Any, tokens: Tokens, device: str | torch.device) -> float:
    ids = torch.tensor([tokens.ids], device=device)
    logps = lm(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    own = logps.gather(1, ids[0, 1:, None])[:, 0]
    scored = torch.tensor(tokens.scored[1:], device=device)
    return float((-own[scored].double().mean()).exp())


def _plain(model: Any, rows: Sequence[Row], shape: Shape, steps: int) -> int:
    """An ordinary loop: shuffled batches, the mean loss, AdamW; how many records were seen."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    order = torch.randperm(len(rows), generator=rng("order", 0)).tolist()
    device = next(model.parameters()).device
    loss = CausalLMLoss()
    model.train()
    for step in range(steps):
        chosen = [order[(step * shape.batch + i) % len(rows)] for i in range(shape.batch)]
        for start in range(0, shape.batch, shape.physical_batch):
            part = [rows[i] for i in chosen[start : start + shape.physical_batch]]
            batch = collate(part, pad_id=0).to(device)
            (loss(model, batch).sum() / shape.batch).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return steps * shape.batch


def _timed(work: Callable[[], Any], device: str | torch.device) -> tuple[Any, float]:
    """What it gives, and its seconds: of the process on a CPU, of the clock on an accelerator."""
    if torch.device(device).type == "cpu":
        begun = time.process_time()
        return work(), time.process_time() - begun
    torch.accelerator.synchronize()
    begun = time.perf_counter()
    result = work()
    torch.accelerator.synchronize()
    return result, time.perf_counter() - begun


def _peak(asked: str) -> int:
    """In a process of its own: train, and tell how far its memory has grown."""
    import resource

    told = json.loads(asked)
    shape = Shape(**told["shape"])
    unit = 1 if sys.platform == "darwin" else 1024
    tiny = Shape(1, 32, 64, 2, 2, 8, 1)
    train(tiny, told["way"], told["tune"])  # what the libraries load when first used
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    train(shape, told["way"], told["tune"])
    return unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


if __name__ == "__main__":
    print(_peak(sys.argv[1]))
