"""What the server answers where it does not answer: a status and OpenAI's shape of an error.

No text here repeats anything of a request.
"""

import json
from collections.abc import Mapping
from typing import Any

from lipogram.errors import InvalidSetting, LipogramError, NotFinite, OverBudget
from privacyrestore.errors import (
    BankMismatch,
    EngineClosed,
    EngineFailure,
    Expired,
    InvalidPayload,
    Overloaded,
    TooLong,
)
from privacyrestore.payload import FIELD


class InvalidField(InvalidSetting):
    """A field of a request that is not as it has to be.

    Args:
        param: the field's name, one that this package knows; None for the body itself.
        message: what it must be.
    """

    def __init__(self, param: str | None, message: str):
        super().__init__(message)
        self.param = param


class ApiError(LipogramError):
    """A refusal over HTTP.

    Args:
        status: 4xx or 5xx.
        message: for people; nothing that came with the request.
        code: for programs.
        param: the field at fault.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = dict(headers or {})

    @property
    def content(self) -> dict[str, Any]:
        """The body, as OpenAI's clients read it."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        usual = "invalid_request_error" if self.status < 500 else "server_error"
        error = {
            "message": str(self),
            "type": kinds.get(self.status, usual),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    @property
    def body(self) -> bytes:
        """`content` as JSON."""
        return json.dumps(self.content).encode()


RETRY_AFTER = {"retry-after": "1"}


def api_error(error: BaseException) -> ApiError:
    """How an error of reading, accepting or running a request is told to its client."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BankMismatch):
        message = "this server does not restore with the bank that is asked for"
        return ApiError(409, message, "bank_mismatch", param=FIELD)
    if isinstance(error, InvalidPayload):
        return ApiError(400, str(error), "invalid_payload", param=FIELD)
    if isinstance(error, TooLong):
        return ApiError(400, str(error), "context_length_exceeded")
    if isinstance(error, Overloaded):
        message = "too many requests are waiting: ask again later"
        return ApiError(429, message, "overloaded", headers=RETRY_AFTER)
    if isinstance(error, InvalidSetting):
        return ApiError(400, str(error), "invalid_request", param=getattr(error, "param", None))
    if isinstance(error, Expired):
        return ApiError(504, "the answer was not ready within the server's time", "timeout")
    if isinstance(error, (EngineClosed, OverBudget)):
        message = "the model is not available: ask again later"
        return ApiError(503, message, "unavailable", headers=RETRY_AFTER)
    if isinstance(error, (EngineFailure, NotFinite)):
        return ApiError(500, "the model failed at this request", "model_failed")
    return ApiError(500, "the server failed at this request", "internal_error")
