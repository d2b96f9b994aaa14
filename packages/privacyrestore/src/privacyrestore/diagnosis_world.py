"""A generated world of findings and diagnoses, and a small model that has learnt it.

Nothing in it is about people: findings and diagnoses are made up. A case has four findings; three
belong to every diagnosis, and the diagnosis of a case is the one that most of its findings belong
to. Fourteen of the twenty-four findings are spans that a client would not send.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lipogram.llm.loaded import LoadedModel, ModelInfo, describe_weights
from lipogram.progress import bar

FINDINGS = (
    "dry cough",
    "stiff neck",
    "pale nails",
    "cold feet",
    "brief hiccups",
    "itchy palms",
    "sore elbow",
    "watery eyes",
    "ringing ears",
    "dull ache",
    "fast pulse",
    "loud snoring",
    "dark spots",
    "tight chest",
    "numb fingers",
    "frequent yawning",
    "hoarse voice",
    "swollen ankle",
    "flaky skin",
    "poor sleep",
    "restless legs",
    "sudden sneezing",
    "weak grip",
    "blurred sight",
)
DIAGNOSES = (
    "arvosis",
    "belcane",
    "cindrel",
    "dorvane",
    "elmarth",
    "fenlock",
    "gravine",
    "heldria",
)
N_PRIVATE = 14
PER_CASE = 4
QUESTION = "Which illness is likely?"
_PERSONS = ("A woman", "A man", "A girl", "A boy", "Somebody")


@dataclass(frozen=True)
class Case:
    """One question of the world.

    Attributes:
        findings: indices into `FINDINGS`, in the order of the text.
        person: who, in words.
        diagnosis: index into `DIAGNOSES`.
    """

    findings: tuple[int, ...]
    person: str
    diagnosis: int

    @property
    def question(self) -> str:
        """The text with all findings."""
        return _text(self.person, self.findings)

    @property
    def answer(self) -> str:
        """The gold short answer."""
        return f"{DIAGNOSES[self.diagnosis]}."


class DiagnosisWorld:
    """Which findings belong together and which are not to be sent, drawn by a seed.

    Args:
        seed: of the world.
    """

    def __init__(self, seed: int = 0):
        draw = np.random.default_rng([seed, 1])
        order = draw.permutation(len(FINDINGS))
        self.seed = seed
        self.owner = np.empty(len(FINDINGS), dtype=int)
        self.owner[order] = np.repeat(np.arange(len(DIAGNOSES)), len(FINDINGS) // len(DIAGNOSES))
        self.spans = tuple(
            sorted(int(i) for i in draw.choice(len(FINDINGS), N_PRIVATE, replace=False))
        )

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The span types, in the order of their ids."""
        return tuple(FINDINGS[i] for i in self.spans)

    def span_ids(self, case: Case) -> tuple[int, ...]:
        """Ids in `vocabulary` of the case's findings that are not sent."""
        return tuple(self.spans.index(i) for i in case.findings if i in self.spans)

    def removed(self, case: Case) -> str:
        """The case's text without those findings."""
        return _text(case.person, [i for i in case.findings if i not in self.spans])

    def cases(self, n: int, seed: int) -> list[Case]:
        """`n` cases, each of which has a clear diagnosis."""
        draw = np.random.default_rng([self.seed, 2, seed])
        found: list[Case] = []
        while len(found) < n:
            diagnosis = int(draw.integers(len(DIAGNOSES)))
            own = np.flatnonzero(self.owner == diagnosis)
            n_own = int(draw.integers(2, len(own) + 1))
            chosen = [*draw.choice(own, n_own, replace=False)]
            others = np.flatnonzero(self.owner != diagnosis)
            chosen += [*draw.choice(others, PER_CASE - n_own, replace=False)]
            counts = np.bincount(self.owner[chosen], minlength=len(DIAGNOSES))
            if (counts == counts.max()).sum() > 1:
                continue
            findings = tuple(int(i) for i in draw.permutation(chosen))
            found.append(Case(findings, str(draw.choice(_PERSONS)), diagnosis))
        return found

    def train_model(
        self, *, seed: int = 0, steps: int = 500, batch: int = 64, width: int = 128
    ) -> LoadedModel:
        """A Llama of four layers and four heads that answers this world's questions.

        Half of its cases miss findings, so that a short list is nothing new to it.

        Args:
            seed: of weights and batches.
            steps: of AdamW at 2e-3, falling to 0.
            batch: cases a step.
            width: of the residual stream.
        """
        tokenizer = word_tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(_config(width, tokenizer))
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        draw = np.random.default_rng([self.seed, 3, seed])
        cases = self.cases(batch * 60, seed=1_000_003 + seed)
        model.train()
        with bar("learning the world", steps) as advance:
            for _ in range(steps):
                chosen = [cases[i] for i in draw.integers(len(cases), size=batch)]
                texts = [
                    case.question
                    if draw.random() < 0.5
                    else _text(case.person, [i for i in case.findings if draw.random() < 0.6])
                    for case in chosen
                ]
                ids, mask, labels = answered(tokenizer, texts, [case.answer for case in chosen])
                logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
                loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                advance(1)
        model.eval()
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        dtype, n = describe_weights(model)
        info = ModelInfo(f"diagnosis-world:{self.seed}", "instance", "llama", None, dtype, n)
        return LoadedModel(model, tokenizer, info)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word or sign of this world; its chat template is the question alone."""
    texts = [*FINDINGS, *DIAGNOSES, *_PERSONS, QUESTION, "reports and"]
    words = sorted({word for text in texts for word in text.replace("?", "").split()})
    specials = ["<pad>", "<unk>", "<s>", "</s>"]
    vocabulary = {word: i for i, word in enumerate([*specials, ",", ".", "?", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template="<s>{% for message in messages %} {{ message['content'] }}{% endfor %}",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def answered(
    tokenizer: Any, questions: Sequence[str], answers: Sequence[str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and labels [b, t] of questions with answers, padded on the left."""
    rows = []
    for question, answer in zip(questions, answers, strict=True):
        prompt = tokenizer(f"<s> {question}", add_special_tokens=False)["input_ids"]
        rows.append((prompt, tokenizer(f"{answer} </s>", add_special_tokens=False)["input_ids"]))
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels = torch.full((len(rows), length), -100)
    for row, (prompt, answer) in enumerate(rows):
        ids[row, length - len(prompt) - len(answer) :] = torch.tensor(prompt + answer)
        labels[row, length - len(answer) :] = torch.tensor(answer)
    return ids, (ids != tokenizer.pad_token_id).long(), labels


def _config(width: int, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def _text(person: str, findings: Sequence[int]) -> str:
    names = [FINDINGS[i] for i in findings]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"{person} reports {listed}".rstrip() + f". {QUESTION}"
