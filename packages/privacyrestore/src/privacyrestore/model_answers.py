"""The frozen model's own answers, with the spans and without: the two sides of the preference.

y⁺ is its answer to the full question, y⁻ its answer to what is left of it (PrivacyRestore, arXiv
2406.01394, section 4.2). Both are generated once, before training, into a file that grows by a
batch at a time and is taken up where it ends.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipogram.errors import CorruptState, InvalidSetting, RunMismatch
from lipogram.files import locked, write_atomically
from lipogram.llm import generate
from lipogram.progress import bar
from privacyrestore.restoration_bank import identify
from privacyrestore.training_rows import PromptTemplate


@dataclass(frozen=True)
class AnswerPair:
    """A model's two answers.

    Attributes:
        preferred: y⁺ as text, without special tokens.
        rejected: y⁻ as text.
        preferred_ids: its token ids, the end of sequence included where the model wrote it.
        rejected_ids: those of y⁻.
    """

    preferred: str
    rejected: str
    preferred_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]


def answer_pairs(
    model: Any,
    tokenizer: Any,
    questions: Sequence[tuple[str, str]],
    path: str | Path,
    *,
    template: PromptTemplate | None = None,
    max_new_tokens: int = 256,
    batch_size: int = 16,
) -> list[AnswerPair]:
    """Greedy answers to questions with and without their spans, kept in a file.

    Killed at any instant, the same call goes on after the last whole line.

    Args:
        model: the frozen model, not restored.
        tokenizer: its tokenizer.
        questions: pairs (q, q⁻).
        path: JSON lines: the settings, then one object a question. It holds the answers to full
            questions and belongs where those belong.
        template: how a question is put; None for the chat template.
        max_new_tokens: of an answer, at most.
        batch_size: questions at a time; each is two rows.

    Returns:
        One pair a question, in their order.

    Raises:
        InvalidSetting: no questions, or a batch size below 1; and as `lipogram.llm.generate`.
        InvalidProbes, NotFinite, OverBudget: as `lipogram.llm.generate`.
        RunMismatch: the file is of other questions, another model or other settings.
        CorruptState: a line that is no answer.
        FolderInUse: another process is writing the file.
    """
    template, path = template or PromptTemplate(), Path(path)
    if not questions or batch_size < 1:
        raise InvalidSetting(f"{len(questions)} questions, {batch_size} at a time: one at least")
    prompts = [[template.prompt(tokenizer, text) for text in pair] for pair in questions]
    settings = json.dumps([prompts, template.add_special_tokens, max_new_tokens])
    head = {
        "model": identify(model).config_sha256,
        "settings": hashlib.sha256(settings.encode()).hexdigest(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path), bar("answers", len(prompts)) as advance:
        done = _begun(path, head, len(prompts))
        advance(len(done))
        with open(path, "ab") as file:
            while len(done) < len(prompts):
                some = prompts[len(done) : len(done) + batch_size]
                said = generate(
                    model,
                    tokenizer,
                    [text for pair in some for text in pair],
                    max_new_tokens=max_new_tokens,
                    batch_size=2 * batch_size,
                    add_special_tokens=template.add_special_tokens,
                )
                found = [
                    AnswerPair(plus.text, minus.text, tuple(plus.ids), tuple(minus.ids))
                    for plus, minus in zip(said[::2], said[1::2], strict=True)
                ]
                lines = [json.dumps(vars(pair), ensure_ascii=False) + "\n" for pair in found]
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())
                done += found
                advance(len(found))
    return done


def _begun(path: Path, head: dict[str, str], total: int) -> list[AnswerPair]:
    """What the file holds; a last line that was torn in writing is cut off."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if not whole:
        write_atomically(path, (json.dumps(head) + "\n").encode())
        return []
    lines = whole.splitlines()
    if _read(path, 0, lines[0]) != head:
        raise RunMismatch(
            f"{path} holds answers of another model, to other questions or under other settings: "
            "choose another file, or remove it"
        )
    found = []
    for number, line in enumerate(lines[1:], 1):
        value = _read(path, number, line)
        try:
            ids = [tuple(map(int, value[f"{side}_ids"])) for side in ("preferred", "rejected")]
            found.append(AnswerPair(str(value["preferred"]), str(value["rejected"]), *ids))
        except (KeyError, TypeError, ValueError):
            raise CorruptState(f"{path}, line {number + 1} is no pair of answers") from None
    if len(found) > total:
        raise CorruptState(f"{path} holds {len(found)} answers to {total} questions")
    if len(whole) < len(content):
        with open(path, "rb+") as file:
            file.truncate(len(whole))
    return found


def _read(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise CorruptState(f"{path}, line {number + 1} is no JSON object")
    return value
