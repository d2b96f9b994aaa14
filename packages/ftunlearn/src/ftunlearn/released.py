"""Models by name: those that work offline, and those that the paper's authors released."""

from __future__ import annotations

from dataclasses import dataclass

METHODS = {"dpo": "DPO", "grad_diff": "GradDiff"}
CONCEPTS = {
    "llama2-7b": (16, 18, 21, 26, 27, 38, 42, 47, 49, 54),
    "olmo-7b": (4, 37, 40, 44, 59, 77, 90, 105, 141, 147),
}
VANILLA = {"llama2-7b": "meta-llama/Llama-2-7b-chat-hf", "olmo-7b": "allenai/OLMo-7B"}
_NOTES = {
    "llama2-7b": "Llama 2's licence has to be accepted there",
    "olmo-7b": "these are in OLMo's first format: convert them to the one of transformers first",
}


@dataclass(frozen=True)
class NamedModels:
    """Models that a command takes by name, of one kind.

    Attributes:
        pattern: their name; of several, with what they differ in between braces.
        names: what to type.
        what: what they are.
        found: those that are on this machine, and where.
        needs: what brings them.
    """

    pattern: str
    names: tuple[str, ...]
    what: str
    found: dict[str, str]
    needs: str


def named_models() -> list[NamedModels]:
    """Every named model, and whether it is here. No network is used."""
    from lipogram.assets import find

    asset = find("smollm2")
    models = [
        NamedModels(
            "tiny-random",
            ("tiny-random",),
            "random weights, for trying out",
            {"tiny-random": "built in"},
            "nothing",
        ),
        NamedModels(
            "smollm2",
            ("smollm2",),
            "SmolLM2-135M-Instruct, 4-bit GGUF",
            {} if asset is None else {"smollm2": str(asset)},
            "93 MB, fetched once from the package index",
        ),
    ]
    for family, vanilla in VANILLA.items():
        models.append(_of_hub(vanilla, ("",), f"{family} before unlearning", _NOTES[family]))
        for method, name in METHODS.items():
            pattern = f"YihuaiHong/{family}_{method}_unlearn_on_id_{{}}_concept"
            ids, what = tuple(map(str, CONCEPTS[family])), f"{family} unlearned by {name}"
            models.append(_of_hub(pattern, ids, what, _NOTES[family]))
    return models


def _of_hub(pattern: str, ids: tuple[str, ...], what: str, note: str) -> NamedModels:
    from huggingface_hub import try_to_load_from_cache

    names = tuple(pattern.format(i) for i in ids)
    places = {name: try_to_load_from_cache(name, "config.json") for name in names}
    found = {name: place for name, place in places.items() if isinstance(place, str)}
    shown = pattern.format("{" + ",".join(ids) + "}")
    return NamedModels(shown, names, what, found, f"the Hugging Face hub, about 14 GB each; {note}")
