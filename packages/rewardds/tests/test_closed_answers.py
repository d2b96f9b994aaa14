"""Where the answers are a public set, every question has all of them as candidates."""

import pytest

from lipogram.errors import InvalidSetting, RunMismatch
from lipogram.llm import tiny_random
from lipogram.llm.tiny import byte_tokenizer
from rewardds.backends import Completion
from rewardds.client_settings import ClientSettings
from rewardds.errors import PrivateText
from rewardds.generation_proxy import generation_rows
from rewardds.privacy_units import Unit
from rewardds.private_ngrams import PrivateNgrams
from rewardds.prompts import Prompts
from rewardds.records import PrivateRecords, Record
from rewardds.sampling import Sampler, SamplingSettings
from rewardds.taint import ReleaseGate

LABELS = ("calm", "in a hurry")


class Asking:
    """Gives each prompt its own number as a question."""

    def __init__(self):
        self.asked, self.turns = [], []

    def generate(self, prompts, n=1, drawing=None):
        self.asked += [prompt.key for prompt in prompts]
        self.turns += [prompt.turns for prompt in prompts]
        return [(Completion(f"What of the {prompt.key}?", "stop"),) * n for prompt in prompts]


def sampler(backend, **how):
    return Sampler(backend, Prompts(), settings=SamplingSettings(similarity=1.0), **how)


def test_no_answer_is_drawn(tmp_path):
    backend = Asking()
    rows, counts = sampler(backend, answers=LABELS, folder=tmp_path).rows(5)
    assert [row.candidates for row in rows] == [LABELS] * 5
    assert all(key.startswith("question") for key in backend.asked)
    assert (counts.answers, counts.candidates, counts.rows) == (10, 10, 5)
    assert [row.id for row in rows] == [f"q{i:06d}" for i in range(5)]
    asked = sampler(backend, answers=LABELS).rows_of(["Now?", "Then?"])[0]
    assert [(row.question, row.candidates) for row in asked] == [
        ("Now?", LABELS),
        ("Then?", LABELS),
    ]


def test_a_proxy_that_learnt_to_writes_to_each_answer_in_turn(tmp_path):
    backend = Asking()
    rows, _ = sampler(backend, answers=LABELS, posed=True, folder=tmp_path).rows(4)
    assert [row.candidates for row in rows] == [LABELS, LABELS[::-1]] * 2
    told = [turns[-1]["content"] for turns in backend.turns[:4]]
    assert told == [Prompts().posed.replace("{answer}", name) for name in LABELS] * 2
    sampler(backend := Asking(), answers=LABELS).rows(1)
    assert backend.turns[0][-1]["content"] == Prompts().question
    with pytest.raises(RunMismatch):  # draws to other answers are other draws
        sampler(Asking(), answers=LABELS[::-1], posed=True, folder=tmp_path)


def test_what_is_learnt_is_to_write_a_question_to_an_answer():
    record = Record("r", "Where was it?", "outside")
    units, tokenizer = [Unit("r", (record,))], byte_tokenizer()
    (row,) = generation_rows(units, tokenizer, Prompts(), max_length=256, tasks=["posed"]).rows
    (told,) = row.sequences
    text = tokenizer.decode(told.ids)
    assert Prompts().posed.replace("{answer}", "outside") in text
    scored = tokenizer.decode([i for i, own in zip(told.ids, told.scored, strict=True) if own])
    assert scored.startswith("Where was it?")
    assert "outside" not in scored
    for tasks in ((), ("posed", "posed"), ("pose",)):
        with pytest.raises(InvalidSetting, match="posed"):
            generation_rows(units, tokenizer, Prompts(), max_length=256, tasks=tasks)
        with pytest.raises(InvalidSetting, match="posed"):
            ClientSettings(tasks=tasks)
    with pytest.raises(InvalidSetting, match=r"\{answer\}"):
        Prompts(posed="Write a question.")


def test_answers_pass_the_gate():
    records = PrivateRecords([Record("r", "How was it?", "in a hurry as ever")], b"0" * 16)
    gate = ReleaseGate(PrivateNgrams.of(records, records.key))
    with pytest.raises(PrivateText):
        sampler(Asking(), answers=["in a hurry as ever"], gate=gate)
    sampler(Asking(), answers=LABELS, gate=gate)


def test_the_proxies_score_what_was_not_drawn():
    from rewardds.reward_model import RewardModel
    from rewardds.scoring import Scorer

    generator, base = (
        tiny_random("llama", layers=1, width=16),
        tiny_random("llama", layers=1, width=16),
    )
    reward = type(base)(RewardModel(base.model, seed=1), base.tokenizer, base.info)
    rows, _ = sampler(Asking(), answers=LABELS).rows(3)
    scored = Scorer(generator, reward, Prompts()).score(rows, alpha=1.0).rows
    for one in scored:
        assert one.rewards[one.chosen] == max(one.rewards)
        assert {one.chosen, one.rejected} == {0, 1}
