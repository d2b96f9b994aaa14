"""Models in GGUF: dequantised once into a folder of safetensors, and loaded from there."""

import io
import re
import shutil
import sys
import tempfile
import warnings
from contextlib import nullcontext, redirect_stderr
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from lipogram.assets import cache_folder
from lipogram.assets.verify import sha256
from lipogram.console import say
from lipogram.errors import CorruptState, MissingExtra, NotCached
from lipogram.files import move_folder
from lipogram.llm.hub import INSTALL
from lipogram.llm.quiet import quiet

_MAGIC = b"GGUF"
_CONVERSION = 1  # counts changes of what is written below, since old folders stay behind
_TURN = re.compile(
    r"\{\{\s*'<\|im_start\|>' \+ message\['role'\] \+ '(?:\\n|\n)'"
    r" \+ message\['content'\] \+ '<\|im_end\|>' \+ '(?:\\n|\n)'\s*\}\}"
)
_MARKED_TURN = (
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\\n' }}"
)


def home(digest: str) -> Path:
    """Where the conversion of the GGUF file with this SHA-256 is kept."""
    major = version("transformers").split(".")[0]
    return cache_folder() / "models" / f"{digest[:16]}-transformers{major}-{_CONVERSION}"


def converted(gguf: Path) -> Path | None:
    """The folder with the model in float32 and its tokenizer, made at the first call.

    One process converts while others wait. Killed at any instant, it leaves a whole folder or none.
    None, with the warning NotCached, where the cache cannot be written.

    Raises:
        CorruptState: the file cannot be read, or holds an architecture unknown to transformers.
        MissingExtra: the library gguf is not installed.
    """
    from filelock import FileLock

    folder = home(sha256(gguf))
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if folder.exists():  # another process was faster
                return folder
            for left in folder.parent.glob(f".part-{folder.name}-*"):  # of one that was killed
                shutil.rmtree(left)
            part = Path(tempfile.mkdtemp(prefix=f".part-{folder.name}-", dir=folder.parent))
            try:
                say(f"converting {gguf.name}, once")
                model, tokenizer = read_gguf(gguf)
                with quiet():
                    model.save_pretrained(part)
                    tokenizer.save_pretrained(part)
                part.chmod(0o755)
                move_folder(part, folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        warnings.warn(
            f"{cache_folder()} cannot be written ({error}), so {gguf.name} is converted at every "
            "load; LIPOGRAM_CACHE names another folder",
            NotCached,
            stacklevel=2,
        )
        return None
    return folder


def read_gguf(gguf: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """The model, dequantised to float32, and its tokenizer, straight from the file.

    The model counts as an ordinary one: it can be saved and trained. A chat template that is
    understood gets marks around the assistant's words.

    Raises:
        CorruptState: the file cannot be read, or holds an architecture unknown to transformers.
        MissingExtra: the library gguf is not installed.
    """
    if find_spec("gguf") is None:
        raise MissingExtra("gguf", INSTALL)
    with open(gguf, "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise CorruptState(f"{gguf} is no GGUF file")
    # One of the bars cannot be turned off.
    hidden = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
    try:
        with quiet(), hidden:
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32
            )
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise CorruptState(f"{gguf} cannot be read: {error}") from error
    # Left there, these keep a model of plain floating-point weights from being saved or trained.
    del model.config.quantization_config
    marks = {"hf_quantizer": None, "quantization_method": None, "is_quantized": False}
    for name, value in marks.items():
        setattr(model, name, value)
    tokenizer.chat_template = mark_generation(tokenizer)
    return model, tokenizer


def mark_generation(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The tokenizer's chat template with generation marks around the assistant's words.

    They include the end of the turn, <|im_end|>. As it is where it has marks already, is not of the
    plain ChatML form, or would write other text.
    """
    template = tokenizer.chat_template
    if not isinstance(template, str) or "{% generation %}" in template:
        return template
    marked = _TURN.sub(lambda _: _MARKED_TURN, template)
    turns = [{"role": role, "content": f" {role}\n"} for role in ("system", "user", "assistant")]
    for chat in (turns, turns[1:], turns[1:] * 2):
        for ask in (False, True):
            before, after = (
                tokenizer.apply_chat_template(
                    chat, chat_template=text, tokenize=False, add_generation_prompt=ask
                )
                for text in (template, marked)
            )
            if before != after:
                return template
    return marked
