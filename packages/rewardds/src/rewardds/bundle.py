"""The only thing that leaves the client: two proxies, and what they cost in privacy.

What a bundle may hold is a list of names. Optimizer states, gradients, losses, tokenised data and
scores on private records are on no such list, so they cannot get in by accident.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lipogram.errors import CorruptState, FolderInUse, InvalidSetting
from lipogram.files import move_folder
from lipogram.llm.loaded import LoadedModel
from lipogram.llm.loading import load_model
from lipogram.llm.quiet import quiet
from rewardds.generation_proxy import POSED
from rewardds.prompts import Prompts
from rewardds.reward_model import RewardModel

FORMAT = 1
PRIVACY, CONFIG, HASHES = "privacy.json", "config.json", "hashes.json"
GENERATOR, REWARD, HEAD = "generator", "reward", "head.safetensors"

_ALLOWED = re.compile(
    r"privacy\.json|config\.json|hashes\.json|reward/head\.safetensors|"
    r"(generator|reward)/(adapter_config\.json|adapter_model\.safetensors|config\.json|"
    r"generation_config\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json)"
)


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files are those that were written.

    Attributes:
        folder: where it is.
        privacy: what `privacy.json` says.
        config: what `config.json` says: "format", "base", "prompts", "max_length", and further
            settings of the training.
    """

    folder: Path
    privacy: dict[str, Any]
    config: dict[str, Any]

    @property
    def base(self) -> str:
        """Name of the base model of both proxies."""
        return str(self.config["base"])

    @property
    def digest(self) -> str:
        """SHA-256 in hex of `hashes.json`: it stands for all files."""
        return hashlib.sha256((self.folder / HASHES).read_bytes()).hexdigest()

    @property
    def prompts(self) -> Prompts:
        """What the proxies were trained to be asked."""
        return Prompts(**self.config["prompts"])

    @property
    def posed(self) -> bool:
        """Whether the generation proxy learnt to write a question to a given answer."""
        return POSED in self.config.get("tasks", ())

    def load_generator(self, base: Any = None, **how: Any) -> LoadedModel:
        """The generation proxy.

        Args:
            base: a model to put the adapter on, in place; None for the one that :attr:`base` names.
            how: for :func:`lipogram.llm.load_model`: dtype, device ...

        Raises:
            ModelNotFound, CorruptState, InvalidSetting: as :func:`lipogram.llm.load_model`.
        """
        return _load(self.folder / GENERATOR, self.base if base is None else base, how)

    def load_reward(self, base: Any = None, **how: Any) -> LoadedModel:
        """The reward proxy, a :class:`RewardModel`; arguments and errors as above."""
        loaded = _load(self.folder / REWARD, self.base if base is None else base, how)
        model = RewardModel(loaded.model)
        path = self.folder / REWARD / HEAD
        try:
            model.head.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CorruptState(f"{path} is no head of this reward proxy: {error}") from error
        model.requires_grad_(False)
        return LoadedModel(model.eval(), loaded.tokenizer, loaded.info)


def write_bundle(
    folder: str | Path,
    *,
    generator: Any,
    reward: RewardModel,
    privacy: dict[str, Any],
    config: dict[str, Any],
) -> Bundle:
    """Write a bundle: whole, or not at all.

    Args:
        folder: that is not there yet, or empty.
        generator: a PEFT model, of which the adapter is written, a whole causal language model, or
            the folder that :func:`save_proxy` wrote one to.
        reward: the reward proxy; of one whose head alone was trained, the head is written.
        privacy: for `privacy.json`, finite JSON values.
        config: for `config.json`; "base", "prompts" and "max_length" at least.

    Raises:
        InvalidSetting: a setting is missing, or a value that JSON does not know.
        FolderInUse: the folder holds something.
    """
    folder = Path(folder)
    missing = [name for name in ("base", "prompts", "max_length") if name not in config]
    if missing:
        raise InvalidSetting(f"the bundle's config lacks {', '.join(missing)}")
    if folder.exists() and any(folder.iterdir()):
        raise FolderInUse(f"{folder} holds something already: a bundle is written into a new one")
    config = {"format": FORMAT} | config
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        part = Path(temporary) / "bundle"
        part.mkdir()
        if isinstance(generator, Path):
            shutil.copytree(generator, part / GENERATOR)
        else:
            save_proxy(generator, part / GENERATOR, config["base"])
        if reward.trained_below:
            save_proxy(reward.lm, part / REWARD, config["base"])
        (part / REWARD).mkdir(exist_ok=True)
        save_file({"weight": reward.head.weight.detach().cpu().contiguous()}, part / REWARD / HEAD)
        _write_json(part / PRIVACY, privacy)
        _write_json(part / CONFIG, config)
        _write_json(part / HASHES, file_hashes(part))
        _check_names(part)
        move_folder(part, folder)
    return read_bundle(folder)


def read_bundle(folder: str | Path) -> Bundle:
    """A bundle whose names and hashes are right. Whether ε is, :mod:`rewardds.verification` tells.

    Raises:
        CorruptState: no bundle, a file too many or too few, or one whose hash is another.
    """
    folder = Path(folder)
    hashes = _read_json(folder / HASHES)
    _check_names(folder)
    found = file_hashes(folder)
    for name in sorted({*hashes, *found}):
        if hashes.get(name) != found.get(name):
            state = "missing" if name not in found else "not as it was written"
            raise CorruptState(f"{folder / name} is {state}: have the bundle sent again")
    privacy, config = _read_json(folder / PRIVACY), _read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise CorruptState(
            f"{folder} is a bundle of format {config.get('format')!r}; this version reads {FORMAT}"
        )
    try:
        Prompts(**config["prompts"])
        str(config["base"]), int(config["max_length"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptState(f"{folder / CONFIG} lacks what a bundle says: {error}") from error
    return Bundle(folder, privacy, config)


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 in hex of every file of a bundle, by its path in it; `hashes.json` left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != HASHES:
            with open(path, "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def save_proxy(model: Any, folder: Path, base: str) -> None:
    """Write what was trained of a model: its adapter, or all of it where it has none."""
    # PEFT would ask the hub whether the base's vocabulary was changed; no proxy changes it.
    how = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}
    with quiet():
        model.save_pretrained(folder, **how)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    if path.exists():  # PEFT writes the path of this machine
        _write_json(path, _read_json(path) | {"base_model_name_or_path": base})


def _load(folder: Path, base: Any, how: dict[str, Any]) -> LoadedModel:
    if not any((folder / name).exists() for name in ("adapter_config.json", "config.json")):
        return load_model(base, **how)  # nothing but a head was trained
    if (folder / "adapter_config.json").exists():
        return load_model(base, adapter=folder, **how)
    from lipogram.llm.loading import load_tokenizer

    tokenizer = base.tokenizer if isinstance(base, LoadedModel) else load_tokenizer(base)
    return load_model(folder, tokenizer=tokenizer, **how)


def _check_names(folder: Path) -> None:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or _ALLOWED.fullmatch(name)):
            raise CorruptState(
                f"{path} does not belong into a bundle: nothing but proxies, their settings and "
                "their privacy leaves the client"
            )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")
    except (TypeError, ValueError) as error:
        raise InvalidSetting(f"{path.name} cannot be written as JSON: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptState(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CorruptState(f"{path} holds no object")
    return content
