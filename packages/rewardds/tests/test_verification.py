import json
import math
import re
import shutil

import pytest
from peft import LoraConfig, get_peft_model

from lipogram.errors import CorruptState, InvalidSetting, MissingAsset
from lipogram.llm import tiny_random
from rewardds.accounting import BoundedRelease, Release, epsilon
from rewardds.bundle import HASHES, PRIVACY, file_hashes, write_bundle
from rewardds.errors import TamperedBundle
from rewardds.privacy_statement import PrivacyStatement
from rewardds.reward_model import RewardModel
from rewardds.verification import verify

RUNS = {"generator": Release(0.7, 64 / 3364, 157), "reward": Release(0.9, 64 / 3364, 100)}
STATEMENT = PrivacyStatement(RUNS, 1e-5, 3364, clips={"generator": 0.5, "reward": 0.5})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    def proxy(seed):
        model = tiny_random(layers=1, width=16, seed=seed).model
        return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))

    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    config = {"base": "a-base", "prompts": {}, "max_length": 64}
    write_bundle(
        folder,
        generator=proxy(0),
        reward=RewardModel(proxy(1)),
        privacy=STATEMENT.as_json(),
        config=config,
    )
    return folder


@pytest.fixture
def bundle(written, tmp_path):
    return shutil.copytree(written, tmp_path / "bundle")


def rewrite(bundle, change):
    """Change privacy.json, and its hash too, as one would who knows the format."""
    content = json.loads((bundle / PRIVACY).read_text())
    change(content)
    (bundle / PRIVACY).write_text(json.dumps(content))
    (bundle / HASHES).write_text(json.dumps(file_hashes(bundle)))


def test_a_bundle_is_verified_from_its_files_alone(bundle):
    found = verify(bundle)
    assert found.epsilon == found.claimed == epsilon([*RUNS.values()], 1e-5)
    assert found.delta == 1e-5
    assert found.statement == STATEMENT
    assert found.sentence() == STATEMENT.sentence()


@pytest.mark.parametrize(
    "name",
    ["generator/adapter_model.safetensors", "reward/head.safetensors", PRIVACY, "config.json"],
)
def test_a_file_that_is_changed_missing_or_too_much_is_found(bundle, name):
    path = bundle / name
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)
    with pytest.raises(TamperedBundle, match=re.escape(name)):
        verify(bundle)
    path.unlink()
    with pytest.raises(TamperedBundle, match=re.escape(name)):
        verify(bundle)


def test_a_file_that_does_not_belong_there_is_found(bundle):
    (bundle / "optimizer.pt").write_bytes(b"state")
    with pytest.raises(TamperedBundle, match=r"optimizer\.pt"):
        verify(bundle)


@pytest.mark.parametrize("claim", [4.0, 0.0, -1.0, math.nan, None, "8", True])
def test_a_claim_below_what_the_runs_cost_is_found(bundle, claim):
    rewrite(bundle, lambda content: content.update(epsilon=claim))
    with pytest.raises(TamperedBundle, match="claims"):
        verify(bundle)


def test_a_claim_above_is_a_bound_too(bundle):
    """As one that an older, looser accountant wrote."""

    def loosen(content):
        content.update(epsilon=9.0, statement="(9, 1e-5)")

    rewrite(bundle, loosen)
    found = verify(bundle)
    assert found.claimed == 9.0
    assert found.epsilon == STATEMENT.epsilon


def test_runs_that_cost_more_than_is_claimed_are_found(bundle):
    for change in (
        lambda content: content["releases"]["generator"].update(steps=200),
        lambda content: content["releases"]["reward"].update(sigma=0.5),
        lambda content: content["releases"].update(third={**content["releases"]["reward"]}),
        lambda content: content.update(unprotected=["answers of a model without noise"]),
        lambda content: content.update(delta=1e-9),
    ):
        held = (bundle / PRIVACY).read_bytes()
        rewrite(bundle, change)
        with pytest.raises(TamperedBundle, match="claims"):
            verify(bundle)
        (bundle / PRIVACY).write_bytes(held)


def test_words_that_do_not_follow_from_the_numbers_are_found(bundle):
    rewrite(bundle, lambda content: content.update(statement="perfectly private"))
    with pytest.raises(TamperedBundle, match="in words"):
        verify(bundle)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"releases": {}},
        {"releases": {"generator": {"mechanism": "none"}}},
        {"releases": []},
        {"delta": 0.5},
        {"delta": "1e-5"},
        {"n": -3},
        {"unit": "dataset"},
        {"n_policy": "secret"},
        {"clips": 3},
    ],
)
def test_what_is_no_statement_is_refused(bundle, change):
    rewrite(bundle, lambda content: content.update(change))
    with pytest.raises(TamperedBundle, match="no statement"):
        verify(bundle)


def test_no_bundle_is_refused(tmp_path):
    with pytest.raises(MissingAsset, match="nothing"):
        verify(tmp_path / "nothing")


def test_a_statement_survives_json():
    runs = {**RUNS, "choice": BoundedRelease(0.1, 1e-7, 2)}
    for statement in (
        STATEMENT,
        PrivacyStatement(runs, 1e-5, 3364, "group", "public bound"),
        PrivacyStatement(RUNS, 1e-5, 3364, unprotected=["weak answers of a plain fine-tune"]),
        PrivacyStatement({"generator": Release(0.0, 0.1, 3)}, 1e-5, 3364),
    ):
        text = json.dumps(statement.as_json(), allow_nan=False)
        again = PrivacyStatement.from_json(json.loads(text))
        assert again.as_json() == statement.as_json()
        assert again.epsilon == statement.epsilon


def test_words_name_the_total_and_what_voids_it():
    assert f"ε = {STATEMENT.epsilon:.4g}" in STATEMENT.sentence()
    assert "one record" in STATEMENT.sentence()
    assert "generator: σ 0.7, sample rate 0.01902, 157 noise additions" in STATEMENT.sentence()
    plain = PrivacyStatement(RUNS, 1e-5, 3364, unprotected=["weak answers of a plain fine-tune"])
    assert plain.epsilon == math.inf
    assert plain.as_json()["epsilon"] == "infinite"
    assert "infinite" in plain.sentence()
    assert "weak answers of a plain fine-tune" in plain.sentence()
    group = PrivacyStatement(RUNS, 1e-5, 3364, "group", "public bound")
    assert "all records of one group" in group.sentence()
    assert "public bound" in group.sentence()


def test_statements_that_say_nothing_are_refused():
    for wrong in (
        {"releases": {}},
        {"delta": 1 / 3364},
        {"n": 0},
        {"unit": "person"},
        {"n_policy": "secret"},
    ):
        with pytest.raises(InvalidSetting):
            PrivacyStatement(**({"releases": RUNS, "delta": 1e-5, "n": 3364} | wrong))
    with pytest.raises(CorruptState):
        PrivacyStatement.from_json({})
