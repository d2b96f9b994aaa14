"""The claims about filter and refinement, on the toy domain with the product's client and server.

One run is one (seed, ε): two proxies trained under the budget, a bundle, and a server's model tuned
on several choices of the same synthetic rows, each as often and of the same number.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from lipogram.llm.generation import generate
from lipogram.llm.loaded import LoadedModel
from lipogram.llm.text import pad_id
from lipogram.llm.tuning import lora_config
from rewardds.baselines import nonprivate_bound, random_subset, shuffled_rewards
from rewardds.bundle import Bundle, write_bundle
from rewardds.client_settings import ClientSettings
from rewardds.finetuning import Tuning, prepare_for_tuning
from rewardds.generation_proxy import record_number
from rewardds.plan import PrivacyPlan, RunPlan
from rewardds.pool import Select, first_pool
from rewardds.privacy_loss import Release
from rewardds.privacy_statement import PrivacyStatement
from rewardds.privacy_units import privacy_units
from rewardds.prompts import prompt_text, sequence
from rewardds.proxy_training import ProxyTraining
from rewardds.records import Record
from rewardds.refinement import RefinementSettings
from rewardds.rows import Sequence as TokenSequence
from rewardds.sampling import SamplingSettings
from rewardds.sequence_scores import rewards
from rewardds.server import RewardDSServer
from rewardds.synthetic import SyntheticRow
from rewardds.toy_domain import Case, ToyDomain, corrupted
from rewardds.toy_proxies import CONTEXT, PROMPTS
from rewardds.verification import verify
from rewardds.weak_answers import WeakAnswers, check_sources

ANSWER_TOKENS, QUESTION_TOKENS = 8, 12
DRUG, OTHERS = (0,), (1, 2, 3)


@dataclass(frozen=True)
class ToyScale:
    """Sizes of a study. The defaults are what the package's figures were measured with.

    Attributes:
        records: n.
        generator: training of the generation proxy.
        reward: training of the reward proxy.
        clip: C of both.
        lr: of both.
        rank: of their adapters.
        physical_batch: rows at once.
        weak_sources: of the reward's pairs.
        examples: public ones, for weak answers.
        questions: synthetic ones.
        candidates: answers to each.
        top_p: of all draws.
        keep: share of the questions that is learnt from.
        select: what questions compete by.
        alpha: weight of the reward's rank.
        stages: of refinement.
        first_epochs: of the model's first tuning.
        later_epochs: of each further one.
        tuning_batch: rows an update.
        tuning_lr: of the model.
        held_out: cases that it and the reward are tested with.
        draws: of the arms that are chosen by chance; their figures are means over them.
    """

    records: int = 8192
    generator: RunPlan = field(default_factory=lambda: RunPlan(128, 1))
    reward: RunPlan = field(default_factory=lambda: RunPlan(64, 3))
    clip: float = 0.5
    lr: float = 4e-3
    rank: int = 8
    physical_batch: int = 64
    weak_sources: tuple[str, ...] = ("corrupt", "offtopic")
    examples: int = 512
    questions: int = 1600
    candidates: int = 6
    top_p: float = 1.0
    keep: float = 1 / 4
    select: Select = "margin"
    alpha: float = 0.25
    stages: int = 2
    first_epochs: int = 8
    later_epochs: int = 3
    tuning_batch: int = 32
    tuning_lr: float = 2e-3
    held_out: int = 400
    draws: int = 6

    def plan(self, epsilon: float) -> PrivacyPlan:
        """Of both proxies together, at δ = 10⁻⁵."""
        return PrivacyPlan(
            epsilon, 1e-5, n=self.records, generator=self.generator, reward=self.reward
        )

    @property
    def sampling(self) -> SamplingSettings:
        """Of the synthetic rows. All questions are alike here: only repeats are taken out."""
        return SamplingSettings(
            question_tokens=QUESTION_TOKENS,
            answer_tokens=ANSWER_TOKENS,
            top_p=self.top_p,
            similarity=1.0,
        )

    @property
    def refinement(self) -> RefinementSettings:
        """Of the answers: drawn anew from the model as it is tuned; it reads no critiques."""
        return RefinementSettings(
            candidates=self.candidates,
            answer_tokens=ANSWER_TOKENS,
            top_p=self.top_p,
            instructed=False,
        )

    def tunings(self) -> list[Tuning]:
        """One after the other, in each arm of the study."""
        first = Tuning(
            epochs=self.first_epochs,
            batch=self.tuning_batch,
            micro_batch=self.tuning_batch,
            lr=self.tuning_lr,
        )
        return [first, *[replace(first, epochs=self.later_epochs)] * self.stages]


@dataclass(frozen=True)
class ToyOutcome:
    """What came of one seed at one budget.

    Attributes:
        seed: of the domain.
        epsilon: total, recomputed from the bundle.
        delta: of both proxies together.
        auc: of the reward, right against corrupted answers to questions held out.
        generator: share of held-out questions that the generation proxy answers rightly.
        right: share of right answers among all candidates, and among the rows of each arm.
        accuracy: by arm, share of held-out questions that the tuned model answers rightly.
    """

    seed: int
    epsilon: float
    delta: float
    auc: float
    generator: float
    right: dict[str, float] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)


class ToyTraining(ProxyTraining):
    """As the client's, with answers spoilt by someone who knows which words are of one kind.

    "corrupt" is a record's own answer with another drug, "offtopic" it with another dose, time or
    route. Both are made of the record and of public words alone, as the client's are. A guess that
    is wrong in all four would be told by what is learnt first, and teach nothing of the rest.
    """

    def _answers(
        self, weak: WeakAnswers, records: Sequence[Record], sources: Sequence[str], model: Any
    ) -> dict[str, dict[str, str]]:
        found = super()._answers(weak, records, sources, model)
        for source in {"corrupt", "offtopic"} & found.keys():
            found[source] = {record.id: _spoilt(record, source) for record in records}
        return found


class ToyStudy:
    """Runs the claims.

    Args:
        base: what both proxies start from; it stays as it is.
        llm: what the server tunes; it stays as it is.
        scale: sizes.
    """

    def __init__(self, base: LoadedModel, llm: LoadedModel, scale: ToyScale | None = None):
        self.base, self.llm = base, llm
        self.scale = ToyScale() if scale is None else scale

    def fit(self, seed: int, epsilon: float, folder: Path) -> Bundle:
        """Both proxies of one seed, in a folder of their own.

        Raises:
            UnsafeSetting: a weak source without privacy.
        """
        scale, domain = self.scale, ToyDomain(seed)
        plan, examples = scale.plan(epsilon), domain.guesses(scale.examples)
        check_sources(scale.weak_sources, examples=examples, allow_nonprivate=False)
        settings = ClientSettings(
            clip=scale.clip,
            lr=scale.lr,
            physical_batch=scale.physical_batch,
            weak_sources=scale.weak_sources,
            unit="group",
            prompts=PROMPTS,
            max_length=CONTEXT,
            max_new_tokens=ANSWER_TOKENS,
            answer_batch=64,
            seed=seed,
        )
        training = ToyTraining(
            self.base,
            plan,
            settings,
            lora=lora_config(self.base.model, r=scale.rank, alpha=2 * scale.rank),
            folder=folder / "private",
            how={},
        )
        units = privacy_units(domain.records(scale.records), "group", per_group=1)
        trained = training.run(units, (), examples)
        assert plan.delta is not None
        statement = PrivacyStatement(
            {
                name: Release(report.sigma, report.sample_rate, report.noise_additions)
                for name, report in trained.reports.items()
            },
            plan.delta,
            plan.n,
            "group",
            clips={name: report.clip for name, report in trained.reports.items()},
        )
        config = {"base": self.base.info.spec, "prompts": PROMPTS.to_json(), "max_length": CONTEXT}
        return write_bundle(
            folder / "bundle",
            generator=trained.generator,
            reward=trained.reward,
            privacy=statement.as_json(),
            config=config,
        )

    def proxies(self, seed: int, bundle: Bundle) -> ToyOutcome:
        """What the proxies are worth by themselves."""
        domain, verified = ToyDomain(seed), verify(bundle.folder)
        generator = bundle.load_generator(_copy(self.base))
        reward = bundle.load_reward(_copy(self.base))
        return ToyOutcome(
            seed,
            verified.epsilon,
            verified.delta,
            reward_auc(reward, domain, self.scale.held_out),
            accuracy(generator, domain, self.scale.held_out),
        )

    def run(self, seed: int, epsilon: float, folder: Path) -> ToyOutcome:
        """The whole pipeline: :meth:`fit`, then :meth:`serve`."""
        return self.serve(seed, self.fit(seed, epsilon, folder))

    def serve(self, seed: int, bundle: Bundle) -> ToyOutcome:
        """The server's part: arms "refined", "filtered", "random", "shuffled" of the same rows.

        "random" is a random candidate of as many random questions; "shuffled" what the filter keeps
        by rewards dealt out anew among all candidates, where rewards alone rank and select. (By
        margins it would be no control: they are the larger the fewer other answers there are, and a
        question with few is an easy one.)
        """
        scale, domain = self.scale, ToyDomain(seed)
        server = self._server(bundle)
        rows, _ = server.sample(scale.questions, scale.candidates, settings=scale.sampling)
        pool = server.filter(rows, scale.keep, scale.alpha, scale.select)
        arms: dict[str, list[Sequence[SyntheticRow]]] = {"filtered": [pool.kept]}
        arms["random"] = [
            random_subset(rows, len(pool.kept), seed=draw) for draw in range(scale.draws)
        ]
        arms["shuffled"] = [
            first_pool(shuffled_rewards(pool.rows, alpha=1.0, seed=draw), keep=scale.keep).kept
            for draw in range(scale.draws)
        ]
        right, tuned = {"candidates": _right_candidates(domain, rows)}, {}
        for name, kept in arms.items():
            right[name] = float(np.mean([_right(domain, one) for one in kept]))
            tuned[name] = float(np.mean([self._tuned(bundle, one, domain) for one in kept]))
        for tuning in scale.tunings()[:-1]:
            pool = server.refine(
                pool, 1, alpha=scale.alpha, settings=scale.refinement, tuning=tuning
            )
        server.finetune(pool, tuning=scale.tunings()[-1])
        right["refined"] = _right(domain, pool.kept)
        tuned["refined"] = accuracy(server.llm, domain, scale.held_out)
        return replace(self.proxies(seed, bundle), right=right, accuracy=tuned)

    def bound(self, seed: int) -> float:
        """Accuracy of the same model tuned on the records themselves, with no privacy."""
        domain, model = ToyDomain(seed), self._model()
        nonprivate_bound(
            model,
            domain.records(self.scale.records),
            replace(self.scale.tunings()[0], epochs=self.scale.later_epochs),
            PROMPTS,
            allow_nonprivate=True,
        )
        return accuracy(model, domain, self.scale.held_out)

    def _tuned(self, bundle: Bundle, kept: Sequence[SyntheticRow], domain: ToyDomain) -> float:
        server = self._server(bundle)
        for tuning in self.scale.tunings():
            server.finetune(kept, tuning=tuning)
        return accuracy(server.llm, domain, self.scale.held_out)

    def _server(self, bundle: Bundle) -> RewardDSServer:
        return RewardDSServer(
            _copy(self.llm), bundle, base=self.base, rank=self.scale.rank, batch_size=256
        )

    def _model(self) -> LoadedModel:
        return prepare_for_tuning(_copy(self.llm), rank=self.scale.rank)


def accuracy(model: LoadedModel, domain: ToyDomain, n: int) -> float:
    """Share of `n` held-out questions that a model answers rightly, greedily, in all four words."""
    cases = domain.cases(n, held_out=True)
    prompts = [prompt_text(model.tokenizer, PROMPTS.answer_turns(case.question)) for case in cases]
    said = generate(
        model.model,
        model.tokenizer,
        prompts,
        max_new_tokens=ANSWER_TOKENS,
        batch_size=256,
        add_special_tokens=False,
    )
    return float(
        np.mean([all(domain.slots_right(c, a.text)) for c, a in zip(cases, said, strict=True)])
    )


def reward_auc(reward: LoadedModel, domain: ToyDomain, n: int) -> float:
    """Area under the curve of rewards of right answers against corrupted ones.

    Over all pairs of a right and a corrupted answer, also of different questions.
    """
    draw = np.random.default_rng([domain.seed, 4])
    cases = domain.cases(n, held_out=True)

    def told(case: Case, answer: str) -> TokenSequence:
        return sequence(reward.tokenizer, PROMPTS.judged_turns(case.question, answer), CONTEXT)[0]

    groups = [
        [told(c, domain.answer(c)), told(c, corrupted(domain.answer(c), draw))] for c in cases
    ]
    found = np.array(rewards(reward.model, groups, padding=pad_id(reward.tokenizer)))
    return float(roc_auc_score([1] * n + [0] * n, found.T.ravel()))


def _spoilt(record: Record, source: str) -> str:
    draw = np.random.default_rng(record_number(record, source))
    return corrupted(record.response, draw, DRUG if source == "corrupt" else OTHERS)


def _right(domain: ToyDomain, rows: Sequence[SyntheticRow]) -> float:
    return float(np.mean([domain.right(row.question, row.answer) for row in rows]))


def _right_candidates(domain: ToyDomain, rows: Sequence[SyntheticRow]) -> float:
    return float(
        np.mean([domain.right(row.question, text) for row in rows for text in row.candidates])
    )


def _copy(loaded: LoadedModel) -> LoadedModel:
    return LoadedModel(copy.deepcopy(loaded.model), loaded.tokenizer, loaded.info)
