"""The client: takes spans out of a question and sends one noised vector in their place.

What leaves the machine is the cleaned text, the options and a vector of fixed size. The text, the
spans, their ids, places, number and weights, the vector before noise, and every key stay.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lipogram.errors import InvalidSetting
from privacyrestore.answer import Answer, pieces
from privacyrestore.cleaned_request import (
    Cleaned,
    cleaned_messages,
    cleaned_prompt,
    guarded,
)
from privacyrestore.errors import BankMismatch, Refused
from privacyrestore.noise_cache import NoiseCache
from privacyrestore.payload import Payload, message_length
from privacyrestore.prepared import LocalReport, PreparedRequest, canonical_body

if TYPE_CHECKING:
    from privacyrestore.attention_weights import Weigher
    from privacyrestore.ledger import PrivacyLedger
    from privacyrestore.mechanisms import Mechanism
    from privacyrestore.restoration_bank import RestorationBank
    from privacyrestore.span_detector import SpanDetector
    from privacyrestore.transport import Transport

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


class PrivacyClient:
    """Asks one server about texts of one subject.

    The vector for a set of spans is drawn once and kept: the same set later, in another text or in
    a later turn, is sent with the same vector and costs nothing. The weights are those of the text
    for which it was drawn, even where the later text's would differ. Spans that share a vector of
    the bank count as one.

    Args:
        bank: pinned: its digest goes with each request, and a server without it is not asked.
        detector: finds spans; made for the bank's vocabulary.
        mechanism: draws the noise.
        weigher: says how much each span weighs.
        ledger: counts releases, and refuses those past its budget.
        transport: the connection, as :class:`privacyrestore.transport.Http`.
        subject: whom the texts are about; budget and vectors are each subject's own.
        model: what the server calls the model; None for the name that the bank has for it.
        audited: the share of spans that an audit of bank and mechanism recovered, for the reports.

    Raises:
        InvalidPayload: a mechanism that makes no messages for the wire.
        InvalidSetting: a detector for another vocabulary.
    """

    def __init__(
        self,
        bank: RestorationBank,
        detector: SpanDetector,
        mechanism: Mechanism,
        weigher: Weigher,
        ledger: PrivacyLedger,
        transport: Transport,
        subject: str = "default",
        *,
        model: str | None = None,
        audited: float | None = None,
    ):
        self._length = message_length(bank, mechanism.name)
        if tuple(detector.vocabulary) != tuple(bank.vocabulary):
            raise InvalidSetting("the detector was made for another vocabulary than the bank's")
        self.bank, self.detector, self.mechanism, self.weigher = bank, detector, mechanism, weigher
        self.ledger, self.transport, self.subject = ledger, transport, subject
        self.model, self.audited = model or bank.model.name, audited
        self.guarantee = mechanism.guarantee(bank)
        self._noise = NoiseCache(ledger)
        self._server_holds_bank = False

    def close(self) -> None:
        """End the connections."""
        self.transport.close()

    def prepare(self, text: str, *, stream: bool = False, **options: Any) -> PreparedRequest:
        """The request to complete a text: nothing is sent, but what a release costs is counted.

        Args:
            text: with its spans.
            stream: ask for the answer in pieces.
            options: further fields of the request (`max_tokens`, `temperature`, `stop`, …).

        Raises:
            SpanRemains: a span that removal cannot take out.
            Unsendable: a part that cannot be cleaned.
            BudgetSpent: a new release would pass the subject's budget.
            CorruptState, FolderInUse, UnwritableState: the ledger's file.
        """
        return self._prepared(self._cleaned_prompt(text, options), stream)

    def prepare_chat(
        self, messages: Sequence[Mapping[str, Any]], *, stream: bool = False, **options: Any
    ) -> PreparedRequest:
        """The request to answer messages, all of them cleaned, with one vector for all their spans.

        Args:
            messages: each with a role (system, developer, user, assistant) and a content.
            stream: ask for the answer in pieces.
            options: further fields of the request.

        Raises:
            As :meth:`prepare`.
        """
        return self._prepared(self._cleaned_messages(messages, options), stream)

    def complete(self, text: str, **options: Any) -> Answer:
        """Have a text completed.

        Raises:
            BankMismatch: the server has not got the bank; nothing was released.
            Refused: the server did not want to.
            Unreachable: no answer, or none of the protocol.
            Further: as :meth:`prepare`.
        """
        cleaned = self._cleaned_prompt(text, options)
        self.check_server()
        return self.send(self._prepared(cleaned, False))

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Answer:
        """Have messages answered; errors as in :meth:`complete`."""
        cleaned = self._cleaned_messages(messages, options)
        self.check_server()
        return self.send(self._prepared(cleaned, False))

    def stream(
        self, messages: Sequence[Mapping[str, Any]], **options: Any
    ) -> Generator[str, None, None]:
        """The answer to messages in pieces, as they come; closing the iterator hangs up.

        Raises:
            At the call: as :meth:`prepare`, and BankMismatch. From the iterator: Refused and
            Unreachable, also in the middle of an answer.
        """
        cleaned = self._cleaned_messages(messages, options)
        self.check_server()
        return self._pieces(self._prepared(cleaned, True))

    def send(self, prepared: PreparedRequest) -> Answer:
        """The answer to a prepared request; errors as in :meth:`complete`."""
        if prepared.streamed:
            raise InvalidSetting("the request asks for a stream: use events")
        try:
            raw = self.transport.post(prepared.path, prepared.body)
        except Refused as error:
            refused = error
        else:
            return Answer.read(raw, prepared.report)
        raise self._explained(refused)

    def events(self, prepared: PreparedRequest) -> Generator[dict[str, Any], None, None]:
        """The server's own events for a request prepared with `stream=True`.

        Raises:
            From the iterator: as :meth:`send`; an error that comes as an event is passed on.
        """
        if not prepared.streamed:
            raise InvalidSetting("the request asks for one answer: use send")
        return self._events(prepared)

    def check_server(self) -> None:
        """Make sure, once, that the server has the bank, before anything is released for it.

        Raises:
            BankMismatch: it has not.
            Refused, Unreachable: it could not be asked.
        """
        if not self._server_holds_bank:
            if not self.transport.holds(self.bank.sha256):
                raise BankMismatch(self._missing())
            self._server_holds_bank = True

    # ------------------------------------------------------------------ inside

    def _cleaned_prompt(self, text: str, options: Mapping[str, Any]) -> Cleaned:
        return cleaned_prompt(text, self._with_model(options), self.detector)

    def _cleaned_messages(
        self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> Cleaned:
        return cleaned_messages(messages, self._with_model(options), self.detector)

    def _with_model(self, options: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in options.items() if value is not None}
        return {"model": self.model} | given

    def _prepared(self, cleaned: Cleaned, streamed: bool) -> PreparedRequest:
        bank = self.bank
        groups = tuple(sorted({bank.groups[i] for i in cleaned.span_ids}))
        sought = (self.subject, bank.sha256, self.guarantee, groups)
        if (held := self._noise.kept(*sought)) is None:
            # Before the ledger is locked: an encoder may take seconds for it.
            signal = guarded("weighing", self._signal, cleaned)
            held = self._noise.message(
                *sought, lambda: guarded("the draw of a message", self._message, signal)
            )
        meta = torch.from_numpy(np.frombuffer(held.message, "<f4").copy())
        payload = Payload(bank.sha256, self.mechanism.name, meta).encode()
        report = LocalReport(
            self.guarantee,
            held.spent,
            held.new_release,
            self.audited,
            tuple(bank.vocabulary[i] for i in cleaned.span_ids),
        )
        path = COMPLETIONS if isinstance(cleaned.content, str) else CHAT
        body = canonical_body(cleaned.content, payload, streamed, cleaned.options)
        return PreparedRequest(path, body, cleaned.content, payload, streamed, report)

    def _signal(self, cleaned: Cleaned) -> Tensor:
        """ẑ for the spans, [n]; zeros for none."""
        ids = cleaned.span_ids
        weights = self.weigher.weights(cleaned.text, cleaned.spans) if ids else {}
        return self.bank.signal(ids, [weights[i] for i in ids])

    def _message(self, signal: Tensor) -> bytes:
        """What the mechanism releases for a signal, as little-endian float32."""
        numbers = self.mechanism.release(self.bank, signal).numpy().astype("<f4")
        if numbers.shape != (self._length,) or not np.isfinite(numbers).all():
            raise InvalidSetting(f"the mechanism must release {self._length} finite numbers")
        return numbers.tobytes()

    def _events(self, prepared: PreparedRequest) -> Generator[dict[str, Any], None, None]:
        try:
            with closing(self.transport.stream(prepared.path, prepared.body)) as events:
                yield from events
            return
        except Refused as error:
            refused = error
        raise self._explained(refused)

    def _pieces(self, prepared: PreparedRequest) -> Generator[str, None, None]:
        with closing(self._events(prepared)) as events:
            yield from pieces(events)

    def _explained(self, refused: Refused) -> Exception:
        if refused.status != 409:
            return refused
        self._server_holds_bank = False
        return BankMismatch(self._missing())

    def _missing(self) -> str:
        return (
            f"the server has no bank {self.bank.sha256[:12]}: ask its operator which one it has, "
            "and pin that one only if you trust how it was made"
        )
