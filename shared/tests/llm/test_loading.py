import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lipogram.errors import CorruptState, InvalidSetting, ModelNotFound, UnsafeCheckpoint
from lipogram.llm.checkpoint import has_tokenizer, read_tokenizer
from lipogram.llm.loading import load_model, load_tokenizer, model_info
from lipogram.llm.tiny import byte_tokenizer, tiny_random
from lipogram.llm.tuning import lora_config, prepare_lora

IDS = torch.tensor([[80, 81, 82, 83]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = tiny_random("llama", layers=2)
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny.model.save_pretrained(path)
    tiny.tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def adapter(folder: Path) -> Path:
    """A LoRA adapter over the model in `folder` that changes its answers."""
    peft = pytest.importorskip("peft")
    base = load_model(folder)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(base.model, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    path = folder.parent / "adapter"
    model.save_pretrained(path)
    return path


def copied(path: Path, to: Path, **changes: object) -> Path:
    """A copy of a model's or adapter's folder, with changes to its settings."""
    shutil.copytree(path, to)
    name = "config.json" if (to / "config.json").exists() else "adapter_config.json"
    settings = json.loads((to / name).read_bytes())
    (to / name).write_text(json.dumps(settings | changes))
    return to


def test_folder(folder: Path):
    loaded = load_model(folder)
    assert torch.equal(logits(loaded.model), logits(tiny_random("llama", layers=2).model))
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert all(p.requires_grad for p in load_model(str(folder), trainable=True).model.parameters())
    assert loaded.tokenizer("ab")["input_ids"] == [97, 98]
    info = loaded.info
    assert (info.spec, info.source, info.model_type) == (str(folder), "folder", "llama")
    assert (info.revision, info.dtype) == (None, "float32")
    assert info.parameters == sum(p.numel() for p in loaded.model.parameters())
    assert load_tokenizer(folder).get_vocab() == loaded.tokenizer.get_vocab()
    said = model_info(folder)
    assert (said.source, said.model_type, said.dtype) == ("folder", "llama", "float32")


@pytest.mark.parametrize("name", ["bfloat16", torch.bfloat16])
def test_type_that_is_asked_for(folder: Path, name):
    loaded = load_model(folder, dtype=name)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.info.dtype == "bfloat16"


def test_attention_kernel(folder: Path):
    for kernel in ("eager", "sdpa"):
        assert load_model(folder, attn_implementation=kernel).model.config._attn_implementation == (
            kernel
        )
    with pytest.raises(InvalidSetting, match="attn_implementation"):
        load_model(folder, attn_implementation="none-such")


def test_model_in_memory(folder: Path):
    tiny = tiny_random("gpt2", layers=1)
    tiny.model.train()
    loaded = load_model(tiny.model, tokenizer=tiny.tokenizer)
    assert loaded.model is tiny.model
    assert loaded.tokenizer is tiny.tokenizer
    assert loaded.info.source == "instance"
    assert not loaded.model.training
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    assert load_model(loaded).model is tiny.model
    with pytest.raises(InvalidSetting, match="tokenizer="):
        load_model(tiny.model)
    from_folder = load_model(folder).model
    assert load_model(from_folder).tokenizer("a")["input_ids"] == [97]
    for other in (torch.nn.Linear(1, 1), 7, None):
        with pytest.raises(InvalidSetting, match="neither a name nor a model"):
            load_model(other)


def test_tiny_random_by_name():
    assert load_model("tiny-random").info.model_type == "llama"
    loaded = load_model("tiny-random:gpt2", dtype="bfloat16", trainable=True)
    assert loaded.info.model_type == loaded.model.config.model_type == "gpt2"
    assert loaded.info.dtype == "bfloat16"
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not any(p.requires_grad for p in load_model("tiny-random").model.parameters())
    assert load_tokenizer("tiny-random:gpt2")("a")["input_ids"] == [97]
    assert model_info("tiny-random:opt").model_type == "opt"
    with pytest.raises(InvalidSetting, match="none-such"):
        load_model("tiny-random:none-such")


def test_adapter(folder: Path, adapter: Path):
    import peft

    base = logits(load_model(folder).model)
    loaded = load_model(adapter)
    assert isinstance(loaded.model, peft.PeftModel)
    assert loaded.info.source == "adapter"
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    changed = logits(loaded.model)
    assert (changed - base).abs().max() > 0.1
    over = load_model(folder, adapter=adapter)
    assert torch.equal(changed, logits(over.model))
    with loaded.model.disable_adapter():
        assert torch.equal(base, logits(loaded.model))
    assert load_tokenizer(adapter)("a")["input_ids"] == [97]
    assert model_info(adapter).model_type == "llama"
    with pytest.raises(InvalidSetting, match="adapter already"):
        load_model(adapter, adapter=adapter)
    with pytest.raises(InvalidSetting, match="adapter already"):
        load_model(loaded, adapter=adapter)


@pytest.mark.parametrize("by_folder", [True, False])
def test_of_a_trainable_adapter_the_base_stays_frozen(folder: Path, adapter: Path, by_folder: bool):
    loaded = (
        load_model(adapter, trainable=True)
        if by_folder
        else load_model(folder, adapter=adapter, trainable=True)
    )
    trained = {name for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in loaded.model.named_parameters() if "lora_" in name}
    assert trained


def test_adapter_without_its_base(adapter: Path, tmp_path: Path):
    lost = copied(adapter, tmp_path / "lost", base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(ModelNotFound, match=r"the base of the adapter .*gone; .*pass adapter="):
        load_model(lost)
    unnamed = copied(adapter, tmp_path / "unnamed", base_model_name_or_path=None)
    with pytest.raises(CorruptState, match="pass adapter="):
        load_model(unnamed)
    circle = copied(adapter, tmp_path / "circle", base_model_name_or_path=str(tmp_path / "circle"))
    with pytest.raises(CorruptState, match="is an adapter itself"):
        load_model(circle)


def test_adapter_over_smollm2_of_another_machine(adapter: Path, tmp_path: Path, monkeypatch):
    from lipogram.llm import loading

    asked = []
    monkeypatch.setattr(loading, "smollm2_folder", lambda: asked.append(1) or tmp_path / "none")
    there = "/elsewhere/models/b179c9523d0e6a0f-transformers5-1"
    moved = copied(adapter, tmp_path / "moved", base_model_name_or_path=there)
    with pytest.raises(ModelNotFound, match="none holds no tokenizer"):
        load_model(moved)
    assert asked


@pytest.mark.parametrize("kind", ["IA3", "PREFIX_TUNING", None])
def test_tuner_that_is_no_lora_is_refused(adapter: Path, tmp_path: Path, kind):
    other = copied(adapter, tmp_path / "other", peft_type=kind)
    with pytest.raises(InvalidSetting, match="LORA is what can be read"):
        load_model(other)


def test_adapter_that_does_not_fit_leaves_the_model_as_it_was(adapter: Path, tmp_path: Path):
    for tiny in (tiny_random("llama", width=48), tiny_random("gpt2"), tiny_random(layers=4)):
        before, names = logits(tiny.model), [name for name, _ in tiny.model.named_modules()]
        with pytest.raises(CorruptState, match="does not fit its base"):
            load_model(tiny, adapter=adapter)
        assert [name for name, _ in tiny.model.named_modules()] == names
        assert torch.equal(before, logits(tiny.model))


def test_pickled_adapter_is_refused(folder: Path, adapter: Path, tmp_path: Path):
    from safetensors.torch import load_file

    pickled = copied(adapter, tmp_path / "pickled")
    weights = pickled / "adapter_model.safetensors"
    torch.save(load_file(weights), pickled / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(UnsafeCheckpoint, match=r"adapter_model\.bin"):
        load_model(pickled)
    allowed = load_model(pickled, bin_weights=True)
    assert torch.equal(logits(allowed.model), logits(load_model(adapter).model))
    (pickled / "adapter_model.bin").unlink()
    with pytest.raises(ModelNotFound, match="adapter_model"):
        load_model(pickled)
    with pytest.raises(ModelNotFound, match="holds no adapter"):
        load_model(folder, adapter=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "spec",
    [
        "./none",
        "/none/such",
        "~/none-such-model",
        "none/",
        "none.gguf",
        Path("none/such"),
        Path("smollm2"),
    ],
)
def test_path_that_is_not_there_never_asks_a_hub(spec, monkeypatch: pytest.MonkeyPatch):
    from lipogram.llm import loading

    monkeypatch.setattr(loading, "hub_folder", lambda *a, **k: pytest.fail("asked the hub"))
    monkeypatch.setattr(loading, "smollm2_folder", lambda: pytest.fail("took the word"))
    for load in (load_model, load_tokenizer, model_info):
        with pytest.raises(ModelNotFound, match="there is no folder or file"):
            load(spec)


def test_file_or_folder_of_something_else(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(ModelNotFound, match=r"a \.gguf file is needed"):
        load_model(tmp_path / "notes.txt")
    with pytest.raises(ModelNotFound, match="holds neither config"):
        load_model(tmp_path)


def test_words_win_over_folders_without_a_model(tmp_path: Path, monkeypatch, folder: Path):
    from lipogram.llm import loading

    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2").mkdir()
    monkeypatch.setattr(loading, "smollm2_folder", lambda: folder)
    assert load_model("smollm2").info.source == "smollm2"
    shutil.copytree(folder, tmp_path / "smollm2", dirs_exist_ok=True)
    assert load_model("smollm2").info.source == "folder"


def test_hub_id_and_revision(folder: Path, monkeypatch: pytest.MonkeyPatch):
    from lipogram.llm import loading

    asked = []

    def fetched(name, revision, **how):
        asked.append((name, revision, how["weights"]))
        return folder, "c0ffee"

    monkeypatch.setattr(loading, "hub_folder", fetched)
    loaded = load_model("org/name@v1")
    assert (loaded.info.source, loaded.info.revision) == ("hub", "c0ffee")
    assert model_info("org/name", revision="v2").revision == "c0ffee"
    load_tokenizer("org/name")
    assert asked == [("org/name", "v1", True), ("org/name", "v2", False), ("org/name", None, False)]
    with pytest.raises(InvalidSetting, match="two revisions"):
        load_model("org/name@v1", revision="v2")


def test_reward_model(folder: Path, tmp_path: Path):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(folder, num_labels=1)
    judge = AutoModelForSequenceClassification.from_config(config).eval()
    judge.save_pretrained(tmp_path / "judge")
    loaded = load_model(tmp_path / "judge", task="reward", tokenizer=byte_tokenizer())
    assert torch.equal(logits(loaded.model), logits(judge))
    # The head of one is not in the other, and must not be made up.
    with pytest.raises(CorruptState, match=r"reward model, such as score\.weight"):
        load_model(folder, task="reward")
    with pytest.raises(CorruptState, match=r"causal-lm model, such as lm_head\.weight"):
        load_model(tmp_path / "judge", tokenizer=byte_tokenizer())
    with pytest.raises(InvalidSetting, match="reward"):
        load_model("tiny-random", task="reward")
    with pytest.raises(InvalidSetting, match="task 'judge'"):
        load_model(folder, task="judge")


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model of a few lines."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="pip install sentencepiece")
    path = tmp_path_factory.mktemp("pieces")
    (path / "text").write_text("the cat sat on the mat\na dog and a cat\n" * 9)
    sentencepiece.SentencePieceTrainer.train(
        input=str(path / "text"),
        model_prefix=str(path / "pieces"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return path / "pieces.model"


def translator(path: Path, pieces: Path) -> torch.nn.Module:
    """A random Marian in a folder as the hub's are: two SentencePiece models, one vocabulary."""
    import sentencepiece
    from transformers import MarianConfig, MarianMTModel

    held = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    names = ["</s>", "<unk>", *(held.id_to_piece(i) for i in range(3, len(held))), "<pad>"]
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    config = MarianConfig(
        vocab_size=len(names),
        d_model=8,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        eos_token_id=0,
        pad_token_id=len(names) - 1,
        decoder_start_token_id=len(names) - 1,
        forced_eos_token_id=0,
        **sizes,
    )
    torch.manual_seed(0)
    model = MarianMTModel(config).eval()
    model.final_logits_bias.normal_()
    model.save_pretrained(path)
    (path / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    for name in ("source.spm", "target.spm"):
        shutil.copy(pieces, path / name)
    settings = {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "de"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return model


def test_encoder_decoder(pieces: Path, tmp_path: Path):
    made = translator(tmp_path / "opus", pieces)
    loaded = load_model(tmp_path / "opus", task="seq2seq", device="cpu")
    assert loaded.info.model_type == "marian"
    assert not loaded.model.training
    ids = loaded.tokenizer("the cat", return_tensors="pt")["input_ids"]
    assert ids.shape[1] > 2
    assert ids[0, -1] == 0
    with torch.inference_mode():
        ours, theirs = (
            m(input_ids=ids, decoder_input_ids=ids).logits for m in (loaded.model, made)
        )
    assert torch.equal(ours, theirs)
    assert loaded.tokenizer.decode(ids[0], skip_special_tokens=True) == "the cat"
    # A SentencePiece model under the name that NLLB and mBART have for it is a tokenizer, too.
    (tmp_path / "other").mkdir()
    with pytest.raises(ModelNotFound, match="no tokenizer"):
        read_tokenizer(tmp_path / "other")
    shutil.copy(pieces, tmp_path / "other" / "sentencepiece.bpe.model")
    assert has_tokenizer(tmp_path / "other")


def test_only_encoder_decoders_are_loaded_as_such(
    folder: Path, pieces: Path, tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(CorruptState, match="cannot be read"):
        load_model(folder, task="seq2seq")
    translator(tmp_path / "opus", pieces)
    with pytest.raises(CorruptState):
        load_model(tmp_path / "opus", task="reward")
    monkeypatch.setattr("lipogram.llm.loading.smollm2_folder", lambda: folder)
    for spec in ("tiny-random", "smollm2", tiny_gguf):
        with pytest.raises(InvalidSetting, match=f"{spec} is a causal language model.* seq2seq"):
            load_model(spec, task="seq2seq")


@pytest.mark.parametrize("change", ["pickled", "truncated", "code"])
def test_an_unsafe_or_broken_encoder_decoder_is_refused(change: str, pieces: Path, tmp_path: Path):
    translator(tmp_path, pieces)
    weights = tmp_path / "model.safetensors"
    error: type[Exception] = UnsafeCheckpoint
    if change == "pickled":
        torch.save({}, tmp_path / "pytorch_model.bin")
        weights.unlink()
    elif change == "truncated":
        weights.write_bytes(weights.read_bytes()[:-9])
        error = CorruptState
    else:
        settings = json.loads((tmp_path / "config.json").read_bytes())
        settings |= {"model_type": "own", "auto_map": {"AutoModelForSeq2SeqLM": "own.Own"}}
        (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(error):
        load_model(tmp_path, task="seq2seq")


def test_settings_that_exclude_each_other(folder: Path):
    for more in ({"device": "cpu"}, {"trainable": True}):
        with pytest.raises(InvalidSetting, match="device_map"):
            load_model(folder, device_map="auto", **more)
    with pytest.raises(InvalidSetting, match="dtype"):
        load_model(folder, dtype="int8")


WITHOUT_NETWORK = """
import sys
asked = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        asked.append((event, arguments))
sys.addaudithook(watch)
from lipogram.llm.loading import load_model
for spec in sys.argv[1:]:
    load_model(spec)
print(asked)
"""


def test_what_is_here_is_loaded_without_a_look_at_the_network(folder: Path, adapter: Path):
    env = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    env["HF_ENDPOINT"] = "http://127.0.0.1:9"
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore::FutureWarning",
            "-c",
            WITHOUT_NETWORK,
            str(folder),
            str(adapter),
            "tiny-random",
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
    assert done.stderr == ""


@pytest.mark.parametrize("device", ["tpu9", "cuda:77", "xla"])
def test_a_device_that_is_not_there_is_refused(folder, device):
    with pytest.raises(InvalidSetting, match=f"device '{device}' cannot be used here: ."):
        load_model(folder, device=device)


def test_no_notice_is_given_of_names_that_peft_still_uses(folder, adapter, recwarn):
    config = lora_config(load_model(folder).model, r=2)
    prepare_lora(load_model(folder).model, config, checkpointing=False)
    load_model(folder, adapter=adapter)
    assert not [warned for warned in recwarn if warned.category is FutureWarning]
