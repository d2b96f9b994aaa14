"""A bundle holds what is on its list and nothing else, whole or not at all."""

import hashlib
import json
import shutil

import pytest
import torch

from lipogram.errors import CorruptState, FolderInUse, InvalidSetting
from lipogram.llm import tiny_random
from lipogram.llm.tuning import lora_config, prepare_lora
from rewardds.bundle import file_hashes, read_bundle, save_proxy, write_bundle
from rewardds.prompts import Prompts
from rewardds.reward_model import RewardModel

CONFIG = {"base": "tiny-random", "prompts": Prompts.of_domain("birds").to_json(), "max_length": 64}
IDS = torch.arange(12)[None]


def adapted(seed):
    model = tiny_random("llama", layers=3, width=32).model
    model = prepare_lora(model, lora_config(model, r=2), checkpointing=False)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def proxies():
    return adapted(1), RewardModel(adapted(2), seed=3)


@pytest.fixture(scope="module")
def written(proxies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "bundle"
    generator, reward = proxies
    generator.peft_config["default"].base_model_name_or_path = "someones/own/models/base"
    write_bundle(folder, generator=generator, reward=reward, privacy={"n": 3}, config=CONFIG)
    return folder


@pytest.fixture
def copied(written, tmp_path):
    return shutil.copytree(written, tmp_path / "bundle")


def test_the_proxies_come_back_from_their_base_name(written, proxies):
    generator, reward = proxies
    bundle = read_bundle(written)
    assert bundle.privacy == {"n": 3}
    assert bundle.base == "tiny-random"
    assert bundle.prompts == Prompts.of_domain("birds")
    assert bundle.digest == hashlib.sha256((written / "hashes.json").read_bytes()).hexdigest()
    with torch.no_grad():
        loaded = bundle.load_generator()
        assert torch.equal(loaded.model(input_ids=IDS).logits, generator(input_ids=IDS).logits)
        judge = bundle.load_reward()
        assert torch.equal(judge.model(input_ids=IDS), reward.eval()(input_ids=IDS))
    assert judge.tokenizer.pad_token_id == loaded.tokenizer.pad_token_id
    assert list(written.parent.iterdir()) == [written]
    for proxy in ("generator", "reward"):  # and no path of the machine that it was made on
        held = json.loads((written / proxy / "adapter_config.json").read_text())
        assert held["base_model_name_or_path"] == "tiny-random"


def test_of_a_reward_over_the_plain_base_the_head_is_all_that_is_written(proxies, tmp_path):
    plain = tiny_random("llama", layers=2, width=32)
    reward = RewardModel(plain.model.requires_grad_(False), seed=5)
    made = write_bundle(
        tmp_path / "b", generator=proxies[0], reward=reward, privacy={}, config=CONFIG
    )
    assert [path.name for path in (tmp_path / "b" / "reward").iterdir()] == ["head.safetensors"]
    loaded = made.load_reward(tiny_random("llama", layers=2, width=32))
    assert torch.equal(loaded.model(input_ids=IDS), reward.eval()(input_ids=IDS))


def test_it_is_written_once_and_whole(written, proxies, tmp_path):
    generator, reward = proxies
    held = file_hashes(written)
    with pytest.raises(FolderInUse, match="holds something"):
        write_bundle(written, generator=generator, reward=reward, privacy={}, config=CONFIG)
    assert file_hashes(written) == held
    told = {"generator": generator, "reward": reward}
    for privacy, config, match in (
        ({"epsilon": float("inf")}, CONFIG, r"privacy\.json"),
        ({"epsilon": torch.ones(1)}, CONFIG, r"privacy\.json"),
        ({}, {"base": "x"}, "prompts, max_length"),
    ):
        with pytest.raises(InvalidSetting, match=match):
            write_bundle(tmp_path / "new", **told, privacy=privacy, config=config)
    assert list(tmp_path.iterdir()) == []


def test_what_is_on_no_list_does_not_get_in(proxies, tmp_path):
    generator, reward = proxies
    folder = tmp_path / "proxy"
    save_proxy(generator, folder, "tiny-random")
    (folder / "optimizer.safetensors").write_bytes(b"moments")
    with pytest.raises(CorruptState, match=r"optimizer\.safetensors does not belong"):
        write_bundle(tmp_path / "new", generator=folder, reward=reward, privacy={}, config=CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["proxy"]


def losses(folder):
    (folder / "losses.json").write_text("[]")


def link(folder):  # to a file with the right contents, that can change later
    (folder / "privacy.json").rename(folder.parent / "elsewhere.json")
    (folder / "privacy.json").symlink_to(folder.parent / "elsewhere.json")


def other_claim(folder):
    (folder / "privacy.json").write_text('{"n": 4}\n')


def other_weight(folder):
    path = folder / "reward" / "head.safetensors"
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)


def one_less(folder):
    (folder / "generator" / "adapter_model.safetensors").unlink()


def no_hashes(folder):
    (folder / "hashes.json").unlink()


def half_hashes(folder):
    (folder / "hashes.json").write_text('{"privacy.json"')


def hashes_of_nothing(folder):
    (folder / "hashes.json").write_text("[]")


def other_format(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format": 99}))
    (folder / "hashes.json").write_text(json.dumps(file_hashes(folder)))


def no_prompts(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"prompts": {"ask": "x"}}))
    (folder / "hashes.json").write_text(json.dumps(file_hashes(folder)))


@pytest.mark.parametrize(
    "damage",
    [
        losses,
        link,
        other_claim,
        other_weight,
        one_less,
        no_hashes,
        half_hashes,
        hashes_of_nothing,
        other_format,
        no_prompts,
    ],
)
def test_a_bundle_that_was_changed_is_not_read(damage, copied):
    damage(copied)
    with pytest.raises(CorruptState):
        read_bundle(copied)


def test_a_head_of_another_width_is_told(copied):
    from safetensors.torch import save_file

    bundle = read_bundle(copied)
    save_file({"weight": torch.zeros(1, 8)}, copied / "reward" / "head.safetensors")
    with pytest.raises(CorruptState, match="no head of this reward proxy"):
        bundle.load_reward()
