"""What several commands take: which model, how it decides, which sentences."""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from psfuture.backend import Backend
    from psfuture.policies import Limits, Policy

POLICY = "psfuture"

Source = Annotated[
    Path,
    typer.Argument(metavar="SOURCE", help="Sentences, one a line, or a .tsv of `psfuture data`."),
]
References = Annotated[
    Path | None, typer.Option("--refs", help="Their translations, one a line; a .tsv has them.")
]
First = Annotated[int | None, typer.Option(help="Take the first sentences only.", min=1)]
PolicyText = Annotated[
    str,
    typer.Option(
        "--policy",
        help="psfuture:0.1, wait:3, agreement:2, hold:4, alignatt:2, agree or offline.",
    ),
]
Tokenizer = Annotated[str, typer.Option(help="Of BLEU: 13a, zh, ja-mecab, char, … of sacrebleu.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@dataclass(frozen=True)
class ModelOptions:
    """Which model."""

    model: Annotated[
        str,
        typer.Option(help="enpt, pten, bergamot:DIR, fairseq:FILE, or a folder or id of the hub."),
    ] = "enpt"
    src_lang: Annotated[str | None, typer.Option(help="Of a multilingual model.")] = None
    tgt_lang: Annotated[str | None, typer.Option(help="Of a multilingual model.")] = None
    prefix: Annotated[str | None, typer.Option(help="Text before each source, for T5.")] = None
    src_dict: Annotated[Path | None, typer.Option(help="Of a fairseq model.")] = None
    tgt_dict: Annotated[Path | None, typer.Option(help="Of a fairseq model.")] = None
    bpe: Annotated[Path | None, typer.Option(help="Codes or .model of a fairseq model.")] = None
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto"
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto"

    @property
    def future(self) -> str:
        """What is invented unless told otherwise."""
        from psfuture.policy_text import default_future

        return default_future(self.model, self.src_lang)

    def load(self) -> Backend:
        """The model; of several processes on one machine each takes a GPU of its own."""
        from psfuture.models import load

        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.device == "auto" and "LOCAL_RANK" in os.environ:
            import torch

            if torch.cuda.is_available():
                values["device"] = f"cuda:{os.environ['LOCAL_RANK']}"
        return load(values.pop("model"), **values)


@dataclass(frozen=True)
class DecisionOptions:
    """What a policy needs beside its name."""

    future: Annotated[
        str | None,
        typer.Option(
            help='lm, lm:MODEL, "fixed: and so on.", ellipsis, eos, frequent:FILE, …; lm by '
            "default where the source is known to be English."
        ),
    ] = None
    divergence: Annotated[
        str | None, typer.Option(help="cosine, js, kl, tv, l2, agree or topk_cosine.")
    ] = None
    prefix_eos: Annotated[
        bool,
        typer.Option(
            "--prefix-eos/--no-prefix-eos", help="Close prefixes with the end of sentence."
        ),
    ] = True
    min_reads: Annotated[int, typer.Option(help="Words read before the first is written.")] = 1
    max_consecutive_reads: Annotated[int | None, typer.Option(help="Then a token is written.")] = (
        None
    )
    max_consecutive_writes: Annotated[int | None, typer.Option(help="Then a word is read.")] = None
    max_words_per_read: Annotated[
        int | None, typer.Option(help="Words begun after each word read; 1 writes evenly.")
    ] = None
    unit: Annotated[str, typer.Option(help="word, or char for Chinese and Japanese.")] = "word"

    def limits(self) -> Limits:
        """See :class:`psfuture.policies.Limits`."""
        from psfuture.policies import Limits

        return Limits(
            self.min_reads,
            self.max_consecutive_reads,
            self.max_consecutive_writes,
            self.max_words_per_read,
        )

    def policy(self, text: str, model: ModelOptions) -> Policy:
        """The policy of that text."""
        (policy,) = self.policies([text], [self.prefix_eos], model)
        return policy

    def policies(
        self, texts: Sequence[str], prefixes: Sequence[bool], model: ModelOptions
    ) -> list[Policy]:
        """A policy for each text and prefix setting, with one future between them."""
        from lipogram.errors import InvalidSetting
        from psfuture.policy_text import make_future, make_policy
        from psfuture.units import check_unit

        check_unit(self.unit)
        more: dict[str, Any] = {}
        if self.divergence is not None:
            more["divergence"] = self.divergence
        asking = [text for text in texts if text.partition(":")[0] in ("psfuture", "agree")]
        if asking:
            more["future"] = make_future(self.future or model.future)
        if not asking and (self.future is not None or self.divergence is not None):
            raise InvalidSetting("--future and --divergence are for psfuture and agree")
        return [
            make_policy(
                text,
                prefix_eos=closed,
                limits=self.limits(),
                **(more if text in asking else {}),
            )
            for closed in prefixes
            for text in texts
        ]

    def families(
        self, texts: Sequence[str], prefixes: Sequence[bool], model: ModelOptions
    ) -> dict[str, list[Policy]]:
        """Policies by their name, from texts like `wait:1,3`."""
        parted = [text.partition(":") for text in texts]
        every = [
            (name, f"{name}:{knob}" if knob else name)
            for name, _, knobs in parted
            for knob in knobs.split(",")
        ]
        made = self.policies([text for _, text in every], prefixes, model)
        names = [name for _ in prefixes for name, _ in every]
        found: dict[str, list[Policy]] = {name: [] for name in names}
        for name, policy in zip(names, made, strict=True):
            found[name].append(policy)
        return found


@dataclass(frozen=True)
class CalibrationOptions:
    """A threshold by the latency that it has."""

    calibration: Annotated[
        Path | None,
        typer.Option(help="psfuture_policy.json of `psfuture calibrate`, in place of --policy."),
    ] = None
    level: Annotated[str, typer.Option(help="Of the calibration: low, medium, high.")] = "medium"

    def policy(
        self, text: str, decisions: DecisionOptions, model: ModelOptions, backend: Backend
    ) -> Policy:
        """The calibrated policy, or that of the text where there is no calibration."""
        if self.calibration is None:
            return decisions.policy(text, model)
        from lipogram.errors import InvalidSetting
        from psfuture.calibration import Calibration
        from psfuture.policy_text import make_policy

        if text != POLICY or decisions.future or decisions.divergence:
            raise InvalidSetting("--calibration brings its own policy, future and divergence")
        if decisions.max_words_per_read is not None:
            raise InvalidSetting("--calibration brings its own words per read")
        held = Calibration.read(self.calibration, model=backend.name)
        if held.unit != decisions.unit:
            raise InvalidSetting(f"{self.calibration} is for the unit {held.unit}")
        return make_policy(
            f"psfuture:{held.level(self.level).threshold!r}",
            future=held.future,
            prefix_eos=held.prefix_eos,
            divergence=held.divergence,
            reduce=held.reduce,
            write_from=held.write_from,
            limits=replace(decisions.limits(), max_words_per_read=held.max_words_per_read),
        )


def spread(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take groups of options: a parameter of a dataclass becomes its fields."""
    hints = typing.get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        own = typing.get_type_hints(groups[name], include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=own[field.name],
            )
            for field in fields(groups[name])
        ]
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [parameter.replace(kind=kind) for parameter in parameters]

    @functools.wraps(command)
    def gathered(**values: Any) -> Any:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        return command(**made, **values)

    gathered.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    gathered.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return gathered


def sentences(
    source: Path, references: Path | None, first: int | None
) -> tuple[list[str], list[str] | None]:
    """Sentences of a file, and translations where there are any.

    Raises:
        UnreadableText: no such file, or files that do not fit together.
        InvalidSetting: no sentence, or references beside a .tsv, which has its own.
    """
    from lipogram.errors import InvalidSetting
    from psfuture.parallel_text import SentencePairs, file_pairs, read_lines

    if source.suffix == ".tsv":
        if references is not None:
            raise InvalidSetting(f"{source} holds translations itself: --refs is for plain text")
        pairs = SentencePairs.read(source)
    elif references is not None:
        pairs = file_pairs(source, references)
    else:
        lines = read_lines(source)[:first]
        if not lines:
            raise InvalidSetting(f"{source} holds no sentence")
        return lines, None
    if not len(pairs):
        raise InvalidSetting(f"{source} holds no sentence")
    return list(pairs.sources[:first]), list(pairs.targets[:first])


def both(source: Path, references: Path | None, first: int | None) -> tuple[list[str], list[str]]:
    """The same where translations are needed.

    Raises:
        InvalidSetting: there are none.
    """
    from lipogram.errors import InvalidSetting

    lines, translations = sentences(source, references, first)
    if translations is None:
        raise InvalidSetting(f"{source} needs translations: --refs FILE, or a .tsv")
    return lines, translations


def numbers(text: str, option: str) -> list[float]:
    """Numbers by commas.

    Raises:
        InvalidSetting: something else.
    """
    from lipogram.errors import InvalidSetting

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidSetting(f"{option} takes numbers by commas, not {text!r}") from None
