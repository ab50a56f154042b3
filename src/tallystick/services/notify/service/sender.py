"""Sends webhooks over HTTP, to public addresses and, if the operator allows it, to private ones. Size and time are limited."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from yarl import URL

from tallystick.chassis import telemetry
from tallystick.chassis.egress import AddressRefused, CheckedResolver, Resolve, blocked, literal, system_resolve
from tallystick.services.notify.model import Answer

#: The time for one attempt, from resolving the name to the answer's headers.
ATTEMPT_SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 5.0
#: How much of an answer's body is read, so that a receiver that is still writing is not cut off. The body is ignored.
DRAIN_BYTES: Final = 4096
DRAIN_SECONDS: Final = 1.0

_REFUSED: Final = "the address is not a public one"


class Sender:
    """Sends one webhook. The connection goes to exactly the address that was checked. Redirects are not followed."""

    def __init__(
        self,
        *,
        private: bool,
        connections: int = 128,
        resolve: Resolve = system_resolve,
        seconds: float = ATTEMPT_SECONDS,
    ) -> None:
        self._private = private
        self._seconds = seconds
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=connections,
                resolver=CheckedResolver(resolve, private=private),
                use_dns_cache=False,
                force_close=True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            headers={"User-Agent": "Tallystick-Webhooks/1", "Accept-Encoding": "identity"},
            max_line_size=8190,
            max_field_size=8190,
        )

    async def send(self, url: str, body: bytes, headers: dict[str, str], now: datetime) -> Answer:
        """The answer, or why there was none. Raises nothing. The status decides; a slow or endless body does not matter."""
        found: Answer | None = None
        try:
            host = URL(url).raw_host or ""
            if not self._private and literal(host) and blocked(host):
                return Answer(None, _REFUSED)
            async with (
                asyncio.timeout(self._seconds) as timeout,
                self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                error = None if 200 <= answer.status < 300 else f"answered {answer.status}"
                found = Answer(answer.status, error, _retry_after(answer.headers.get("Retry-After"), now))
                timeout.reschedule(asyncio.get_running_loop().time() + DRAIN_SECONDS)
                await answer.content.read(DRAIN_BYTES)
        except AddressRefused:
            return Answer(None, _REFUSED)
        except TimeoutError:
            return found or Answer(None, f"no answer within {self._seconds:g} s")
        except aiohttp.ClientConnectorError as error:
            return Answer(None, _REFUSED if isinstance(error.os_error, AddressRefused) else "could not connect")
        except (aiohttp.ClientError, OSError) as error:
            return found or _broken(error)
        except Exception as error:  # noqa: BLE001  # an attempt that raised would not be counted, and be repeated for ever
            telemetry.log.error("webhook.exchange_broken", error=error)
            return found or _broken(error)
        return found

    async def close(self) -> None:
        await self._session.close()


def _broken(error: Exception) -> Answer:
    return Answer(None, f"the exchange broke: {type(error).__name__}")


def _retry_after(text: str | None, now: datetime) -> timedelta | None:
    """Seconds or a date (RFC 9110 section 10.2.3); None for anything else."""
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) <= 6:
        return timedelta(seconds=int(text))
    try:
        return max(parsedate_to_datetime(text) - now, timedelta(0))
    except (ValueError, TypeError, OverflowError):
        return None
