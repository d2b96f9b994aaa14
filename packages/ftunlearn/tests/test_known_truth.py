"""The verdict on models whose truth is known: the package's claim to be believed."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ftunlearn.dissect_config import DissectConfig
from ftunlearn.dissection import dissect
from ftunlearn.pair import ModelPair
from ftunlearn.probes import Probe, ProbeSet
from ftunlearn.relearning import RelearnConfig

SUBJECTS, RELATIONS, VALUES = 64, 16, 64
N_FACTS, N_FORGET = 120, 30
CONFIG = DissectConfig(
    components=("coef+attn", "values"),
    window=1,
    n_new_tokens=1,
    side_effects=False,
    relearn=RelearnConfig(lr=1e-3),
)


@dataclass(frozen=True)
class KnownTruth:
    """Four-layer models over 120 random facts, 30 of them to be forgotten.

    knows: trained on all of them. never_knew: on the others alone, from the same start.
    never_knew_either: so, from another start. hides: `knows`, with nothing but the last block's
    gate and up projections trained against the 30, so all before them is `knows` bit for bit.
    """

    knows: Any
    never_knew: Any
    never_knew_either: Any
    hides: Any
    tokenizer: Any
    probes: ProbeSet


def word_tokenizer():
    words = ["<pad>", "<bos>", "<eos>"]
    for letter, number in (("s", SUBJECTS), ("r", RELATIONS), ("v", VALUES)):
        words += [f"{letter}{i}" for i in range(number)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def random_facts(seed):
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randperm(SUBJECTS * 2, generator=generator)[:N_FACTS].tolist()
    values = torch.randint(0, VALUES, (N_FACTS,), generator=generator).tolist()
    return [
        Probe(
            f"fact-{i}",
            f"<bos> s{pair % SUBJECTS} r{pair // SUBJECTS}",
            f" v{value}",
            group="forget" if i < N_FORGET else "unrelated",
        )
        for i, (pair, value) in enumerate(zip(pairs, values, strict=True))
    ]


def new_model(seed, vocabulary):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=32,
            tie_word_embeddings=True,
            initializer_range=0.08,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        return LlamaForCausalLM(config)


def taught(model, ids, *, parameters=None, steps=300, against=None):
    """Train on the rows of `ids` (n, 4), and by gradient difference against those of `against`."""
    chosen = [p for name, p in model.named_parameters() if parameters is None or parameters(name)]
    optimizer = torch.optim.AdamW(chosen, lr=3e-3, weight_decay=0.01)

    def loss(rows):
        logits = model(rows[:, :-1], logits_to_keep=1, use_cache=False).logits[:, 0]
        return torch.nn.functional.cross_entropy(logits, rows[:, -1])

    for _ in range(steps):
        keep = loss(ids)
        forget = None if against is None else loss(against)
        if (forget is None and keep < 0.02) or (forget is not None and forget > 4):
            break
        total = keep if forget is None else 1.5 * keep - forget
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(chosen, 1.0)
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module", params=[0, 1, 2])
def known_truth(request):
    tokenizer = word_tokenizer()
    probes = random_facts(request.param)
    ids = torch.tensor([tokenizer(p.prompt + p.answer)["input_ids"] for p in probes])
    forget, others = ids[:N_FORGET], ids[N_FORGET:]
    vocabulary = len(tokenizer)
    knows = taught(new_model(request.param, vocabulary), ids)

    def last_keys(name):
        return "layers.3.mlp.gate_proj" in name or "layers.3.mlp.up_proj" in name

    return KnownTruth(
        knows,
        taught(new_model(request.param, vocabulary), others),
        taught(new_model(request.param + 100, vocabulary), others),
        taught(copy.deepcopy(knows), others, parameters=last_keys, against=forget),
        tokenizer,
        ProbeSet(probes),
    )


@pytest.fixture(scope="module")
def suppressed(known_truth):
    truth = known_truth
    pair = ModelPair(truth.knows, truth.hides, truth.tokenizer, reference=truth.never_knew)
    return dissect(pair, truth.probes, CONFIG).content


@pytest.fixture(scope="module")
def never_knew(known_truth):
    truth = known_truth
    pair = ModelPair(
        truth.knows, truth.never_knew, truth.tokenizer, reference=truth.never_knew_either
    )
    return dissect(pair, truth.probes, CONFIG).content


def test_a_model_that_hides_the_facts_is_called_suppressed(suppressed):
    assert suppressed["verdict"]["numbers"]["forgetting"]["value"] > 0.5
    assert suppressed["verdict"]["label"] == "suppressed", suppressed["verdict"]


def test_states_before_the_only_trained_block_are_the_vanilla_models(suppressed):
    assert suppressed["reverse"]["s2"][:3] == [0, 0, 0]
    assert suppressed["reverse"]["s2"][3] > 1


def test_a_model_that_never_knew_is_not_called_suppressed(never_knew):
    numbers = never_knew["verdict"]["numbers"]
    assert numbers["forgetting"]["value"] > 0.9
    assert never_knew["verdict"]["label"] != "suppressed", never_knew["verdict"]
    assert numbers["depth"]["value"] >= 0.8
    assert numbers["gain"]["value"] < 0.2


def test_patching_recovers_what_was_never_known(never_knew):
    """The reason for the controls: the paper's curves are high here too."""
    curve = next(
        c
        for c in never_knew["curves"]
        if c["component"] == "coef+attn" and c["protocol"] == "aligned"
    )
    assert np.nanmax(curve["mean"]["krs"]) > 0.4
