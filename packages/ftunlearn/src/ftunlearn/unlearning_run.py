"""What `ftunlearn unlearn` does: names in, a model's folder out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftunlearn.options import probes_of
from ftunlearn.records import read_records
from ftunlearn.unlearn_config import PRESETS, UnlearnConfig
from ftunlearn.unlearning import unlearn
from lipogram.errors import InvalidProbes, InvalidSetting
from lipogram.llm.loading import load_model
from lipogram.llm.tuning import lora_config, training_args


def run_unlearning(
    folder: Path,
    *,
    model: str | None = None,
    probes: str | None = None,
    forget: Path | None = None,
    retain: Path | None = None,
    preset: str | None = None,
    lora: bool = False,
    device: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
    **settings: Any,
) -> dict[str, Any]:
    """Train a model to forget and write it.

    Args:
        folder: for the model, or for the adapter.
        model: as :func:`lipogram.llm.load_model` takes it.
        probes: whose group "forget" is forgotten and whose group "retain" is kept.
        forget: in place of probes, texts: a .txt, or JSON lines with `text`.
        retain: the same.
        preset: of :data:`ftunlearn.unlearn_config.PRESETS`.
        lora: train an adapter only.
        device: where to train.
        progress: told what is being worked on.
        settings: of :class:`ftunlearn.unlearn_config.UnlearnConfig`.

    Returns:
        Steps, why training stopped, and the forget answers' probability before and after.

    Raises:
        InvalidSetting: a setting that is not known or lacking, or a folder that is taken.
        InvalidProbes: files that hold nothing to forget.
    """
    if model is None:
        raise InvalidSetting("--model is needed")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidSetting(f"{folder} is there and not empty: choose another folder")
    if (probes is None) == (forget is None):
        raise InvalidSetting("either --probes or --forget (and --retain) is needed")
    if preset is not None and preset not in PRESETS:
        raise InvalidSetting(f"no preset {preset!r}; there are {', '.join(PRESETS)}")
    config = training_args(UnlearnConfig, **(PRESETS[preset] if preset else {}) | settings)
    to_forget: Any
    to_keep: Any
    if probes is not None:
        held = probes_of(probes)
        to_forget, to_keep = held.group("forget"), held.group("retain")
    else:
        assert forget is not None
        to_forget = _texts(Path(forget))
        to_keep = [] if retain is None else _texts(Path(retain))
    progress(f"loading {model}")
    loaded = load_model(model, dtype="float32", device=device, trainable=True)
    progress("unlearning")
    done = unlearn(
        loaded,
        None,
        to_forget,
        to_keep if len(to_keep) else None,
        config,
        peft_config=lora_config(loaded.model) if lora else None,
    )
    done.save(folder)
    measured = done.forget_prob
    figures: dict[str, Any] = {"steps": done.steps, "stopped by": done.stopped}
    if measured:
        figures["probability of the answers before"] = measured[min(measured)]
        figures["probability of the answers after"] = measured[max(measured)]
    return figures


def _texts(path: Path) -> list[str]:
    if path.suffix == ".txt":
        try:
            return [path.read_text(encoding="utf-8")]
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidProbes(f"{path} cannot be read: {error}") from error
    items, problems = read_records(path)
    texts = [item["text"] for _, item in items if isinstance(item.get("text"), str)]
    if not texts:
        raise InvalidProbes(f"{path} holds no item with a text: {'; '.join(problems[:3])}")
    return texts
