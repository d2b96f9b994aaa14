"""The stages of a client's run, each of which goes on where a killed one stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipogram.files import write_atomically
from lipogram.llm.loaded import LoadedModel
from lipogram.llm.text import context_length, pad_id
from rewardds.bundle import save_proxy
from rewardds.cached_features import CachedReward, cached_reward
from rewardds.client_settings import ClientSettings
from rewardds.dp_trainer import DPTrainer
from rewardds.generation_proxy import Rows, generation_rows
from rewardds.losses import CausalLMLoss, PairwiseRewardLoss, RecordLoss
from rewardds.plan import PrivacyPlan, RunPlan
from rewardds.preference_pairs import preference_rows
from rewardds.privacy_loss import Release
from rewardds.privacy_units import Units
from rewardds.proxy_models import base_model, base_name, trainable
from rewardds.records import PublicRecords, Record
from rewardds.reward_model import RewardModel
from rewardds.rows import Row
from rewardds.training_run import TrainingReport, TrainingRun
from rewardds.weak_answers import WeakAnswers

NO_CLIP = 1e6  # of the paper's fine-tune without privacy


@dataclass(frozen=True)
class Trained:
    """What came of a run.

    Attributes:
        generator: folder with the generation proxy.
        reward: the reward proxy.
        reports: of both trainings, as they may be told.
        revision: commit of the base, where it has one.
    """

    generator: Path
    reward: RewardModel
    reports: dict[str, TrainingReport]
    revision: str | None


class ProxyTraining:
    """Trains both proxies.

    Args:
        base: see :class:`rewardds.client.RewardDSClient`.
        plan: with a reward.
        settings: of the client.
        lora: PEFT's LoraConfig, or None.
        folder: private: counts, states, weak answers, notes.
        how: device and dtype.
    """

    def __init__(
        self,
        base: Any,
        plan: PrivacyPlan,
        settings: ClientSettings,
        *,
        lora: Any,
        folder: Path,
        how: dict[str, Any],
    ):
        self.base, self.plan, self.settings, self.lora = base, plan, settings, lora
        self.folder, self.how = folder, how
        self.notes: dict[str, Any] = {}

    def run(self, units: Units, seeds: Sequence[str], examples: PublicRecords | None) -> Trained:
        """All stages.

        Args:
            units: of the private set.
            seeds: public questions.
            examples: public records with answers.
        """
        settings, reports = self.settings, {}
        loaded = base_model(self.base, **self.how)
        revision, tokenizer = loaded.info.revision, loaded.tokenizer
        longest = min(settings.max_length, context_length(loaded.model) or settings.max_length)
        weak = WeakAnswers(
            tokenizer,
            settings.prompts,
            examples=examples,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.answer_batch,
            folder=self.folder / "answers",
        )
        records = [record for unit in units.units for record in unit.records]
        answers = self._answers(
            weak,
            records,
            ("init", "fewshot", "corrupt", "offtopic", "offquestion"),
            loaded.model,
        )
        rows = generation_rows(
            units.units,
            tokenizer,
            settings.prompts,
            max_length=longest,
            tasks=settings.tasks,
            seeds=seeds,
        )
        self._note("generator", rows)
        if "sft" in settings.weak_sources:
            loaded = self._fine_tune(loaded, rows, weak, records, answers)
        generator = trainable(loaded.model, settings.tune, self.lora, settings.seed)
        reports["generator"] = self._train(
            "generator",
            generator,
            rows.rows,
            CausalLMLoss(),
            self.plan.generator,
            self.plan.generator_release,
            pad_id(tokenizer),
        )
        answers |= self._answers(weak, records, ("dp", "dp_early"), generator)
        proxy = self.folder / "generator-proxy"
        save_proxy(generator, proxy, base_name(self.base))
        loaded = self._plain(generator, loaded)
        rows = preference_rows(
            units.units, answers, tokenizer, settings.prompts, max_length=longest
        )
        self._note("reward", rows)
        reward, reports["reward"] = self._reward(loaded, rows)
        self.notes["cut prompts"] = weak.cut
        self._write_notes()
        return Trained(proxy, reward, reports, revision)

    def _reward(self, loaded: LoadedModel, rows: Rows) -> tuple[RewardModel, TrainingReport]:
        settings, padding = self.settings, pad_id(loaded.tokenizer)
        run, release = self.plan.reward, self.plan.reward_release
        assert run is not None
        assert release is not None
        how = (PairwiseRewardLoss(), run, release, padding)
        if settings.reward == "tuned":
            lm = trainable(loaded.model, settings.tune, self.lora, settings.seed + 1)
            reward = RewardModel(lm, seed=settings.seed)
            return reward, self._train("reward", reward, rows.rows, *how)
        reward = RewardModel(loaded.model, seed=settings.seed)
        head, numbered = cached_reward(
            reward,
            rows.rows,
            pad_id=padding,
            physical_batch=settings.physical_batch,
            autocast=settings.autocast,
        )
        return reward, self._train("reward", head, numbered, *how)

    def _answers(
        self, weak: WeakAnswers, records: Sequence[Record], sources: Sequence[str], model: Any
    ) -> dict[str, dict[str, str]]:
        wanted = [source for source in self.settings.weak_sources if source in sources]
        return {source: weak.of(records, source, model) for source in wanted}

    def _train(
        self,
        name: str,
        model: Any,
        rows: Sequence[Row],
        loss: RecordLoss,
        run: RunPlan,
        release: Release,
        padding: int,
    ) -> TrainingReport:
        settings, lr, clip = self.settings, self.settings.lr, self.settings.clip
        cached = isinstance(model, CachedReward)
        ghost = settings.tune == "full" and not cached
        if name == "reward":
            lr, clip = settings.reward_lr or lr, settings.reward_clip or clip
        trainer = DPTrainer(
            model,
            TrainingRun(release.sigma, self.plan.n, run.batch, release.steps),
            loss=loss,
            lr=lr,
            clip=clip,
            physical_batch=len(rows) if cached else settings.physical_batch,
            grad="ghost" if ghost else "hooks",
            full=ghost,
            folder=self.folder / name,
            pad_id=0 if cached else padding,
            autocast=settings.autocast and not cached,
        )
        report = trainer.train(rows)
        self.notes[name]["tally"] = str(trainer.tally)
        return report

    def _fine_tune(
        self,
        loaded: LoadedModel,
        rows: Rows,
        weak: WeakAnswers,
        records: Sequence[Record],
        answers: dict[str, dict[str, str]],
    ) -> LoadedModel:
        """The paper's fine-tune without noise: its answers depend on every record."""
        settings, run = self.settings, self.plan.generator
        model = trainable(loaded.model, settings.tune, self.lora, settings.seed)
        DPTrainer(
            model,
            TrainingRun(0.0, self.plan.n, run.batch, run.steps(self.plan.n)),
            loss=CausalLMLoss(),
            lr=settings.lr,
            clip=NO_CLIP,
            physical_batch=settings.physical_batch,
            grad="ghost" if settings.tune == "full" else "hooks",
            full=settings.tune == "full",
            folder=self.folder / "sft",
            pad_id=pad_id(loaded.tokenizer),
            unsafe_no_noise=True,
        ).train(rows.rows)
        answers |= self._answers(weak, records, ("sft",), model)
        return self._plain(model, loaded)

    def _plain(self, model: Any, loaded: LoadedModel) -> LoadedModel:
        """The base again: without the adapter, or anew where its own weights were trained."""
        if self.settings.tune == "full":
            return base_model(self.base, **self.how)
        base = model.unload()
        base.requires_grad_(False)
        return LoadedModel(base, loaded.tokenizer, loaded.info)

    def _note(self, name: str, rows: Rows) -> None:
        self.notes[name] = {"rows": len(rows.rows), "cut": rows.cut, "unscored": rows.unscored}

    def _write_notes(self) -> None:
        path = self.folder / "notes.json"
        write_atomically(path, json.dumps(self.notes, indent=2).encode())
        os.chmod(path, 0o600)
