"""How a model of transformers is told which languages to translate between."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from lipogram.errors import InvalidSetting

_NLLB = re.compile(r"[a-z]{2,3}_(?:[A-Z][a-z]{3}|[A-Z]{2})")  # eng_Latn, en_XX
_PAIR = re.compile(r"translation_(.+)_to_(.+)")


@dataclass(frozen=True)
class Direction:
    """From which language into which.

    Attributes:
        prefix: text before every source.
        src_lang: what the tokenizer has to be set to; None where it has no such setting.
        start: the decoder's inputs before the first target token.
        tags: token ids of languages, which are no part of any translation.
    """

    prefix: str
    src_lang: str | None
    start: tuple[int, ...]
    tags: frozenset[int] = frozenset()


def language_codes(tokenizer: Any) -> dict[str, int]:
    """Languages of a multilingual tokenizer (M2M100, NLLB, mBART) and their tokens; or none."""
    if not hasattr(tokenizer, "src_lang"):
        return {}
    found = getattr(tokenizer, "lang_code_to_id", None)
    if found:
        return dict(found)
    vocabulary = tokenizer.get_vocab()
    special = [str(token) for token in tokenizer.all_special_tokens]
    return {token: vocabulary[token] for token in special if _NLLB.fullmatch(token)}


def direction(
    tokenizer: Any,
    settings: Any,
    *,
    start: int | None,
    forced: int | None,
    src_lang: str | None,
    tgt_lang: str | None,
    prefix: str | None,
) -> Direction:
    """What a model needs to be told, from the languages or the text that its user names.

    Args:
        tokenizer: of the model.
        settings: `config` of the model.
        start: token that the decoder starts with.
        forced: token that generation forces after it.
        src_lang: source language, as the tokenizer writes it.
        tgt_lang: target language, as the tokenizer writes it.
        prefix: text before every source, of T5-like models ("translate English to German: ",
            "<2de> "); "" for none.

    Raises:
        InvalidSetting: a language that is missing, unknown or not wanted, with those that there
            are; or a decoder without a start.
    """
    named = src_lang is not None or tgt_lang is not None
    if named and prefix is not None:
        raise InvalidSetting("prefix takes the place of src_lang and tgt_lang: give one of the two")
    if codes := language_codes(tokenizer):
        if prefix is not None:
            raise InvalidSetting("this model takes src_lang and tgt_lang, and no prefix")
        source, target = _known(src_lang, codes, "src_lang"), _known(tgt_lang, codes, "tgt_lang")
        # mBART-cc25 starts from the language alone; its successors from </s> and the language.
        alone = type(tokenizer).__name__.startswith("MBartTokenizer")
        first = () if alone else (_start(start),)
        return Direction("", source, (*first, codes[target]), frozenset(codes.values()))
    inputs = (_start(start),) if forced is None else (_start(start), forced)
    if tags := getattr(tokenizer, "supported_language_codes", None):  # Marian, several targets
        tokens = frozenset(tokenizer.convert_tokens_to_ids(tag) for tag in tags)
        if prefix is not None:
            return Direction(prefix, None, inputs, tokens)
        if src_lang is not None:
            raise InvalidSetting("this model is told its target language alone: leave out src_lang")
        bare = {tag.strip("<>"): tag for tag in tags}
        tag = bare[_known(tgt_lang and tgt_lang.strip("<>"), bare, "tgt_lang")]
        return Direction(f"{tag} ", None, inputs, tokens)
    tasks = getattr(settings, "task_specific_params", None) or {}
    pairs = {m.groups(): tasks[m.string] for m in map(_PAIR.fullmatch, map(str, tasks)) if m}
    if prefix is None and pairs:
        if (src_lang, tgt_lang) not in pairs:
            shown = ", ".join(f"{a} to {b}" for a, b in sorted(pairs))
            raise InvalidSetting(
                f"this model translates {shown}: pass src_lang and tgt_lang, or prefix="
                ' with the text before every source (prefix="" for none); '
                f"got {src_lang!r} to {tgt_lang!r}"
            )
        prefix = str(pairs[src_lang, tgt_lang].get("prefix", ""))
    elif named:
        raise InvalidSetting(
            f"this model has no language tags, so src_lang={src_lang!r} and tgt_lang={tgt_lang!r} "
            "say nothing to it: leave them out, or give its prefix="
        )
    return Direction(prefix or "", None, inputs)


def _start(token: int | None) -> int:
    if token is None:
        raise InvalidSetting("the model does not say which token its decoder starts with")
    return token


def _known(language: str | None, known: dict[str, Any], which: str) -> str:
    if language is None:
        raise InvalidSetting(f"this model needs {which}, one of {', '.join(sorted(known))}")
    if language not in known:
        raise InvalidSetting(f"{which} {language!r} is none of {', '.join(sorted(known))}")
    return language
