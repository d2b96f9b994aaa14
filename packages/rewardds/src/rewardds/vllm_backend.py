"""Text from vLLM, which batches by itself and has kernels of its own."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lipogram.errors import InvalidSetting, MissingExtra
from lipogram.llm.text import encode
from rewardds.backends import (
    DRAWING,
    Completion,
    Drawing,
    Prompt,
    check_draws,
    draw_seed,
    turn_end,
)
from rewardds.prompts import prompt_text


class VLLMBackend:
    """:class:`rewardds.backends.Backend` over `vllm.LLM.generate`.

    It is given token ids, those that :class:`rewardds.hf_backend.HFBackend` gives, and not turns:
    `vllm.LLM.chat` would let the chat template add a system message of its own. Each draw is a
    request with a seed of its own.

    Args:
        model: hub id or folder, or a `vllm.LLM` that runs already.
        adapter: folder of a LoRA adapter, of rank 64 at most; an LLM that runs already must have
            been made with `enable_lora=True`.
        options: of `vllm.LLM`, where `model` is a name; such as tensor_parallel_size.

    Raises:
        MissingExtra: vLLM is not installed.
        InvalidSetting: options for an LLM that runs already.
    """

    def __init__(self, model: Any, *, adapter: str | Path | None = None, **options: Any):
        try:
            vllm = import_module("vllm")
            lora = import_module("vllm.lora.request")
        except ImportError as error:
            raise MissingExtra("vllm", "pip install vllm (Linux with an accelerator)") from error
        named = isinstance(model, (str, Path))
        if options and not named:
            raise InvalidSetting(
                f"{', '.join(sorted(options))}: an LLM that runs already has its options"
            )
        if named and adapter is not None:
            options = {"enable_lora": True, "max_lora_rank": 64} | options
        self._llm: Any = vllm.LLM(model=str(model), **options) if named else model
        self._params = vllm.SamplingParams
        self._lora = None if adapter is None else lora.LoRARequest("adapter", 1, str(adapter))
        self.tokenizer = self._llm.get_tokenizer()
        self._end = turn_end(self.tokenizer)

    def generate(
        self, prompts: Sequence[Prompt], n: int = 1, drawing: Drawing = DRAWING
    ) -> list[tuple[Completion, ...]]:
        """As the protocol says.

        Raises:
            InvalidSetting: n, or turns that the chat template refuses.
        """
        check_draws(n, drawing)
        longest = self._llm.llm_engine.model_config.max_model_len
        rows = [self._ids(prompt) for prompt in prompts]
        draws = [
            (i, k)
            for i, row in enumerate(rows)
            if len(row) + drawing.max_new_tokens <= longest
            for k in range(n)
        ]
        asked = [{"prompt_token_ids": rows[i]} for i, _ in draws]
        how = [self._how(draw_seed(prompts[i].key, k, drawing.seed), drawing) for i, k in draws]
        options = {} if self._lora is None else {"lora_request": self._lora}
        told = self._llm.generate(asked, how, use_tqdm=False, **options) if asked else []
        found = {
            draw: Completion(
                output.outputs[0].text,
                "stop" if output.outputs[0].finish_reason == "stop" else "length",
            )
            for draw, output in zip(draws, told, strict=True)
        }
        nothing = Completion("", "context")
        return [tuple(found.get((i, k), nothing) for k in range(n)) for i in range(len(prompts))]

    def _ids(self, prompt: Prompt) -> list[int]:
        text = prompt_text(self.tokenizer, list(prompt.turns))
        return encode(self.tokenizer, text, [], add_special_tokens=False).prompt_ids

    def _how(self, seed: int, drawing: Drawing) -> Any:
        return self._params(
            n=1,
            temperature=drawing.temperature,
            top_p=drawing.top_p if drawing.temperature else 1.0,
            max_tokens=drawing.max_new_tokens,
            seed=seed,
            stop_token_ids=[] if self._end is None else [self._end],
            skip_special_tokens=True,
        )
