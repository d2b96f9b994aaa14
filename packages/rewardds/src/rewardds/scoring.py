"""What the two proxies think of synthetic rows: scored, ranked, and what could not be."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lipogram.llm.loaded import LoadedModel
from lipogram.llm.text import context_length, pad_id
from rewardds.prefix_sharing import Group
from rewardds.prompts import Prompts, sequence
from rewardds.ranking import check_alpha, ranked
from rewardds.rows import Sequence as Tokens
from rewardds.sequence_scores import BATCH, perplexities, rewards
from rewardds.synthetic import SyntheticRow


@dataclass(frozen=True)
class Scored:
    """Rows with rewards and perplexities, ranked.

    Attributes:
        rows: those that have a candidate, in their order.
        too_long: candidates that were left out: with their prompt they exceed the context of a
            proxy. Nothing is judged by a part of it.
        unanswered: rows that were left out: they have no candidate, or none that fits.
    """

    rows: list[SyntheticRow]
    too_long: int
    unanswered: int


class Scorer:
    """What the two proxies think of answers.

    Args:
        generator: the generation proxy; perplexity is that of the answer under it, given the
            question in the prompt that it was trained to answer.
        reward: the reward proxy, its model a :class:`rewardds.reward_model.RewardModel`.
        prompts: what both were trained to be asked.
        batch_size: candidates at a time.
    """

    def __init__(
        self,
        generator: LoadedModel,
        reward: LoadedModel,
        prompts: Prompts,
        *,
        batch_size: int = BATCH,
    ):
        self.generator, self.reward = generator, reward
        self.prompts, self.batch_size = prompts, batch_size

    def score(self, rows: Sequence[SyntheticRow], *, alpha: float = 0.5) -> Scored:
        """Score all candidates of all rows anew, and rank those of each row.

        What a question's candidates say more than once is read once.

        Args:
            rows: of one stage or several.
            alpha: weight of the reward's rank, see :func:`rewardds.ranking.rank_candidates`.

        Raises:
            InvalidSetting: alpha outside [0, 1].
            NotFinite: a proxy whose scores are not finite.
            OverBudget: a candidate for which memory does not suffice.
        """
        check_alpha(alpha)
        kept: list[SyntheticRow] = []
        answered: list[Group] = []
        judged: list[Group] = []
        too_long = 0
        for row in rows:
            answers, judgements, said = [], [], set()
            for candidate in dict.fromkeys(row.candidates):
                answer, judgement = self._sequences(row.question, candidate)
                if self._fits(answer, self.generator) and self._fits(judgement, self.reward):
                    answers.append(answer)
                    judgements.append(judgement)
                    said.add(candidate)
            fit = [candidate for candidate in row.candidates if candidate in said]
            too_long += len(row.candidates) - len(fit)
            if fit:
                kept.append(
                    replace(
                        row,
                        candidates=tuple(fit),
                        rewards=(),
                        perplexities=(),
                        chosen=None,
                        rejected=None,
                    )
                )
                answered.append(answers)
                judged.append(judgements)
        found_perplexities = perplexities(
            self.generator.model,
            answered,
            padding=pad_id(self.generator.tokenizer),
            batch_size=self.batch_size,
        )
        found_rewards = rewards(
            self.reward.model,
            judged,
            padding=pad_id(self.reward.tokenizer),
            batch_size=self.batch_size,
        )
        found = []
        for row, reward, perplexity in zip(kept, found_rewards, found_perplexities, strict=True):
            places = {text: i for i, text in enumerate(dict.fromkeys(row.candidates))}
            order = [places[text] for text in row.candidates]
            scored = replace(
                row,
                rewards=tuple(reward[i] for i in order),
                perplexities=tuple(perplexity[i] for i in order),
            )
            found.append(ranked(scored, alpha=alpha))
        return Scored(found, too_long, len(rows) - len(kept))

    def _sequences(self, question: str, answer: str) -> tuple[Tokens, Tokens]:
        turns = self.prompts.answer_turns(question, answer)
        judged = self.prompts.judged_turns(question, answer)
        return (
            sequence(self.generator.tokenizer, turns, sys.maxsize)[0],
            sequence(self.reward.tokenizer, judged, sys.maxsize)[0],
        )

    @staticmethod
    def _fits(tokens: Tokens, proxy: LoadedModel) -> bool:
        longest = context_length(getattr(proxy.model, "lm", proxy.model))
        return longest is None or len(tokens.ids) <= longest
