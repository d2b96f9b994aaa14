"""From the bytes of a body to a request of the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from privacyrestore.admission import Limits
from privacyrestore.api_errors import ApiError, InvalidField
from privacyrestore.api_schema import Asked
from privacyrestore.batch_engine import BatchEngine
from privacyrestore.engine_request import Request
from privacyrestore.errors import BankMismatch
from privacyrestore.payload import bank_of, decode
from privacyrestore.strict_json import read_object


@dataclass(frozen=True)
class RequestReader:
    """Reads bodies for one engine.

    Attributes:
        engine: that will run the requests.
        model_name: the only one that a request may name.
        limits: of a client.
    """

    engine: BatchEngine
    model_name: str
    limits: Limits

    def read(
        self,
        body: bytes,
        check: Callable[[dict[str, Any]], Asked],
        prompt_ids: Callable[[Any, Any], list[int]],
    ) -> tuple[Request, Asked]:
        """A request that the engine may take, and what else was asked for.

        Args:
            body: the whole of it.
            check: reads its fields.
            prompt_ids: makes token ids of a prompt with a tokenizer.

        Raises:
            InvalidSetting: no JSON, or fields of another form.
            ApiError: 404, another model.
            BankMismatch, InvalidPayload: a vector for another bank, or of another shape.
        """
        asked = check(read_object(body))
        if asked.model is not None and asked.model != self.model_name:
            raise ApiError(
                404, "no such model here: see /v1/models", "model_not_found", param="model"
            )
        most = self.limits.answer_tokens
        if asked.max_tokens is not None and asked.max_tokens > most:
            raise InvalidField("max_tokens", f"more than {most} new tokens are not given")
        meta = bank = None
        if asked.restore is not None:
            bank = bank_of(asked.restore)
            if (held := self.engine.steered.banks.get(bank)) is None:
                raise BankMismatch("no such bank here")
            meta = decode(asked.restore, held, max_norm=self.limits.max_norm)
        ids = prompt_ids(asked.prompt, self.engine.steered.tokenizer)
        return (
            Request(
                prompt_ids=ids,
                meta=meta,
                bank=bank,
                max_new_tokens=asked.max_tokens or self._usual(asked, len(ids)),
                temperature=asked.temperature,
                top_p=asked.top_p,
                seed=asked.seed,
                stop=asked.stop,
            ),
            asked,
        )

    def _usual(self, asked: Asked, n_prompt: int) -> int:
        """New tokens where no number is named: as many as usual, or as there is room for."""
        engine = self.engine
        room = min(engine.max_tokens, engine.context or engine.max_tokens) - n_prompt
        usual = asked.usual_tokens or self.limits.chat_tokens
        return max(1, min(usual, self.limits.answer_tokens, room))
