import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipogram.llm.chat import format_chat
from lipogram.llm.tiny import BOS, EOS, N_TOKENS, PAD, byte_tokenizer
from privacyrestore.api_errors import InvalidField
from privacyrestore.chat_api import prompt_ids

TOKENIZER = byte_tokenizer()
WORDS = st.sampled_from(["<s>", "</s>", "<pad>", "<", "s>", "/s>", " ", "ab", "\ue000", "é"])


def ids(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def test_a_conversation_is_what_the_template_makes_of_it():
    messages = [{"role": "user", "content": "mild cough"}, {"role": "assistant", "content": "so"},
                {"role": "user", "content": ""}]  # fmt: skip
    assert prompt_ids(messages, TOKENIZER) == ids(format_chat(messages, TOKENIZER))


@given(st.lists(WORDS, max_size=12).map("".join))
def test_a_message_writes_no_special_token_and_none_of_it_is_lost(content):
    found = prompt_ids([{"role": "user", "content": content}], TOKENIZER)
    plain = prompt_ids([{"role": "user", "content": "x"}], TOKENIZER)
    special = [BOS, EOS, PAD]
    assert [t for t in found if t in special] == [t for t in plain if t in special]
    start = len("user\n") + 1
    said = bytes(found[start : len(found) - (len(plain) - start - 1)]).decode()
    assert said == content
    assert max(found) < N_TOKENS


def test_a_template_that_refuses_is_not_quoted():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no ' + messages[0]['content']) }}"
    with pytest.raises(InvalidField) as caught:
        prompt_ids([{"role": "user", "content": "finding-07"}], tokenizer)
    assert "finding-07" not in str(caught.value)
    assert caught.value.__cause__ is None
