"""The wire: HTTP that says nothing but the request, to one server, which may be hostile."""

from __future__ import annotations

import ssl
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import httpx

from lipogram.errors import CorruptState, InvalidSetting
from privacyrestore.errors import BankMismatch, Refused, Unreachable
from privacyrestore.sse_reader import Limits, events, json_object, within

if TYPE_CHECKING:
    from privacyrestore.restoration_bank import RestorationBank

RETRIED = (429, 503)
LARGEST_BANK = 1 << 30
REASONS = {
    400: "it does not accept the request: fewer tokens may fit its model's context, or client and "
    "server are of two versions",
    401: "the API key is missing or wrong",
    403: "the API key is not allowed to do this",
    404: "no such path, model or bank",
    408: "the request took too long",
    409: "it holds another bank than the one asked for",
    413: "the request is too long for it",
    422: "it does not accept the request; are client and server of one version?",
    429: "too many requests; ask again later",
    503: "it is overloaded; ask again later",
}


class Transport(Protocol):
    """What a client needs of a connection; :class:`Http` is one."""

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """The answer to a body."""

    def stream(self, path: str, body: bytes) -> Generator[dict[str, Any], None, None]:
        """The events of the answer to a body."""

    def get(self, path: str) -> dict[str, Any]:
        """The object at a path."""

    def holds(self, bank: str) -> bool:
        """Whether the other side has the bank of that digest."""

    def close(self) -> None:
        """End the connections."""


class Http:
    """One server, over TLS.

    Nothing comes from the environment (no proxies, no .netrc), no cookies are kept, no redirects
    followed, no compression accepted. What a request says beside its body is the same for all
    clients, but for the API key.

    Args:
        url: of the server, with or without `/v1` at its end. Without TLS only to this machine.
        verify: False accepts any certificate; a path names a file of accepted authorities.
        api_key: sent as a bearer token.
        timeout: seconds without a byte, in either direction, after which the server is given up.
            The head of an answer is bounded by this and by its size alone.
        limits: what an answer may take.
        retries: how often a request is sent again, unchanged, where the server is overloaded (429,
            503) or the connection failed before an answer began.
        pause: seconds before the first of these, doubled before each further one.
        allow_http: accept plain http to other machines, where everybody on the way reads along.

    Raises:
        InvalidSetting: an address that is none, or without TLS.
    """

    def __init__(
        self,
        url: str,
        *,
        verify: bool | str = True,
        api_key: str | None = None,
        timeout: float = 60.0,
        limits: Limits | None = None,
        retries: int = 4,
        pause: float = 0.25,
        allow_http: bool = False,
    ):
        self.url = checked_url(url, allow_http=allow_http)
        self.retries, self.pause, self.limits = retries, pause, limits or Limits()
        headers = {
            "Accept": "*/*",
            "Accept-Encoding": "identity",  # what is small on the wire stays small here
            "User-Agent": "privacyrestore",
        }
        if api_key is not None:
            if not api_key or not all("!" <= letter <= "~" for letter in api_key):
                raise InvalidSetting("the API key must be of visible ASCII letters, without spaces")
            headers["Authorization"] = f"Bearer {api_key}"
        if isinstance(verify, str):
            try:
                accepted: Any = ssl.create_default_context(cafile=verify)
            except OSError:
                raise InvalidSetting(f"{verify} holds no certificates of authorities") from None
        else:
            accepted = verify
        self._client = httpx.Client(
            verify=accepted,
            timeout=timeout,
            headers=headers,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
            trust_env=False,
        )

    def __repr__(self) -> str:
        return f"Http({self.url!r})"

    def __enter__(self) -> Http:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        """The object that the server answers to a JSON body.

        Raises:
            Refused: another status than 200.
            Unreachable: no answer, or none of the protocol.
        """
        with self._answer("POST", path, body) as answer:
            return json_object(b"".join(within(answer.iter_raw(), self.limits)))

    def stream(self, path: str, body: bytes) -> Generator[dict[str, Any], None, None]:
        """The events that the server answers to a JSON body; closing the iterator hangs up.

        Raises:
            Refused: another status than 200.
            Unreachable: no answer, none of the protocol, or one that broke off.
        """
        with self._answer("POST", path, body) as answer:
            kind = answer.headers.get("content-type", "")
            if kind.partition(";")[0].strip().lower() != "text/event-stream":
                raise Unreachable("the server was asked for a stream of events and sent no such")
            yield from events(answer.iter_raw(), self.limits)

    def get(self, path: str) -> dict[str, Any]:
        """The object at a path; errors as in :meth:`post`."""
        with self._answer("GET", path) as answer:
            return json_object(b"".join(within(answer.iter_raw(), self.limits)))

    def holds(self, bank: str) -> bool:
        """Whether the server has the bank of that digest; hangs up before the bank itself comes.

        Raises:
            Refused, Unreachable: as in :meth:`post`.
        """
        try:
            with self._answer("GET", _bank_path(bank)):
                return True
        except Refused as error:
            if error.status == 404:
                return False
            raise

    def bank(self, sha256: str) -> RestorationBank:
        """The whole bank of that digest, checked as one that came from anywhere.

        Raises:
            BankMismatch: the server has no such bank, or sent another.
            CorruptState: what it sent is no bank.
            Refused, Unreachable: as in :meth:`post`.
        """
        from privacyrestore.restoration_bank import RestorationBank

        limits = replace(self.limits, total=LARGEST_BANK)
        try:
            with self._answer("GET", _bank_path(sha256)) as answer:
                content = b"".join(within(answer.iter_raw(), limits))
        except Refused as error:
            if error.status != 404:
                raise
            raise BankMismatch(f"the server has no bank {sha256[:12]}") from None
        try:
            return RestorationBank.from_bytes(content, expect_sha256=sha256)
        except RecursionError:
            raise CorruptState("what was received is no bank (endless nesting)") from None

    # ------------------------------------------------------------------ inside

    @contextmanager
    def _answer(
        self, method: str, path: str, body: bytes | None = None
    ) -> Iterator[httpx.Response]:
        """The answer with status 200, its body unread; sends again what may be sent again."""
        answer = self._send_patiently(method, path, body)
        try:
            if answer.status_code != 200:
                raise Refused(answer.status_code, _reason(answer.status_code))
            if answer.headers.get("content-encoding", "identity").lower() != "identity":
                raise Unreachable("the server compressed an answer, which was not asked for")
            yield answer
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise Unreachable(f"the answer broke off ({type(error).__name__})") from None
        finally:
            answer.close()

    def _send_patiently(self, method: str, path: str, body: bytes | None) -> httpx.Response:
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            failure = ""
            try:
                request = self._client.build_request(
                    method,
                    self.url + path,
                    content=body,
                    headers={} if body is None else {"Content-Type": "application/json"},
                )
                answer = self._client.send(request, stream=True)
            except (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError) as error:
                failure = type(error).__name__
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                raise Unreachable(f"{self.url} gave no answer ({type(error).__name__})") from None
            if failure:
                continue
            if answer.status_code not in RETRIED or attempt == self.retries:
                return answer
            answer.close()
        raise Unreachable(f"{self.url} could not be reached ({failure})")


def checked_url(url: str, *, allow_http: bool = False) -> str:
    """The address of a server without `/v1` and closing slashes.

    Raises:
        InvalidSetting: no http(s) address, one with a name, password, query or fragment, or one
            that is neither encrypted nor of this machine.
    """
    from ipaddress import ip_address

    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise InvalidSetting("the server's address must be https://HOST[:PORT][/PATH]")
    if parts.username is not None or parts.query or parts.fragment:
        raise InvalidSetting("the server's address can have no user, query or fragment")
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if parts.scheme == "http" and not (local or allow_http):
        raise InvalidSetting(
            f"http://{host} is not encrypted: use https, or allow plain http if the way there is "
            "protected by other means"
        )
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _bank_path(sha256: str) -> str:
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise InvalidSetting("a bank's digest has 64 hex digits")
    return f"/v1/privacy/banks/{sha256}"


def _reason(status: int) -> str:
    if 300 <= status < 400:
        return "it points elsewhere, and redirects are not followed"
    return REASONS.get(status, "it failed" if status >= 500 else "it gave no reason we know")
