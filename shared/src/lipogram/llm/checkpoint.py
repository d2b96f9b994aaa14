"""Models, tokenizers and adapters read from a folder: nothing in it is run or trusted."""

import json
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from lipogram.errors import (
    CorruptState,
    InvalidSetting,
    ModelNotFound,
    NotFinite,
    UnsafeCheckpoint,
)
from lipogram.llm.precision import resolve_dtype
from lipogram.llm.quiet import quiet

Task = Literal["causal-lm", "reward", "seq2seq"]
TASKS = {
    "causal-lm": AutoModelForCausalLM,
    "reward": AutoModelForSequenceClassification,
    "seq2seq": AutoModelForSeq2SeqLM,
}

_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)
_BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}


def read_model(
    folder: Path,
    task: Task,
    *,
    dtype: str | torch.dtype,
    device: torch.device,
    device_map: Any = None,
    attn_implementation: str | None = None,
    bin_weights: bool = False,
) -> Any:
    """The model in a folder of `save_pretrained`. The arguments are those of `load_model`.

    Raises:
        UnsafeCheckpoint: the weights are pickles, or the model needs code of its own.
        CorruptState: a file cannot be read, lacks weights, or is of an unknown architecture.
        ModelNotFound: there are no weights.
        InvalidSetting: an attention kernel that there is not.
    """
    config = settings(folder / "config.json")
    _check_code(folder, config)
    files = _weight_files(folder, bin_weights)
    stored = stored_dtype(config)
    size = sum(file.stat().st_size for file in files)
    parameters = size // _BYTES.get(stored or "float32", 2)
    chosen = resolve_dtype(dtype, device, stored=stored, parameters=parameters)
    try:
        with quiet():
            model, report = TASKS[task].from_pretrained(
                folder,
                dtype=chosen,
                device_map=device_map,
                attn_implementation=attn_implementation,
                use_safetensors=files[0].suffix == ".safetensors",
                weights_only=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a hostile or broken file makes the libraries raise
        if attn_implementation is not None and attn_implementation in str(error):
            raise InvalidSetting(f"attn_implementation: {error}") from error
        raise CorruptState(f"the model in {folder} cannot be read: {error}") from error
    if missing := sorted(report["missing_keys"]):  # they would be random
        raise CorruptState(
            f"the model in {folder} has no weights for {len(missing)} tensors of a {task} model, "
            f"such as {missing[0]}"
        )
    return model if device_map is not None else model.to(device)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder.

    Raises:
        ModelNotFound: there is none.
        UnsafeCheckpoint: it needs code of its own.
        CorruptState: it cannot be read.
    """
    if not has_tokenizer(folder):
        raise ModelNotFound(f"{folder} holds no tokenizer: pass tokenizer=")
    if (folder / "config.json").is_file():
        settings(folder / "config.json")  # which names the tokenizer's class
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # tokenizers raises plain Exception
        path = folder / "tokenizer_config.json"
        if path.is_file() and "auto_map" in settings(path):
            raise UnsafeCheckpoint(
                f"the tokenizer in {folder} needs code of its own, which is never run"
            ) from error
        raise CorruptState(f"the tokenizer in {folder} cannot be read: {error}") from error
    return found


def has_tokenizer(folder: Path) -> bool:
    """Whether there is a tokenizer in a folder."""
    return any((folder / name).is_file() for name in _TOKENIZERS)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter and no model."""
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def read_adapter(model: Any, folder: Path, *, trainable: bool, bin_weights: bool) -> Any:
    """A PeftModel: the LoRA adapter in a folder over `model`, whose modules it wraps in place.

    Raises:
        ModelNotFound: there is no adapter.
        UnsafeCheckpoint: its weights are pickles.
        InvalidSetting: it is no LoRA, or the model has an adapter already.
        CorruptState: it cannot be read or does not fit the model, which is left as it was.
    """
    import peft
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if not (folder / "adapter_config.json").is_file():
        raise ModelNotFound(f"{folder} holds no adapter: adapter_config.json is needed")
    kind = settings(folder / "adapter_config.json").get("peft_type")
    if kind != "LORA":
        raise InvalidSetting(
            f"{folder} is an adapter of type {kind}, and LORA is what can be read: merge it into "
            "its base and load that"
        )
    if isinstance(model, peft.PeftModel):
        raise InvalidSetting("the model has an adapter already: merge that first")
    _check_adapter(folder, bin_weights)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys")
            return peft.PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # as in read_model
        for name, module in list(model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                model.set_submodule(name, module.get_base_layer())
            elif isinstance(module, AuxiliaryTrainingWrapper):
                model.set_submodule(name, module.original_module)
        said = " ".join(str(error).split())[:300]
        raise CorruptState(
            f"the adapter in {folder} cannot be read or does not fit its base: {said}"
        ) from error


def settings(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        CorruptState: it does not.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptState(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CorruptState(f"{path} holds no settings")
    return content


def stored_dtype(config: dict[str, Any]) -> str | None:
    """The type of the weights, as a model's settings name it."""
    found = config.get("dtype") or config.get("torch_dtype")
    return found if isinstance(getattr(torch, str(found), None), torch.dtype) else None


def check_finite(model: torch.nn.Module) -> None:
    """Look at every weight that is in memory.

    Raises:
        NotFinite: naming the first tensor with a NaN or an infinity.
    """
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or parameter.is_meta:
            continue
        if not bool(torch.isfinite(parameter).all()):
            raise NotFinite(f"{name} holds NaN or infinity: the model has diverged or is damaged")


def _check_code(folder: Path, config: dict[str, Any]) -> None:
    if (folder / "adapter_config.json").is_file():  # transformers would load that too
        raise CorruptState(f"{folder} holds a model and an adapter: keep them in two folders")
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in CONFIG_MAPPING:
        return  # code that is there too is not needed
    if "auto_map" in config:
        raise UnsafeCheckpoint(
            f"{folder} needs code of its own (auto_map for {kind!r}), which is never run: use a "
            "model that transformers knows"
        )
    raise CorruptState(f"{folder}: transformers knows no model of type {kind!r}")


def _weight_files(folder: Path, bin_weights: bool) -> list[Path]:
    """The files that will be read, safetensors if there are any; their headers are whole."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        files = [single]
    elif index.is_file():
        shards = settings(index).get("weight_map")
        names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
        files = [folder / name for name in names]
        lost = [file.name for file in files if file.parent != folder or not file.is_file()]
        if lost or not files:
            raise CorruptState(f"{index} names files that are not there: {', '.join(lost)}")
    else:
        pickled = sorted(p for kind in ("*.bin", "*.pt", "*.pth") for p in folder.glob(kind))
        if not pickled:
            raise ModelNotFound(f"{folder} holds no weights: model.safetensors is needed")
        if not bin_weights:
            raise UnsafeCheckpoint(
                f"the weights in {folder} are pickles ({pickled[0].name}): convert them to "
                "safetensors, or allow bin_weights, which reads them as plain tensors"
            )
        return pickled
    for file in files:
        _check_header(file)
    return files


def _check_adapter(folder: Path, bin_weights: bool) -> None:
    file = folder / "adapter_model.safetensors"
    if file.is_file():
        _check_header(file)
    elif not (folder / "adapter_model.bin").is_file():
        raise ModelNotFound(f"{folder} holds no adapter_model.safetensors")
    elif not bin_weights:
        raise UnsafeCheckpoint(
            f"the weights in {folder} are pickles (adapter_model.bin): convert them to "
            "safetensors, or allow bin_weights, which reads them as plain tensors"
        )


def _check_header(file: Path) -> None:
    try:
        with safe_open(file, "pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise CorruptState(f"{file} is truncated or damaged: {error}") from error
