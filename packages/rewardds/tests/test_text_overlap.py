"""The scan for private words: the real bundle is clean, and every hiding place is looked into."""

import json
import re

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lipogram.errors import CorruptState, InvalidSetting, MissingAsset
from lipogram.llm.tiny import tiny_random
from rewardds.bundle import write_bundle
from rewardds.dp_trainer import DPTrainer
from rewardds.generation_proxy import generation_rows
from rewardds.losses import CausalLMLoss
from rewardds.privacy_units import privacy_units
from rewardds.prompts import Prompts
from rewardds.records import PrivateRecords, Record
from rewardds.reward_model import RewardModel
from rewardds.text_overlap import PrivateGrams
from rewardds.training_run import TrainingRun

KEY = b"a key of sixteen bytes or more"
WORDS = [a + b + "o" for a in ("bam", "den", "fil", "gor", "lup", "mez") for b in "bdfglmnprst"]


def private_records(n=40, long=14):
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, long)) for _ in range(2 * n)]
    return PrivateRecords(
        [Record(f"p{i}", texts[2 * i].capitalize() + "?", texts[2 * i + 1]) for i in range(n)], KEY
    )


RECORDS = private_records()
SECRET = RECORDS[7].response


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A bundle of proxies that were trained on the records."""
    loaded = tiny_random("llama", layers=2, width=32)
    lora = LoraConfig(r=4, target_modules="all-linear")
    proxies = [get_peft_model(tiny_random("llama", layers=2, width=32).model, lora)]
    proxies.append(get_peft_model(tiny_random("llama", layers=2, width=32).model, lora))
    rows = generation_rows(
        privacy_units(RECORDS).units, loaded.tokenizer, Prompts(), max_length=256
    ).rows
    run = TrainingRun(sigma=1.0, n=40, batch=4, steps=2)
    DPTrainer(proxies[0], run, loss=CausalLMLoss(), lr=1e-3, clip=1.0, unsafe_seed=0).train(rows)
    return write_bundle(
        tmp_path_factory.mktemp("bundles") / "bundle",
        generator=proxies[0],
        reward=RewardModel(proxies[1]),
        privacy={"epsilon": 8.0, "statement": "Each record is protected."},
        config={"base": "tiny-random", "prompts": Prompts().to_json(), "max_length": 256},
    ).folder


@pytest.fixture
def bundle(trained, tmp_path):
    import shutil

    return shutil.copytree(trained, tmp_path / "bundle")


@pytest.fixture(scope="module")
def grams():
    return PrivateGrams(RECORDS)


def test_a_bundle_holds_no_private_text(bundle, grams):
    tokenizer = tiny_random("llama", layers=1, width=16).tokenizer
    found = grams.scan_folder(bundle, tokenizer=tokenizer)
    assert found.clean, found.sentence()
    assert found.texts > 40  # names of tensors, keys and values: it was read
    assert found.grams > 0


def in_json(bundle, tokenizer):
    path = bundle / "config.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | {"note": [{"deep": SECRET.upper().replace(" ", ", ")}]}))


def in_a_key(bundle, tokenizer):
    path = bundle / "privacy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {SECRET: 1}))


def word_by_word(bundle, tokenizer):
    path = bundle / "privacy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocabulary": SECRET.split()}))


def in_a_file_name(bundle, tokenizer):
    (bundle / f"{SECRET.replace(' ', '_')}.bin").write_bytes(b"\0")


def in_another_file(bundle, tokenizer):
    (bundle / "optimizer.bin").write_bytes(b"\0\xff\x80" + SECRET.encode() + b"\xfe\0")


def as_ids_in_json(bundle, tokenizer):
    (bundle / "rows.json").write_text(json.dumps({"rows": [[1], tokenizer(SECRET).input_ids]}))


def in_lines(bundle, tokenizer):
    (bundle / "rows.jsonl").write_text('{"a": "b"}\n\n' + json.dumps({"text": SECRET}) + "\n")


def in_metadata(bundle, tokenizer):
    path = bundle / "reward" / "head.safetensors"
    save_file(load_file(path), path, {"note": SECRET})


def in_a_tensor_name(bundle, tokenizer):
    path = bundle / "reward" / "head.safetensors"
    save_file(load_file(path) | {SECRET: torch.zeros(1)}, path)


def tensor_of(make):
    def hidden(bundle, tokenizer):
        path = bundle / "generator" / "adapter_model.safetensors"
        ids = torch.tensor(make(tokenizer))
        save_file(load_file(path) | {"extra": ids.reshape(1, -1)}, path)

    return hidden


HIDING = {
    "json": in_json,
    "a key": in_a_key,
    "word by word": word_by_word,
    "file name": in_a_file_name,
    "another file": in_another_file,
    "ids in json": as_ids_in_json,
    "json lines": in_lines,
    "metadata": in_metadata,
    "tensor name": in_a_tensor_name,
    "ids": tensor_of(lambda tokenizer: [258, *tokenizer(SECRET).input_ids]),
    "ids as floats": tensor_of(lambda tokenizer: [float(i) for i in tokenizer(SECRET).input_ids]),
    "bytes": tensor_of(lambda tokenizer: list(SECRET.encode())),
}


@pytest.mark.parametrize("place", HIDING)
def test_every_hiding_place_is_found(place, bundle, grams):
    tokenizer = tiny_random("llama", layers=1, width=16).tokenizer
    HIDING[place](bundle, tokenizer)
    found = grams.scan_folder(bundle, tokenizer=None if place == "bytes" else tokenizer)
    assert not found.clean
    assert found.hits[0].records[0] == "p7"
    assert found.hits[0].grams == 14 - 8 + 1
    if place != "file name":  # the file's own name is what would be told
        told = found.sentence() + repr(found)
        if place not in ("a key", "tensor name", "metadata"):
            assert SECRET.split()[0] not in told.lower()


def test_seven_words_are_none_and_eight_are_one(grams):
    words = SECRET.split()
    seven, eight = (f"It reads: {'; '.join(words[3 : 3 + k])}!" for k in (7, 8))
    found = grams.scan([("a", seven), ("b", eight), ("c", "")])
    assert [(hit.place, hit.grams, hit.records) for hit in found.hits] == [("b", 1, ("p7",))]
    assert found.texts == 3
    assert found.grams == (2 + 7 - 7) + (2 + 8 - 7)
    assert found.share == pytest.approx(1 / found.grams)
    broken = " ".join([*words[:7], "and", *words[7:]])
    assert grams.scan([("a", broken)]).clean


def test_case_punctuation_and_width_do_not_hide(grams):
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in SECRET)
    for text in (SECRET.upper(), SECRET.replace(" ", "\n- "), SECRET.replace(" ", "_"), wide):
        assert grams.scan([("x", text)]).hits[0].records == ("p7",)


def test_records_are_named_the_most_often_met_first(grams):
    text = " ".join(RECORDS[3].response.split()[:9]) + " / " + RECORDS[5].instruction
    assert grams.scan([("x", text)]).hits[0].records == ("p5", "p3")


def test_public_words_do_not_count(grams):
    assert not grams.scan([("x", SECRET)]).clean
    assert PrivateGrams(RECORDS, public=[f"Please read: {SECRET}"]).scan([("x", SECRET)]).clean


def test_texts_that_are_too_short_to_be_found_are_counted():
    records = PrivateRecords(
        [Record("a", "one two three", ""), Record("b", "x " * 8, "y " * 7)], KEY
    )
    found = PrivateGrams(records).scan([("x", "one two three")])
    assert found.clean
    assert found.short == 2
    assert "2 private texts are too short" in found.sentence()
    assert not PrivateGrams(records, n=3).scan([("x", "one two three")]).clean


def test_scripts_without_blanks_are_compared_by_letters():
    records = PrivateRecords([Record("a", "患者は昨日から頭が痛いと言う", "")], KEY)
    text = "報告:患者は昨日から、頭が痛い。"
    assert not PrivateGrams(records).scan([("x", text)]).clean


@pytest.mark.parametrize("name", ["broken.json", "broken.jsonl", "broken.safetensors"])
def test_what_cannot_be_read_is_no_pass(name, bundle, grams):
    (bundle / name).write_bytes(b"\0\0{ not this")
    with pytest.raises(CorruptState, match=re.escape(name)):
        grams.scan_folder(bundle)


def test_bad_input_is_named(grams, tmp_path):
    with pytest.raises(MissingAsset, match="nowhere"):
        grams.scan_folder(tmp_path / "nowhere")
    with pytest.raises(InvalidSetting, match="n is 1"):
        PrivateGrams(RECORDS, n=1)
    assert SECRET.split()[0] not in repr(grams)
