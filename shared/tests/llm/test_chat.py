import pytest

from lipogram.errors import InvalidSetting
from lipogram.llm.chat import encode_chat, format_chat
from lipogram.llm.text import encode
from lipogram.llm.tiny import BOS, CHAT_TEMPLATE, EOS, byte_tokenizer

UNMARKED = CHAT_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", "")
WITHOUT_END = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
WITH_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}{{ 'system: Be brief.\n' }}{% endif %}" + WITHOUT_END
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    + WITHOUT_END
)
FORGETFUL = (
    "{% for message in messages %}{{ message['role'] + ': ' }}"
    "{{ message['content'] if loop.last else message['content'][:1] }}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
TURNS = [
    {"role": "user", "content": "Hé?"},
    {"role": "assistant", "content": " é yes "},
    {"role": "user", "content": "assistant\nNo"},
    {"role": "assistant", "content": "…"},
]


def tokenizer(template: str | None, *, bos: bool = False):
    found = byte_tokenizer(bos=bos)
    found.chat_template = template
    return found


def said(chat, found) -> list[str]:
    """What is marked, turn by turn."""
    runs: list[list[int]] = []
    marked = [False, *chat.assistant]
    for token, before, now in zip(chat.ids, marked, chat.assistant, strict=False):
        if now and not before:
            runs.append([])
        if now:
            runs[-1].append(token)
    return [found.decode(run) for run in runs]


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("template", [CHAT_TEMPLATE, UNMARKED])
def test_the_mask_is_the_assistants_words_and_the_end_of_its_turn(template, bos):
    found = tokenizer(template, bos=bos)
    chat = encode_chat(TURNS, found)
    assert said(chat, found) == [" é yes </s>", "…</s>"]
    assert found.decode(chat.ids) == format_chat(TURNS, found, add_generation_prompt=False)
    ids = found.apply_chat_template(TURNS, tokenize=True, return_dict=True)["input_ids"]
    assert chat.ids == ids


def test_without_an_end_token_the_turn_is_what_the_template_wrote():
    found = tokenizer(WITHOUT_END)
    assert said(encode_chat(TURNS, found), found) == [" é yes \n", "…\n"]


def test_a_template_that_forgets_is_refused_unless_it_marks():
    with pytest.raises(InvalidSetting, match="message 1 differently"):
        encode_chat(TURNS, tokenizer(FORGETFUL))
    words = "{{ message['content'] if loop.last else message['content'][:1] }}"
    branch = "{% if message['role'] == 'assistant' %}{% generation %}WORDS{% endgeneration %}"
    marked = FORGETFUL.replace(
        words, (branch + "{% else %}WORDS{% endif %}").replace("WORDS", words)
    )
    found = tokenizer(marked)
    assert said(encode_chat(TURNS, found), found) == [" ", "…"]


def test_a_conversation_without_the_assistant_has_an_empty_mask():
    chat = encode_chat(TURNS[:1], tokenizer(UNMARKED))
    assert not any(chat.assistant)
    assert len(chat.assistant) == len(chat.ids)


def test_no_template_gives_the_plain_one_and_a_warning():
    found = tokenizer(None, bos=True)
    with pytest.warns(UserWarning, match="no chat template"):
        text = format_chat(TURNS[:1], found)
    assert text == "<s>User: Hé?\nAssistant:"
    with pytest.warns(UserWarning, match="no chat template"):
        chat = encode_chat(TURNS, found, system="Be kind.")
    assert said(chat, found) == ["  é yes </s>", " …</s>"]
    assert found.decode(chat.ids).startswith("<s>System: Be kind.\nUser: Hé?\nAssistant:  é")
    with pytest.warns(UserWarning, match="no chat template"):
        assert format_chat(TURNS[:1], tokenizer(None), system="") == "User: Hé?\nAssistant:"


def test_the_beginning_of_sequence_is_there_once():
    found = tokenizer(CHAT_TEMPLATE, bos=True)
    text = format_chat(TURNS[:1], found)
    chat = encode_chat(TURNS[:1], found)
    for row in (encode(found, text, []), encode(found, text, [], add_special_tokens=False)):
        assert row.prompt_ids[:2] == [BOS, ord("u")]
        assert row.prompt_ids[: len(chat.ids)] == chat.ids
    assert chat.ids.count(BOS) == 1
    assert chat.ids[-2:] == [EOS, ord("\n")]


def test_system_replaces_the_templates_own():
    found = tokenizer(WITH_DEFAULT)
    turn = TURNS[:1]
    assert format_chat(turn, found).startswith("system: Be brief.\nuser:")
    assert format_chat(turn, found, system="Sing.").startswith("system: Sing.\nuser:")
    assert format_chat(turn, found, system="").startswith("system: \nuser:")
    assert said(encode_chat(TURNS, found, system=""), found) == [" é yes \n", "…\n"]
    with pytest.raises(InvalidSetting, match="system is given too"):
        format_chat([{"role": "system", "content": "a"}, *turn], found, system="b")


def test_a_template_without_system_messages_gets_none_or_says_so():
    found = tokenizer(NO_SYSTEM)
    assert format_chat(TURNS[:1], found, system="") == "user: Hé?\nassistant: "
    assert said(encode_chat(TURNS, found, system=""), found) == [" é yes \n", "…\n"]
    with pytest.raises(InvalidSetting, match="no system turns"):
        format_chat(TURNS[:1], found, system="Sing.")


def test_nothing_to_format_is_refused():
    with pytest.raises(InvalidSetting, match="at least one message"):
        format_chat([], tokenizer(UNMARKED))
    with pytest.raises(InvalidSetting, match="before the assistant's"):
        encode_chat(TURNS[1:], tokenizer(UNMARKED))


def test_smollm2(smollm2):
    found = smollm2.tokenizer
    assert "helpful" in format_chat(TURNS[:1], found)
    assert format_chat(TURNS[:1], found, system="") == (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nHé?<|im_end|>\n<|im_start|>assistant\n"
    )
    chat = encode_chat(TURNS, found)
    assert said(chat, found) == [" é yes <|im_end|>", "…<|im_end|>"]
    marked, found.chat_template = (
        found.chat_template,
        found.chat_template.replace("{% generation %}", "").replace("{% endgeneration %}", ""),
    )
    try:
        assert "generation %}" not in found.chat_template
        assert encode_chat(TURNS, found) == chat
    finally:
        found.chat_template = marked
