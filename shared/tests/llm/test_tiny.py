import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipogram.errors import InvalidSetting
from lipogram.llm.tiny import TINY_TYPES, byte_tokenizer, tiny_random

IDS = torch.tensor([[72, 101, 108, 108, 111], [119, 111, 114, 108, 100]])
TOKENIZER, WITH_BOS = byte_tokenizer(), byte_tokenizer(bos=True)


@pytest.mark.parametrize("model_type", TINY_TYPES)
def test_logits_vary_and_the_seed_decides(model_type: str):
    before = torch.random.get_rng_state()
    one, same, other = (tiny_random(model_type, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.info.model_type == model_type
    assert not one.model.training
    assert {p.device.type for p in one.model.parameters()} == {"cpu"}
    with torch.inference_mode():
        logits, again, others = (tiny.model(IDS).logits for tiny in (one, same, other))
    assert logits.shape == (2, 5, 259)
    assert torch.equal(logits, again)
    assert 0.5 < logits.std(-1).mean() < 3
    assert (logits - others).abs().mean() > 0.5
    # Norms and biases too differ between seeds; the padding row of an embedding does not.
    for name, parameter in one.model.named_parameters():
        assert not torch.equal(parameter, other.model.get_parameter(name)), name


def test_layers_width_and_settings():
    model = tiny_random("mistral", layers=2, width=48, sliding_window=7).model
    assert len(model.model.layers) == 2
    assert model.config.hidden_size == 48
    assert model.config.sliding_window == 7
    for wrong in ({"layers": 0}, {"width": 24}, {"width": 0}, {"model_type": "bert"}):
        with pytest.raises(InvalidSetting):
            tiny_random(**wrong)


@given(st.text())
def test_tokens_are_the_bytes(text: str):
    encoded = TOKENIZER(text, return_offsets_mapping=True)
    assert encoded["input_ids"] == list(text.encode())
    assert TOKENIZER.decode(encoded["input_ids"]) == text
    starts = [start for start, _ in encoded["offset_mapping"]]
    assert starts == [i for i, letter in enumerate(text) for _ in letter.encode()]
    assert WITH_BOS(text)["input_ids"] == [257, *text.encode()]


def test_chat_marks_the_words_of_the_assistant_and_the_end():
    chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "de"},
    ]
    said = TOKENIZER.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    masked = zip(said["input_ids"], said["assistant_masks"], strict=True)
    assert [token for token, mine in masked if mine] == [98, 258, 100, 101, 258]
    asked = TOKENIZER.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<s>user\na</s>\n<s>assistant\n"
