"""The client: two proxies trained on private records, and the bundle that leaves."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lipogram.errors import CorruptState, InvalidSetting, RunMismatch
from lipogram.files import locked, write_atomically
from lipogram.settings import differences, plain
from rewardds.bundle import Bundle, read_bundle, write_bundle
from rewardds.client_settings import ClientSettings
from rewardds.errors import BudgetSpent, DataMismatch, InvalidRecords
from rewardds.ledger import PrivacyLedger
from rewardds.plan import PrivacyPlan
from rewardds.privacy_loss import Release
from rewardds.privacy_statement import PrivacyStatement
from rewardds.privacy_units import Units, privacy_units
from rewardds.private_ngrams import PrivateNgrams
from rewardds.proxy_models import base_model, base_name, trainable
from rewardds.proxy_training import ProxyTraining, Trained
from rewardds.records import PrivateRecords, PublicRecords
from rewardds.taint import ReleaseGate
from rewardds.weak_answers import check_sources

NGRAMS = "ngrams.safetensors"


class RewardDSClient:
    """Trains the generation and the reward proxy under one privacy plan.

    Args:
        base: name of the base model of both, see :func:`lipogram.llm.load_model`; or a loaded one,
            which stays as it is.
        plan: the noise of both runs, so that their total keeps the budget.
        folder: of the run. `bundle/` in it is what leaves; `private/`, for this user alone, is what
            a killed run goes on from, with notes and the n-grams that public seeds are held
            against.
        lora: PEFT's LoraConfig; None for rank 8 on all linear layers of the blocks.
        ledger: of all that was ever spent on the records; None for the user's own.
        device: of the models; None for CUDA where there is one.
        dtype: of the frozen weights, see :func:`lipogram.llm.load_model`.
        settings: see :class:`rewardds.client_settings.ClientSettings`.

    Raises:
        InvalidSetting: a setting outside its range, an unknown one, or a plan without a reward.
        UnsafeSetting: a weak source without privacy that was not asked for by its flag.
    """

    def __init__(
        self,
        base: Any,
        plan: PrivacyPlan,
        *,
        folder: str | Path = "rewardds-client",
        lora: Any = None,
        ledger: PrivacyLedger | None = None,
        device: Any = None,
        dtype: Any = "auto",
        **settings: Any,
    ):
        if plan.reward is None:
            raise InvalidSetting("the plan has no run for the reward: PrivacyPlan(..., reward=...)")
        unknown = [name for name in settings if name not in ClientSettings.__dataclass_fields__]
        if unknown:
            raise InvalidSetting(
                f"there is no setting {unknown[0]!r}; there are "
                f"{', '.join(ClientSettings.__dataclass_fields__)}"
            )
        self.settings = ClientSettings(**settings)
        self.base, self.plan, self.lora, self.ledger = base, plan, lora, ledger
        self.folder = Path(folder)
        self._how = {"device": device, "dtype": dtype}

    @property
    def releases(self) -> dict[str, Release]:
        """What will read the records, by name, with all the steps that it may take."""
        plan = self.plan
        assert plan.reward_release is not None
        found = {"generator": plan.generator_release, "reward": plan.reward_release}
        if "sft" in self.settings.weak_sources:
            run = plan.generator_release
            found["sft"] = Release(0.0, run.sample_rate, run.steps)
        return found

    def fit(
        self, records: PrivateRecords, public_seeds: PublicRecords | Sequence[str] = ()
    ) -> Bundle:
        """Train both proxies and write the bundle; a run that was killed goes on.

        All runs are in the ledger, with all their steps, before the first noise is drawn.

        Args:
            records: the private set.
            public_seeds: questions, or records with answers, that are public or synthetic. Their
                questions are shown where the generator learns to ask; the weak sources "fewshot"
                and "offtopic" need their answers.

        Raises:
            InvalidRecords: records that are not private by their type.
            InvalidSetting: a number of units other than the plan's n, see
                :class:`ClientSettings`; weak sources that lack what they need.
            PrivateObject, PrivateText: a seed that is private, or shares words with the records.
            RunMismatch, DataMismatch: the folder holds a run with other settings or records.
            BudgetSpent: the ledger does not allow it; nothing was counted.
            ModelNotFound, InvalidSetting ...: a base that cannot be had; nothing was counted.
            FolderInUse: another process is at it.
            CorruptState, OSError: the folder's files; what was counted stays counted.
        """
        if not isinstance(records, PrivateRecords):
            raise InvalidRecords(
                f"a {type(records).__name__} is no private set: read_records(..., private=True)"
            )
        settings = self.settings
        ngrams = PrivateNgrams.of(
            records,
            records.key,
            instructions=not settings.public_instructions,
            responses=not settings.public_responses,
        )
        seeds, examples = _seeds(public_seeds, ReleaseGate(ngrams))
        check_sources(
            settings.weak_sources,
            examples=examples,
            allow_nonprivate=settings.allow_nonprivate_weak_source,
        )
        units = privacy_units(records, settings.unit, per_group=settings.per_group)
        self._check_size(units)
        ledger = PrivacyLedger() if self.ledger is None else self.ledger
        private = self.folder / "private"
        if not (private / "run.json").exists():
            self._check_base()
        private.mkdir(parents=True, exist_ok=True)
        private.chmod(0o700)
        with locked(private / "run.json", seconds=1):
            run = self._take_up(private / "run.json", records, seeds, examples)
            if (self.folder / "bundle").exists():
                return read_bundle(self.folder / "bundle")
            self._begin(ledger, records.fingerprint, run, private / "run.json")
            ngrams.save(private / NGRAMS)
            training = ProxyTraining(
                self.base, self.plan, settings, lora=self.lora, folder=private, how=self._how
            )
            trained = training.run(units, seeds, examples)
            took = {name: report.noise_additions for name, report in trained.reports.items()}
            for name, release in self.releases.items():
                ledger.settle(records.fingerprint, f"{run}/{name}", took.get(name, release.steps))
            return self._write(trained)

    def _check_base(self) -> None:
        """Load it as the training will: a name that is wrong must not cost the records anything."""
        loaded = base_model(self.base, **self._how)
        trainable(loaded.model, self.settings.tune, self.lora, self.settings.seed)

    def _check_size(self, units: Units) -> None:
        n, policy = self.plan.n, self.settings.n_policy
        if policy == "public" and len(units) != n:
            raise InvalidSetting(
                f"the plan is for n = {n}, and there are {len(units)} units ({units.kind}s): plan "
                "for that number, or, where it must not be known, for a public bound above it, "
                "with n_policy='public bound'"
            )
        if len(units) > n:
            raise InvalidSetting(
                f"the plan says that n = {n} is a bound, and there are {len(units)} units: a "
                "bound above that is needed"
            )

    def _take_up(
        self, path: Path, records: PrivateRecords, seeds: Sequence[str], examples: Any
    ) -> str:
        """The run's name in the ledger: a new one, or that of the run in the folder."""
        asked = {
            "base": base_name(self.base),
            "lora": None if self.lora is None else _plain_lora(self.lora),
            "settings": self.settings.to_json(),
            "n": self.plan.n,
            "delta": self.plan.delta,
            "releases": {
                name: [release.sigma, release.sample_rate, release.steps]
                for name, release in self.releases.items()
            },
            "seeds": [*seeds],
            "examples": [[one.instruction, one.response] for one in examples or ()],
        }
        if not path.exists():
            head = {"run": secrets.token_hex(8), "records": records.fingerprint, "asked": asked}
            write_atomically(path, json.dumps(head, indent=2).encode())
            os.chmod(path, 0o600)
            return str(head["run"])
        try:
            held = json.loads(path.read_bytes())
            run, fingerprint, before = str(held["run"]), held["records"], held["asked"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptState(
                f"{path} does not say what run this is: take another folder; what the ledger has "
                "of it stays counted"
            ) from error
        if fingerprint != records.fingerprint:
            raise DataMismatch(
                f"{self.folder} holds a run on other records: take another folder, or the same "
                "records to go on"
            )
        if other := differences(before, json.loads(json.dumps(asked))):
            raise RunMismatch(
                f"{self.folder} holds a run with other settings: {'; '.join(other)}. Take another "
                "folder, or the same settings to go on"
            )
        return run

    def _begin(self, ledger: PrivacyLedger, dataset: str, run: str, path: Path) -> None:
        """Count all runs, or none."""
        over = {row.run for row in ledger.rows(dataset) if row.settled}
        begun: list[str] = []
        for name, release in self.releases.items():
            if f"{run}/{name}" in over:
                continue
            try:
                ledger.begin(dataset, f"{run}/{name}", release)
            except BudgetSpent:
                for other in begun:
                    ledger.settle(dataset, other, 0)
                path.unlink()  # a later try is another run
                raise
            begun.append(f"{run}/{name}")

    def _write(self, trained: Trained) -> Bundle:
        plan, settings = self.plan, self.settings
        assert plan.delta is not None
        unprotected = []
        if "sft" in settings.weak_sources:
            unprotected.append("a fine-tune without noise, whose answers the reward was trained on")
        statement = PrivacyStatement(
            {
                name: Release(report.sigma, report.sample_rate, report.noise_additions)
                for name, report in trained.reports.items()
            },
            plan.delta,
            plan.n,
            settings.unit,
            settings.n_policy,
            {name: report.clip for name, report in trained.reports.items()},
            unprotected,
        )
        config = {
            "base": base_name(self.base),
            "base_revision": trained.revision,
            "prompts": settings.prompts.to_json(),
            "max_length": settings.max_length,
            "tune": settings.tune,
            "reward": settings.reward,
            "tasks": [*settings.tasks],
            "weak_sources": [*settings.weak_sources],
        }
        return write_bundle(
            self.folder / "bundle",
            generator=trained.generator,
            reward=trained.reward,
            privacy=statement.as_json(),
            config=config,
        )


def _seeds(
    given: PublicRecords | Sequence[str], gate: ReleaseGate
) -> tuple[tuple[str, ...], PublicRecords | None]:
    gate.admit("fit", public_seeds=given)
    if not isinstance(given, PublicRecords):
        return gate.seeds(given), None
    gate.seeds(given.texts())
    questions = tuple(record.instruction for record in given if record.instruction)
    return questions, given


def _plain_lora(lora: Any) -> Any:
    told = {name: value for name, value in lora.to_dict().items() if value is not None}
    return plain({name: sorted(v) if isinstance(v, set) else v for name, v in told.items()}, "lora")
