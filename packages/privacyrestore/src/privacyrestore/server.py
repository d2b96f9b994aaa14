"""The server: OpenAI's chat and text completions over one engine, with one field more."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lipogram.errors import InvalidSetting
from privacyrestore.admission import Keys, Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from privacyrestore.batch_engine import BatchEngine

__all__ = ["Limits", "create_app"]

log = logging.getLogger(__name__)


def create_app(
    engine: BatchEngine,
    *,
    model_name: str | None = None,
    api_keys: Iterable[str] = (),
    limits: Limits | None = None,
    debug: bool = False,
) -> FastAPI:
    """The API over an engine, its model and its banks, as an ASGI app.

    POST `/v1/chat/completions` and `/v1/completions` are OpenAI's, with streams; the field
    `privacy_restore` (see `privacyrestore.payload`) restores the request's row, and a request
    without it is answered by the plain model. `privacyrestore.api_schema` says which of OpenAI's
    fields are taken. GET `/v1/models`, `/v1/privacy/banks` and, whole, `/v1/privacy/banks/SHA256`;
    `/health`, which needs no key, and `/metrics`, for Prometheus. Errors have OpenAI's shape and
    repeat nothing of a request: 400 for what is not as it must be, 401, 404, 405, 408 and 413 for
    bodies too slow and too large, 409 for another bank, 415, 429 for a full queue, 503 for an
    engine that is closed, 504 for an answer that took too long.

    Args:
        engine: whoever made it closes it, after the server has stopped.
        model_name: what clients call the model; its folder's or repository's name for None.
        api_keys: of which a client has to have one; none of them lets everybody in.
        limits: of a client; the defaults of :class:`Limits` for None.
        debug: log the content of requests, and failures with their traces. Otherwise the log has
            an id, route, status and time of each answer, and the type of what failed.

    Raises:
        InvalidSetting: an API key that no header can carry, or an empty name.
    """
    from privacyrestore.http_api import HttpApi

    name = _name(engine) if model_name is None else model_name
    if not name:
        raise InvalidSetting("the model's name is empty")
    if debug:
        log.warning("debug: the prompts and vectors of all requests are logged")
    api = HttpApi(engine, model_name=name, limits=limits or Limits(), debug=debug)
    return api.app(Keys(api_keys))


def _name(engine: BatchEngine) -> str:
    config = engine.steered.model.config
    return Path(str(getattr(config, "_name_or_path", ""))).name or str(config.model_type)
