"""Rows come of the prompts, the seeds and the settings; not of shards, batches or processes."""

import collections
import dataclasses

import pytest
import torch

from lipogram.errors import InvalidSetting, RunMismatch
from lipogram.llm.tiny import EOS, tiny_random
from rewardds.backends import Completion, Prompt
from rewardds.errors import TooFewQuestions
from rewardds.hf_backend import HFBackend
from rewardds.near_duplicates import NearDuplicates
from rewardds.prompts import Prompts
from rewardds.row_filters import RowFilter
from rewardds.sampling import Sampler, SamplingSettings

PROMPTS = Prompts.of_domain("ponds")
SEEDS = ["Is a pond deep?", "Who keeps the pond?", "What lives in a pond?"]
SETTINGS = SamplingSettings(
    candidates=4,
    question_tokens=24,
    answer_tokens=10,
    top_p=1.0,
    question_filter=RowFilter(min_chars=5),
    answer_filter=RowFilter(min_chars=2),
    similarity=0.9,
)


@pytest.fixture(scope="module")
def backend():
    """A tiny model that writes letters and, now and then, an end."""
    loaded = tiny_random(layers=2, width=16)
    head = loaded.model.get_output_embeddings()
    biased = torch.nn.Linear(head.in_features, head.out_features)
    with torch.no_grad():
        biased.weight.copy_(0.2 * head.weight)
        biased.bias.fill_(-30)
        biased.bias[97:123] = 0
        biased.bias[EOS] = 1.0
    loaded.model.set_output_embeddings(biased)
    return HFBackend(loaded)


class Counting:
    """A backend that writes down what it was asked, before it asks the real one."""

    def __init__(self, backend):
        self.backend, self.asked = backend, []

    def generate(self, prompts, n=1, drawing=None):
        self.asked += [(prompt, n, drawing) for prompt in prompts]
        return self.backend.generate(prompts, n, drawing)

    def keys(self):
        return [prompt.key for prompt, _, _ in self.asked]


def sampler(backend, **options):
    return Sampler(backend, PROMPTS, **({"seeds": SEEDS, "settings": SETTINGS} | options))


@pytest.fixture(scope="module")
def expected(backend):
    return sampler(backend).rows(12)


def test_rows_and_counts_add_up(expected):
    rows, counts = expected
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    assert len(rows) == counts.rows <= counts.questions == 12
    assert counts.attempts - sum(counts.questions_dropped.values()) == 12
    assert counts.answers == 12 * 4
    assert counts.answers - sum(counts.answers_dropped.values()) == counts.candidates
    assert counts.candidates == sum(len(row.candidates) for row in rows)
    assert {"length", "short"} <= set(counts.questions_dropped)
    assert {"length", "short"} <= set(counts.answers_dropped)
    for row in rows:
        assert SETTINGS.question_filter.fault(row.question) is None
        assert len(set(row.candidates)) == len(row.candidates)
        assert (row.stage, row.parent, row.rewards, row.chosen) == (0, "", (), None)


@pytest.mark.parametrize(("shard_size", "batch_size"), [(3, 5), (7, 64), (50, 200)])
def test_shards_and_batches_do_not_change_the_rows(
    backend, expected, tmp_path, shard_size, batch_size
):
    model = HFBackend(
        dataclasses.replace(tiny_random(layers=1, width=16), model=backend.model),
        batch_size=batch_size,
    )
    assert sampler(model, folder=tmp_path, shard_size=shard_size).rows(12) == expected


def test_rows_are_what_the_authors_steps_give_by_hand(backend, expected):
    """The oracle: draw all at once, then filter and take out near duplicates in a plain loop."""
    rows, counts = expected
    own = sampler(backend)
    asked = [
        Prompt(f"question {i}", PROMPTS.question_turns(None, own._shown(i)))
        for i in range(counts.attempts)
    ]
    questions, near = {}, NearDuplicates(0.9)
    for i, (one,) in enumerate(backend.generate(asked, 1, SETTINGS.question_drawing)):
        if one.finish == "stop" and len(one.text) >= 5 and near.add(str(i), one.text) is None:
            questions[i] = one.text
    answers = backend.generate(
        [Prompt(f"answer {i}", PROMPTS.answer_turns(q)) for i, q in questions.items()],
        4,
        SETTINGS.answer_drawing,
    )
    found = []
    for (i, question), drawn in zip(questions.items(), answers, strict=True):
        texts = [one.text for one in drawn if one.finish == "stop" and len(one.text) >= 2]
        if texts:
            found.append((f"q{i:06d}", question, tuple(dict.fromkeys(texts))))
    assert [(row.id, row.question, row.candidates) for row in rows] == found


def test_prompts_hold_the_domain_and_public_seeds_and_nothing_else(backend):
    counting = Counting(backend)
    rows, _ = sampler(counting).rows(3)
    shown = collections.Counter()
    for prompt, n, drawing in counting.asked:
        text = "\n".join(turn["content"] for turn in prompt.turns)
        if prompt.key.startswith("question"):
            assert (n, drawing) == (1, SETTINGS.question_drawing)
            first, *lines = text.splitlines()
            assert first == PROMPTS.question
            assert len(set(lines)) == 2
            assert all(line.removeprefix("Example: ") in SEEDS for line in lines)
            shown.update(lines)
        else:
            assert (n, drawing) == (4, SETTINGS.answer_drawing)
            assert text.startswith(PROMPTS.answer)
    assert len(shown) == 3  # each seed has its turn
    bare = Counting(backend)
    sampler(bare, seeds=()).draw_questions(range(3))
    assert [prompt.turns[-1]["content"] for prompt, _, _ in bare.asked] == [PROMPTS.question] * 3
    assert rows


def test_stopped_and_taken_up_nothing_is_drawn_twice(backend, expected, tmp_path):
    class Dies(Counting):
        def generate(self, prompts, n=1, drawing=None):
            if len(self.asked) >= 8:
                raise KeyboardInterrupt
            return super().generate(prompts, n, drawing)

    drawn, deaths = [], 0
    for _ in range(40):
        mortal = Dies(backend)
        try:
            found = sampler(mortal, folder=tmp_path, shard_size=8).rows(12)
        except KeyboardInterrupt:
            drawn += mortal.keys()
            deaths += 1
            continue
        drawn += mortal.keys()
        break
    assert found == expected
    assert len(drawn) == len(set(drawn))
    assert deaths >= 2


def test_workers_share_a_folder(backend, expected, tmp_path):
    workers = [sampler(Counting(backend), folder=tmp_path, shard_size=3) for _ in range(3)]
    attempts = expected[1].attempts
    for rank, worker in enumerate(workers):
        worker.draw_questions(range(rank, attempts, 3))
    for rank, worker in enumerate(workers):
        questions = worker.questions(12)
        share = dict(list(questions.items())[rank::3])
        worker.draw_answers(share)
    assert {str(worker.rows(12)) for worker in workers} == {str(expected)}
    keys = [key for worker in workers for key in worker._backend.keys()]
    assert len(keys) == len(set(keys))


def test_filters_may_change_and_nothing_is_drawn_again(backend, tmp_path):
    first = Counting(backend)
    sampler(first, folder=tmp_path).rows(12)
    strict = dataclasses.replace(SETTINGS, answer_filter=RowFilter(min_chars=6))
    again = Counting(backend)
    rows, counts = sampler(again, folder=tmp_path, settings=strict).rows(12)
    assert again.asked == []
    assert counts.answers_dropped["short"] > 0
    assert all(len(text) >= 6 for row in rows for text in row.candidates)


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": SEEDS[:2]},
        {"source": "another bundle"},
        {"settings": dataclasses.replace(SETTINGS, seed=1)},
        {"settings": dataclasses.replace(SETTINGS, answer_tokens=11)},
        {"settings": dataclasses.replace(SETTINGS, candidates=5)},
        {"settings": dataclasses.replace(SETTINGS, shown=1)},
    ],
)
def test_what_the_draws_depend_on_may_not_change(backend, tmp_path, change):
    sampler(backend, folder=tmp_path).draw_questions([0])
    with pytest.raises(RunMismatch):
        sampler(backend, folder=tmp_path, **change)
    with pytest.raises(RunMismatch, match="prompts"):
        Sampler(backend, Prompts(), seeds=SEEDS, settings=SETTINGS, folder=tmp_path)


def test_given_questions_have_answers_of_their_own(backend, tmp_path):
    own = sampler(backend, folder=tmp_path)
    drawn, _ = own.rows(2)
    told = own.rows_of(["Is it deep?", "Is it wide?", "Is it deep?"])
    assert told == sampler(backend).rows_of(["Is it deep?", "Is it wide?", "Is it deep?"])
    other, _ = own.rows_of(["Is it wide?", "Is it deep?"])
    assert {row.question for row in told[0]} <= {"Is it deep?", "Is it wide?"}
    assert told[1].answers == 12
    again = Counting(backend)
    assert sampler(again, folder=tmp_path).rows(2)[0] == drawn
    assert sampler(again, folder=tmp_path).rows_of(["Is it wide?", "Is it deep?"])[0] == other
    assert again.asked == []
    with pytest.raises(InvalidSetting, match="no questions"):
        own.rows_of([])


class Says:
    """A backend of few words, for what a real one does too seldom."""

    def __init__(self, questions, answers):
        self.texts = {"question": questions, "answer": answers}

    def generate(self, prompts, n=1, drawing=None):
        found = []
        for prompt in prompts:
            kind, number = prompt.key.split()
            texts = self.texts[kind]
            said = [texts[(int(number) + k) % len(texts)] for k in range(n)]
            found.append(tuple(Completion(*one) for one in said))
        return found


def test_near_duplicates_and_dry_questions_are_counted_and_repeated_answers_stay():
    questions = [
        ("How deep is the old mill pond?", "stop"),
        (" how deep is the OLD mill pond ", "stop"),
        ("Who feeds the fish in winter?", "stop"),
        ("Who fee", "length"),
        ("", "context"),
        ("\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd", "stop"),
    ]
    answers = [(" two metres ", "stop"), ("two metres", "stop"), ("no", "length")]
    with pytest.warns(TooFewQuestions, match="2 of 3 questions after 60 draws"):
        rows, counts = sampler(Says(questions, answers)).rows(3)
    assert counts.questions_dropped == {
        "near duplicate": 28,
        "length": 10,
        "context": 10,
        "charset": 10,
    }
    assert [row.question for row in rows] == [questions[0][0], questions[2][0]]
    assert {row.candidates for row in rows} == {("two metres",) * 3, ("two metres",) * 2}
    assert (counts.answers, counts.candidates) == (8, 5)
    assert counts.answers_dropped == {"length": 3}
    dry = Says(questions[:1] + questions[2:3], [("no", "length")])
    rows, counts = sampler(dry).rows(2)
    assert rows == []
    assert (counts.questions, counts.rows, counts.candidates) == (2, 0, 0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"candidates": 0}, "candidates is 0"),
        ({"shown": -1}, "shown is -1"),
        ({"attempts": 0}, "attempts is 0"),
        ({"temperature": 0.0}, "temperature 0"),
        ({"top_p": 2.0}, "top_p is 2"),
        ({"answer_tokens": 0}, "max_new_tokens is 0"),
        ({"similarity": 0.0}, "threshold is 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, told):
    with pytest.raises(InvalidSetting, match=told):
        SamplingSettings(**settings)


def test_no_questions_are_asked_for(backend):
    with pytest.raises(InvalidSetting, match="0 questions"):
        sampler(backend).rows(0)
