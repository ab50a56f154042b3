"""A client of the edge. It gets tokens by `private_key_jwt`, signs each request (or uses a TLS client certificate), and retries what is
safe to repeat.

It uses the platform's public contract only, as a client in another language would: RFC 6749 and 7523 (token), RFC 9449 (DPoP proof),
RFC 8705 (certificate), RFC 9457 (problems), `Idempotency-Key`.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec

from tallystick.cli.credentials import Credentials, Signer
from tallystick.cli.failure import NO, NOT_RUNNING, Failed
from tallystick.kernel.deployment import SHARD_HEADER

_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
#: Statuses after which a retry may succeed. Only requests that are safe to repeat are retried.
_AGAIN: Final = frozenset({429, 502, 503, 504})
MAX_ANSWER: Final = 64 * 1024 * 1024  # bytes
MAX_SENT_ON: Final = 2  # times that a request follows an answer that names another shard
MAX_PAUSE: Final = 5.0  # seconds between two attempts, whatever Retry-After says


class EdgeUnreachable(Failed):
    """The edge could not be reached, or the connection broke and the request is not safe to repeat."""

    def __init__(self, message: str) -> None:
        super().__init__(message, NOT_RUNNING)


class TokenRefused(Failed):
    """Identity gave no token. `error` is RFC 6749's code."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(f"no token: {error}: {description}" if description else f"no token: {error}", NO)
        self.error = error


class Answer(msgspec.Struct, frozen=True):
    """The edge's answer. `attempts`: how often the request was sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    attempts: int = 1

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def slug(self) -> str:
        """The last part of the problem's type, or "" if the answer is not a problem."""
        if not self.headers.get("Content-Type", "").startswith("application/problem+json"):
            return ""
        document = self.json()
        return str(document.get("type", "")).rpartition("/")[2] if isinstance(document, dict) else ""

    @property
    def request_id(self) -> str:
        return self.headers.get("Request-Id", "")

    @property
    def replayed(self) -> bool:
        return self.headers.get("Idempotent-Replayed") == "true"

    def json(self) -> Any:
        """The decoded body. Raises ValueError for what isn't JSON."""
        return json.loads(self.body)


class ApiClient:
    """`async with ApiClient(credentials) as api: answer = await api.request("POST", "/v1/payments", {...}, idempotency_key=...)`."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        connections: int = 64,
        timeout: float = 30.0,
        attempts: int = 5,
        own_key: bool = False,
        shard: str | None = None,
        one_book: bool = False,
    ) -> None:
        """`timeout`: seconds for one attempt. `shard`: where to send everything. `one_book`: all requests are about one book, so once its
        shard is known, everything goes there, including requests that name no book. `own_key` binds tokens to the client's registered key
        instead of a key of this process: needed for signed statements that others verify later. Raises CredentialsError.
        """
        self.credentials = credentials
        self._api = credentials.api.rstrip("/")
        self._connections = connections
        self._timeout = timeout
        self._attempts = attempts
        self._shard = shard
        self._one_book = one_book
        jwk = credentials.private_key_jwk
        self._client_key = Signer(credentials.key(), str(jwk["kid"]) if "kid" in jwk else None)
        # A key serves one purpose: by default proofs are signed with a key of this process.
        self._proof_key = self._client_key if own_key else Signer()
        self._session: aiohttp.ClientSession | None = None
        self._token = ""
        self._token_until = 0.0
        self._asking: asyncio.Task[str] | None = None

    async def __aenter__(self) -> Self:
        context = self.credentials.tls()
        self._session = aiohttp.ClientSession(
            # The edge closes a connection that was idle for a minute: one must not be used at that moment.
            connector=aiohttp.TCPConnector(ssl=context, limit=self._connections, keepalive_timeout=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "Content-Type"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request and return the answer, which may be a problem. `path` may have a query; `body` is encoded unless it is bytes.

        Each attempt has a fresh proof (unless tokens are bound to a certificate). If the edge can't be reached, is busy or drops the
        connection, the request is retried with growing pauses, provided that is safe: its method is idempotent, or it has an idempotency
        key. If another shard has the book, the request is sent there, unless `headers` name a shard. Raises EdgeUnreachable if there is no
        answer, and TokenRefused.
        """
        safe = method in {"GET", "HEAD", "DELETE", "PUT"} or idempotency_key is not None
        content = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        fixed = dict(headers or {})
        if content is not None:
            fixed.setdefault("Content-Type", "application/json")
        if idempotency_key is not None:
            fixed["Idempotency-Key"] = idempotency_key
        url = self._api + path
        bare = url.partition("?")[0].partition("#")[0]
        renewed = False
        sent_on = MAX_SENT_ON if SHARD_HEADER in fixed else 0  # a caller who names a shard wants that one
        if self._shard is not None:
            fixed.setdefault(SHARD_HEADER, self._shard)
        attempt = 0
        while True:
            attempt += 1
            token = await self.token()
            if self.credentials.certificate_bound:
                fixed["Authorization"] = f"Bearer {token}"
            else:
                fixed["Authorization"] = f"DPoP {token}"
                fixed["DPoP"] = self._proof_key.proof(method, bare, token)
            try:
                answer = await self._send(method, url, content, fixed, attempt)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                unsent = isinstance(error, aiohttp.ClientConnectorError)
                if attempt >= self._attempts or not (safe or unsent):
                    raise EdgeUnreachable(_unreached(method, path, error, sent=not unsent)) from error
                await asyncio.sleep(_pause(attempt, None))
                continue
            if (
                answer.status == 401
                and not renewed
                and 'error="invalid_token"' in answer.headers.get("WWW-Authenticate", "")
            ):
                renewed = True  # the token is revoked or its key retired. Nothing was done, so one retry with a new token is safe
                if token == self._token:
                    self._token_until = 0.0
                continue
            if sent_on < MAX_SENT_ON and (shard := _elsewhere(answer)) is not None:
                sent_on += 1  # the shard refused before it did anything, so sending again is safe
                fixed[SHARD_HEADER] = shard
                if self._one_book:
                    self._shard = shard
                continue
            if attempt < self._attempts and safe and _again(answer):
                await asyncio.sleep(_pause(attempt, answer.headers.get("Retry-After")))
                continue
            return answer

    @property
    def proof_key(self) -> Signer:
        """The key that this client's tokens are bound to."""
        return self._proof_key

    async def token(self) -> str:
        """An access token that is valid for 10 s at least. Concurrent callers share one token request. Raises TokenRefused, EdgeUnreachable."""
        if time.monotonic() < self._token_until:
            return self._token
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_for_token())
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)

    def _asked(self, task: asyncio.Task[str]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not warn if nobody waits any more

    async def _ask_for_token(self) -> str:
        issuer = self.credentials.issuer.rstrip("/")
        bound = self.credentials.certificate_bound
        # With a certificate, the token endpoint is on the mutual TLS origin (RFC 8705, 5: `mtls_endpoint_aliases` in the metadata).
        url = f"{self._api if bound else issuer}/oauth2/token"
        for attempt in range(1, self._attempts + 1):
            form = {
                "grant_type": "client_credentials",
                "scope": self.credentials.scope,
                "client_id": self.credentials.client_id,
                "client_assertion_type": _ASSERTION_TYPE,
                "client_assertion": self._client_key.assertion(self.credentials.client_id, issuer),
            }
            asked_at = time.monotonic()
            try:
                data = aiohttp.FormData(form)()
                headers = {"Content-Type": "application/x-www-form-urlencoded"}
                if not bound:
                    headers["DPoP"] = self._proof_key.proof("POST", url)
                answer = await self._send("POST", url, data, headers, attempt)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if attempt == self._attempts:
                    raise EdgeUnreachable(_unreached("POST", "/oauth2/token", error, sent=False)) from error
                await asyncio.sleep(_pause(attempt, None))
                continue
            if answer.ok:
                return self._keep(answer, asked_at)
            if attempt == self._attempts or answer.status not in _AGAIN:
                raise _refused(answer)
            await asyncio.sleep(_pause(attempt, answer.headers.get("Retry-After")))
        raise AssertionError("the last attempt returns or raises")

    def _keep(self, answer: Answer, asked_at: float) -> str:
        try:
            document = answer.json()
            token, kind, life = document["access_token"], document["token_type"], int(document["expires_in"])
        except (ValueError, TypeError, KeyError) as error:
            raise TokenRefused("invalid_response", "the token endpoint's answer can't be read") from error
        if not isinstance(token, str) or str(kind).lower() != (
            "bearer" if self.credentials.certificate_bound else "dpop"
        ):
            raise TokenRefused("invalid_response", "the token is not bound to a key or certificate as requested")
        self._token = token
        self._token_until = asked_at + max(1.0, life - 10.0)
        return token

    async def _send(self, method: str, url: str, content: Any, headers: Mapping[str, str], attempt: int) -> Answer:
        if self._session is None:
            raise RuntimeError("use the client in an `async with` block")
        async with self._session.request(method, url, data=content, headers=headers, allow_redirects=False) as response:
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                if len(body) > MAX_ANSWER:
                    raise aiohttp.ClientPayloadError("the answer is too long")
            return Answer(response.status, response.headers.copy(), bytes(body), attempt)


def _again(answer: Answer) -> bool:
    if answer.status in _AGAIN:
        return True
    return answer.status == 409 and answer.slug == "request-in-progress"


def _elsewhere(answer: Answer) -> str | None:
    """The shard that has the book, if the answer says that it is another one."""
    if answer.status != 421 or answer.slug != "book-elsewhere":
        return None
    shard = answer.json().get("shard")
    return shard if isinstance(shard, str) and shard.isascii() and shard.isprintable() else None


def _pause(attempt: int, retry_after: str | None) -> float:
    """Seconds to wait: doubled with each attempt, half of it random; at least what the server asks for, at most MAX_PAUSE."""
    asked = float(retry_after) if retry_after is not None and retry_after.isdecimal() else 0.0
    growing: float = 0.05 * 2**attempt * (0.5 + random.random() / 2)  # noqa: S311
    return min(MAX_PAUSE, max(asked, growing))


def _refused(answer: Answer) -> TokenRefused:
    try:
        document = answer.json()
        return TokenRefused(
            str(document.get("error") or document.get("title") or answer.status),
            str(document.get("error_description") or document.get("detail") or ""),
        )
    except (ValueError, AttributeError):
        return TokenRefused(f"status {answer.status}", "")


def _unreached(method: str, path: str, error: BaseException, *, sent: bool) -> str:
    what = str(error) or type(error).__name__
    known = (
        "; it is unknown whether the request was carried out" if sent else "; start the platform with `tallystick up`"
    )
    return f"no answer to {method} {path.partition('?')[0]}: {what}{known}"
