"""Conversations as a model was taught to read them, and which tokens are the assistant's."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from lipogram.errors import InvalidSetting
from lipogram.llm.text import offset_mapping, special_prefix

Message = Mapping[str, str]

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ 'Assistant:' }}{% generation %}{{ ' ' + message['content'] + eos_token }}"
    "{% endgeneration %}{{ '\\n' }}"
    "{% elif message['role'] != 'system' or message['content'] %}"
    "{{ (message['role'] | capitalize) + ': ' + message['content'] + '\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Written where a tokenizer has no template: "User: ...", "Assistant: ..." and the end token."""

_MARK = re.compile(r"{%-?\s*generation\s*-?%}")


@dataclass(frozen=True)
class EncodedChat:
    """A conversation's token ids, and for each whether the assistant is to say it."""

    ids: list[int]
    assistant: list[bool]


def format_chat(
    messages: Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    *,
    add_generation_prompt: bool = True,
    system: str | None = None,
) -> str:
    """A conversation as one text; tokenise it with `add_special_tokens=False`.

    A tokenizer without a chat template gets :data:`PLAIN_TEMPLATE` after its own beginning of
    sequence, and a warning.

    Args:
        messages: at least one, each with "role" and "content".
        tokenizer: its chat template is used.
        add_generation_prompt: whether the assistant's turn is opened at the end.
        system: a system message to begin with. None leaves it to the template, which may write one
            of its own, as SmolLM2's does; "" gives an empty one, or none where the template knows
            no system messages.

    Raises:
        InvalidSetting: no messages, two system messages, or messages that the template refuses.
    """
    template = _Template(tokenizer)
    return template.render(template.conversation(messages, system), add_generation_prompt)


def encode_chat(
    messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, *, system: str | None = None
) -> EncodedChat:
    """Tokenise a whole conversation and mark what the assistant says, end-of-turn tokens included.

    Where the template marks the assistant's words as generated, its marks count. Otherwise a turn
    is what the template adds to the text before it: from the end of the generation prompt to the
    turn's last special token, or to the turn's end where it has none. A token that straddles the
    beginning of a turn is the assistant's.

    Args:
        messages: at least one, each with "role" and "content".
        tokenizer: one that gives offsets.
        system: see :func:`format_chat`.

    Raises:
        InvalidSetting: what :func:`format_chat` refuses, a tokenizer without offsets, or a template
            without marks that writes earlier turns differently once later ones follow.
    """
    if not tokenizer.is_fast:
        raise InvalidSetting("marking the assistant's tokens needs a tokenizer with offsets")
    template = _Template(tokenizer)
    conversation = template.conversation(messages, system)
    text = template.render(conversation, False)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    offsets = offset_mapping(tokenizer, text)
    if _MARK.search(template.source):
        assistant = template.marked(conversation, len(ids))
        for i in range(1, len(ids)):  # transformers marks the first token of a character only
            assistant[i] |= assistant[i - 1] and offsets[i] == offsets[i - 1]
        return EncodedChat(ids, assistant)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    assistant = [False] * len(ids)
    for turn, message in enumerate(conversation):
        if message["role"] != "assistant":
            continue
        before = template.render(conversation[:turn], True)
        after = template.render(conversation[: turn + 1], False)
        if not (text.startswith(after) and after.startswith(before)):
            raise InvalidSetting(
                f"the chat template writes the turns up to message {turn} differently once others "
                "follow; put {% generation %} marks around the assistant's words in it"
            )
        said = [i for i, (a, b) in enumerate(offsets) if b > len(before) and a < len(after)]
        last = max((i for i in said if ids[i] in special), default=max(said, default=-1))
        for i in said:
            assistant[i] = i <= last
    return EncodedChat(ids, assistant)


class _Template:
    """A tokenizer's chat template, or the plain one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._start = ""
        if tokenizer.chat_template:
            self.source = tokenizer.get_chat_template()
        else:
            warnings.warn(
                "the tokenizer has no chat template; a plain one is used (User: ..., "
                "Assistant: ...)",
                stacklevel=3,
            )
            self.source = PLAIN_TEMPLATE
            self._start = "".join(tokenizer.convert_ids_to_tokens(special_prefix(tokenizer)))

    def conversation(self, messages: Sequence[Message], system: str | None) -> list[dict[str, str]]:
        """The messages, begun by the system message that was asked for."""
        copied = [dict(message) for message in messages]
        if system is None:
            return copied
        if copied and copied[0].get("role") == "system":
            raise InvalidSetting("the messages begin with a system message and system is given too")
        begun = [{"role": "system", "content": system}, *copied]
        if not system:
            try:
                self.render(begun, False)
            except InvalidSetting:
                return copied
        return begun

    def render(self, conversation: list[dict[str, str]], add_generation_prompt: bool) -> str:
        if not conversation:
            raise InvalidSetting("a conversation needs at least one message before the assistant's")
        try:
            text = self._tokenizer.apply_chat_template(
                conversation,
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        except TemplateError as error:
            raise InvalidSetting(f"the chat template refuses the messages: {error}") from error
        return self._start + str(text)

    def marked(self, conversation: list[dict[str, str]], length: int) -> list[bool]:
        """The template's own marks, for the last tokens of `length` ids."""
        encoded: Any = self._tokenizer.apply_chat_template(
            conversation,
            chat_template=self.source,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        marks = [bool(mark) for mark in encoded["assistant_masks"]]
        return [False] * (length - len(marks)) + marks
