"""From private records to a tuned model: the client's part, the release, the server's part."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lipogram.errors import InvalidSetting
from lipogram.files import write_atomically
from rewardds.plan import PrivacyPlan, RunPlan
from rewardds.pool import Pool, Select
from rewardds.pool_files import read_pool, write_pool
from rewardds.records import PrivateRecords, PublicRecords

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """All that a run is asked to do.

    Attributes:
        base: of both proxies, see :func:`lipogram.llm.load_model`.
        llm: the server's model.
        server_dtype: of all of the server's models, see :func:`lipogram.llm.load_model`.
        epsilon: of everything that leaves the client, together.
        delta: None for the plan's default.
        batch: records in a batch of the generator's training.
        epochs: of that training.
        reward_batch: of the reward's training; None for `batch`.
        reward_epochs: None for `epochs`.
        split: see :class:`rewardds.plan.PrivacyPlan`.
        lora: of the proxies, by the names of PEFT's LoraConfig; empty for rank 8 on all linear
            layers of the blocks.
        client: see :class:`rewardds.client_settings.ClientSettings`; `prompts` as a mapping.
        questions: synthetic questions to sample.
        asked: public questions to be answered over and over in place of sampled ones.
        answers: public answers that are every question's candidates in place of drawn ones.
        candidates: drawn answers a question.
        sampling: see :class:`rewardds.sampling.SamplingSettings`.
        keep: share of the questions that stays.
        alpha: weight of the reward's rank beside the perplexity's.
        select: what questions compete by, see :data:`rewardds.pool.Select`.
        stages: of refinement.
        refinement: see :class:`rewardds.refinement.RefinementSettings`.
        tuning: see :class:`rewardds.finetuning.Tuning`; empty for the paper's.
        finetune: whether the server's model is tuned at all.

    Raises:
        InvalidSetting: a setting outside its range.
    """

    base: str = "smollm2"
    llm: str = "smollm2"
    server_dtype: str = "auto"
    epsilon: float = 8.0
    delta: float | None = None
    batch: int = 64
    epochs: float = 3.0
    reward_batch: int | None = None
    reward_epochs: float | None = None
    split: Any = "equal-sigma"
    lora: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    questions: int = 3000
    asked: Sequence[str] = ()
    answers: Sequence[str] = ()
    candidates: int = 6
    sampling: dict[str, Any] = field(default_factory=dict)
    keep: float = 1 / 8
    alpha: float = 0.5
    select: Select = "reward"
    stages: int = 2
    refinement: dict[str, Any] = field(default_factory=dict)
    tuning: dict[str, Any] = field(default_factory=dict)
    finetune: bool = True

    @classmethod
    def of(cls, settings: dict[str, Any]) -> PipelineSettings:
        """From a file's table.

        Raises:
            InvalidSetting: a name that there is not.
        """
        known = cls.__dataclass_fields__
        for name in settings:
            if name not in known:
                raise InvalidSetting(f"there is no setting {name!r}; there are {', '.join(known)}")
        return cls(**settings)

    def plan(self, n: int) -> PrivacyPlan:
        """The noise that the budget asks for with n records or groups."""
        reward = RunPlan(self.reward_batch or self.batch, self.reward_epochs or self.epochs)
        return PrivacyPlan(
            self.epsilon,
            self.delta,
            n=n,
            generator=RunPlan(self.batch, self.epochs),
            reward=reward,
            split=self.split,
        )


@dataclass(frozen=True)
class PipelineResult:
    """What a run left.

    Attributes:
        epsilon, delta: of everything that left the client, recomputed from the bundle.
        sentence: the same in words.
        bundle: folder of what left.
        raw: rows as sampled, scored and ranked.
        pool: after the last stage.
        stages: of refinement, as JSON values.
        counts: what became of the draws, as JSON values.
    """

    epsilon: float
    delta: float
    sentence: str
    bundle: Path
    raw: Pool
    pool: Pool
    stages: list[dict[str, Any]]
    counts: dict[str, Any]


def run_pipeline(
    records: PrivateRecords,
    settings: PipelineSettings,
    folder: str | Path,
    *,
    public: PublicRecords | Sequence[str] = (),
    ledger: Any = None,
    progress: Say = lambda line: None,
    base: Any = None,
    **how: Any,
) -> PipelineResult:
    """Run what is not done yet of the client's and the server's parts.

    Args:
        records: the private set; nothing after the release sees it.
        settings: what to do.
        folder: of the run: `client/bundle` is what leaves, `sampled` and `pool` what was made of
            it, `model` the tuned model.
        public: seeds, see :meth:`rewardds.client.RewardDSClient.fit`.
        ledger: None for the user's own.
        progress: told what is being worked on.
        base: a loaded model in place of the ones that the settings name.
        how: device of all models.

    Raises:
        LipogramError: see the client and the server.
    """
    from rewardds.client import NGRAMS, RewardDSClient
    from rewardds.client_settings import ClientSettings
    from rewardds.finetuning import Tuning
    from rewardds.private_ngrams import PrivateNgrams
    from rewardds.prompts import Prompts
    from rewardds.refinement import RefinementSettings
    from rewardds.sampling import SamplingSettings
    from rewardds.server import RewardDSServer
    from rewardds.taint import ReleaseGate

    folder = Path(folder)
    client_settings = dict(settings.client)
    if isinstance(client_settings.get("prompts"), dict):
        client_settings["prompts"] = Prompts(**client_settings["prompts"])
    told = ClientSettings(**client_settings)
    n = _units(records, told)
    plan = settings.plan(n)
    progress(plan.sentence())
    client = RewardDSClient(
        base or settings.base,
        plan,
        folder=folder / "client",
        lora=_adapter(settings),
        ledger=ledger,
        **how,
        **client_settings,
    )
    progress("client: training both proxies")
    bundle = client.fit(records, public)
    ngrams = PrivateNgrams.load(folder / "client" / "private" / NGRAMS, records.key)
    server = RewardDSServer(
        base or settings.llm,
        bundle,
        base=base,
        gate=ReleaseGate(ngrams),
        dtype=settings.server_dtype,
        **how,
    )
    progress(f"released: {server.privacy.sentence()}")
    sampled = read_pool(folder / "sampled")
    counts_path = folder / "sampled" / "counts.json"
    if sampled is None:
        progress(f"server: sampling {settings.questions} questions")
        rows, counts = server.sample(
            settings.questions,
            settings.candidates,
            questions=settings.asked,
            answers=settings.answers,
            settings=SamplingSettings(**settings.sampling),
            folder=folder / "draws",
        )
        progress(f"server: scoring {counts.candidates} candidates")
        sampled = server.filter(rows, settings.keep, settings.alpha, settings.select)
        counts_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(counts_path, json.dumps(asdict(counts)).encode())
        write_pool(folder / "sampled", sampled)
    pool, stages = sampled, []
    tuning = Tuning(**settings.tuning) if settings.tuning else None
    if settings.stages and settings.finetune:
        progress(f"server: {settings.stages} stages of refinement")
        refinement = RefinementSettings(**settings.refinement)
        pool = server.refine(
            sampled, settings.stages, alpha=settings.alpha, settings=refinement, tuning=tuning
        )
        stages = [asdict(stage) for stage in server.stages]
    if settings.finetune:
        progress(f"server: tuning on {len(pool.kept)} rows")
        stages.append({"last": asdict(server.finetune(pool, tuning=tuning))})
        server.llm.model.save_pretrained(folder / "model")
        server.llm.tokenizer.save_pretrained(folder / "model")
    write_pool(folder / "pool", pool)
    return PipelineResult(
        server.privacy.epsilon,
        server.privacy.delta,
        server.privacy.sentence(),
        bundle.folder,
        sampled,
        pool,
        stages,
        json.loads(counts_path.read_bytes()),
    )


def _units(records: PrivateRecords, settings: Any) -> int:
    from rewardds.privacy_units import privacy_units

    return len(privacy_units(records, settings.unit, per_group=settings.per_group))


def _adapter(settings: PipelineSettings) -> Any:
    """PEFT's settings of the proxies' adapters; None for the client's default."""
    if not settings.lora:
        return None
    from peft import LoraConfig

    try:
        return LoraConfig(task_type="CAUSAL_LM", **settings.lora)
    except TypeError as error:
        raise InvalidSetting(f"lora = {settings.lora}: {error}") from None
