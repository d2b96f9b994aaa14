"""The server: synthetic rows from the released proxies, and its own model tuned on them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lipogram.errors import InvalidSetting
from lipogram.llm.loaded import LoadedModel
from lipogram.llm.loading import load_model
from rewardds.backends import Backend, make_backend
from rewardds.bundle import GENERATOR, HASHES, Bundle, read_bundle
from rewardds.errors import InvalidRows
from rewardds.finetuning import Method, Tuning, TuningReport, finetune, prepare_for_tuning
from rewardds.hf_backend import HFBackend
from rewardds.pool import Pool, Select, check_refinable, check_selection, first_pool, grown_pool
from rewardds.ranking import check_alpha
from rewardds.refinement import RefinementSettings, refine_rows
from rewardds.sampling import Sampler, SamplingCounts, SamplingSettings
from rewardds.scoring import Scorer
from rewardds.synthetic import SyntheticRow
from rewardds.taint import ReleaseGate
from rewardds.verification import VerifiedPrivacy, verify

FIRST_EPOCHS, LATER_EPOCHS = 8, 3


@dataclass(frozen=True)
class StageReport:
    """What a stage of refinement did.

    Attributes:
        stage: 1 for the first.
        tuning: of the model before it improved the answers.
        drawn: improved answers drawn.
        dropped: of them, by reason.
        uncriticised: questions that were improved without a critique.
        too_long: improved answers that a proxy could not read whole.
        refined: questions that got a new row.
        pool: rows to learn from afterwards.
        floor: lowest reward among them.
        reward: mean reward among them.
    """

    stage: int
    tuning: TuningReport
    drawn: int
    dropped: dict[str, int]
    uncriticised: int
    too_long: int
    refined: int
    pool: int
    floor: float
    reward: float


class RewardDSServer:
    """Everything after the release, from the bundle and public data; what is private is refused.

    Args:
        llm: the model to tune, see :func:`lipogram.llm.load_model`; one in memory is tuned in
            place, unless it is `base` too.
        bundle: a bundle, or its folder.
        backend: engine that samples from the generation proxy, "hf" or "vllm", or one that holds it
            already.
        improver: makes an engine from the model as it is tuned so far; None for transformers.
        base: the proxies' base model in memory, which stays as it is; None for the one that the
            bundle names.
        rank: of the adapter that is trained on `llm`; None trains all weights but the embeddings.
        gate: what everything passes that comes in; a client that runs this itself gives one that
            knows its private n-grams.
        batch_size: candidates scored at a time.
        how: for :func:`lipogram.llm.load_model`, of all models: dtype, device ...

    Attributes:
        bundle: the bundle.
        privacy: what it costs, recomputed. All that the server makes costs no more.
        llm: the model that is tuned.
        scorer: the two proxies.
        stages: reports of the stages of refinement so far.

    Raises:
        PrivateObject: an argument that is private or holds something that is.
        TamperedBundle: the bundle is not as it was written, or claims an ε that it does not keep.
        InvalidSetting, ModelNotFound, MissingExtra: models or engines that are not there.
    """

    def __init__(
        self,
        llm: Any,
        bundle: Bundle | str | Path,
        backend: str | Backend = "hf",
        *,
        improver: Callable[[LoadedModel], Backend] = HFBackend,
        base: LoadedModel | None = None,
        rank: int | None = 8,
        gate: ReleaseGate | None = None,
        batch_size: int = 32,
        **how: Any,
    ):
        self.gate = ReleaseGate() if gate is None else gate
        self.gate.admit("the server", llm=llm, backend=backend, improver=improver, base=base)
        folder = bundle.folder if isinstance(bundle, Bundle) else bundle
        self.privacy: VerifiedPrivacy = verify(folder)
        self.bundle = read_bundle(folder)
        generator = self.bundle.load_generator(_copy(base), **how)
        reward = self.bundle.load_reward(_copy(base), **how)
        self.scorer = Scorer(generator, reward, self.bundle.prompts, batch_size=batch_size)
        if backend == "hf":
            backend = HFBackend(generator)
        elif isinstance(backend, str):
            proxy = self.bundle.folder / GENERATOR
            if (proxy / "adapter_config.json").exists():
                backend = make_backend(backend, self.bundle.base, adapter=proxy)
            else:
                backend = make_backend(backend, str(proxy))
        self._backend: Backend = backend
        self._improver = improver
        if llm is base:
            llm = _copy(base)
        loaded = llm if isinstance(llm, LoadedModel) else load_model(llm, trainable=True, **how)
        self.llm = prepare_for_tuning(loaded, rank=rank)
        self.stages: list[StageReport] = []
        self._tuned = False

    def sample(
        self,
        n: int,
        n_candidates: int = 6,
        *,
        seeds: Iterable[str] = (),
        questions: Sequence[str] = (),
        answers: Sequence[str] = (),
        settings: SamplingSettings | None = None,
        folder: str | Path | None = None,
    ) -> tuple[list[SyntheticRow], SamplingCounts]:
        """Draw questions and their candidates from the generation proxy.

        Args:
            n: questions.
            n_candidates: answers a question; for other `settings` see there.
            seeds: public or synthetic questions shown as examples.
            questions: public or synthetic questions to be answered, over and over up to n, in place
                of drawn ones.
            answers: public ones, such as the names of labels, that are every question's candidates
                in place of drawn ones. A proxy that learnt the task "posed" writes as many
                questions to each.
            settings: how; its `candidates` give way to `n_candidates`.
            folder: where draws are kept, so that a killed run goes on.

        Returns:
            The rows, not scored yet, and what became of the draws.

        Raises:
            PrivateObject, PrivateText: a seed, a question or an answer that is private.
            InvalidSetting, RunMismatch, CorruptState: see :class:`rewardds.sampling.Sampler`.
        """
        self.gate.admit("sample", settings=settings, folder=folder)
        how = SamplingSettings() if settings is None else settings
        sampler = Sampler(
            self._backend,
            self.bundle.prompts,
            seeds=seeds,
            answers=answers,
            posed=self.bundle.posed,
            settings=replace(how, candidates=n_candidates),
            gate=self.gate,
            folder=None if folder is None else str(folder),
            source=self._source(),
        )
        if not questions:
            return sampler.rows(n)
        return sampler.rows_of([questions[i % len(questions)] for i in range(n)])

    def filter(
        self,
        rows: Sequence[SyntheticRow],
        keep: float = 1 / 8,
        alpha: float = 0.5,
        select: Select = "reward",
    ) -> Pool:
        """Score all candidates, choose the best of each question, and keep the best questions.

        Args:
            rows: as :meth:`sample` gave them.
            keep: share of the questions that stays.
            alpha: weight of the reward's rank beside the perplexity's.
            select: what questions compete by, see :data:`rewardds.pool.Select`.

        Raises:
            PrivateObject: rows that are private.
            InvalidRows: no rows, something else than rows, or two of one id.
            InvalidSetting, NotFinite, OverBudget: see :meth:`rewardds.scoring.Scorer.score`.
        """
        self._admit("filter", rows)
        check_selection(keep, select)
        scored = self.scorer.score(rows, alpha=alpha)
        return first_pool(scored.rows, keep=keep, select=select)

    def refine(
        self,
        pool: Pool,
        stages: int = 2,
        *,
        alpha: float = 0.5,
        settings: RefinementSettings | None = None,
        tuning: Tuning | None = None,
    ) -> Pool:
        """Let the model learn from the pool and improve the answers, in turns.

        A stage tunes the model on the pool, has the generation proxy criticise every question's
        answer and the model improve it, scores the new answers and updates the pool. What the last
        stage found is learnt by :meth:`finetune`.

        Args:
            pool: from :meth:`filter` or an earlier call.
            stages: at least 0.
            alpha: weight of the reward's rank.
            settings: of the refinement.
            tuning: of the model; None for the paper's, 8 epochs at first and 3 later.

        Raises:
            PrivateObject: something private.
            InvalidSetting: fewer than 0 stages, or questions written to given answers; and see
                :meth:`finetune`.
            InvalidRows, NotFinite, OverBudget: see :meth:`filter` and :meth:`finetune`.
        """
        self._admit("refine", pool.rows if isinstance(pool, Pool) else pool)
        self._admit("refine", pool.kept, settings=settings, tuning=tuning)
        if stages < 0:
            raise InvalidSetting(f"stages is {stages}: at least 0")
        if stages:
            check_refinable(pool)
        check_alpha(alpha)
        how = RefinementSettings() if settings is None else settings
        for _ in range(stages):
            tuned = self.finetune(pool, tuning=tuning)
            refined = refine_rows(
                pool.rows,
                critic=self._backend,
                improver=self._improver(self.llm),
                prompts=self.bundle.prompts,
                settings=how,
            )
            scored = self.scorer.score(refined.rows, alpha=alpha)
            pool = grown_pool(pool, scored.rows, threshold=how.threshold, dedupe=how.dedupe)
            self.stages.append(
                StageReport(
                    stage=len(self.stages) + 1,
                    tuning=tuned,
                    drawn=refined.drawn,
                    dropped=refined.dropped,
                    uncriticised=refined.uncriticised,
                    too_long=scored.too_long,
                    refined=len(scored.rows),
                    pool=len(pool.kept),
                    floor=pool.floor,
                    reward=sum(row.reward for row in pool.kept) / len(pool.kept),
                )
            )
        return pool

    def finetune(
        self,
        rows: Pool | Sequence[SyntheticRow],
        method: Method | None = None,
        *,
        tuning: Tuning | None = None,
    ) -> TuningReport:
        """Tune the model, from where it stands, on a pool or on ranked rows.

        Args:
            rows: of a pool, what it keeps.
            method: "sft", "orpo" or "dpo"; None for that of `tuning`.
            tuning: how; None for the paper's, 8 epochs at first and 3 later.

        Raises:
            PrivateObject: rows that are private.
            InvalidSetting, InvalidRows, NotFinite, MissingExtra: see
                :func:`rewardds.finetuning.finetune`.
        """
        self._admit("finetune", rows.kept if isinstance(rows, Pool) else rows, tuning=tuning)
        kept = rows.kept if isinstance(rows, Pool) else rows
        if tuning is None:
            tuning = Tuning(epochs=LATER_EPOCHS if self._tuned else FIRST_EPOCHS)
        if method is not None:
            tuning = replace(tuning, method=method)
        report = finetune(self.llm, kept, tuning, self.bundle.prompts)
        self._tuned = True
        return report

    def _admit(self, where: str, rows: Any, **others: Any) -> None:
        self.gate.admit(where, rows=rows, **others)
        if isinstance(rows, (str, bytes)) or not isinstance(rows, Sequence):
            raise InvalidRows(f"{where} takes synthetic rows, not a {type(rows).__name__}")
        for number, row in enumerate(rows):
            if not isinstance(row, SyntheticRow):
                raise InvalidRows(
                    f"{where} takes synthetic rows; number {number} is a {type(row).__name__}"
                )

    def _source(self) -> str:
        """What the draws came from: the hash of the bundle's list of hashes."""
        return hashlib.sha256((self.bundle.folder / HASHES).read_bytes()).hexdigest()


def _copy(base: LoadedModel | None) -> LoadedModel | None:
    """An adapter is put on a model in place: each proxy gets a base of its own."""
    if base is None:
        return None
    return LoadedModel(copy.deepcopy(base.model), base.tokenizer, base.info)
