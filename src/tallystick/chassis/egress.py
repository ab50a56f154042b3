"""Where a service may connect outside the platform: protection against being made to call our own network (SSRF).

The address that was checked is the one that is connected to: names are resolved here, for each new connection, and
all addresses of a name must be on the public internet, unless the operator has allowed private ones.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

#: Resolves a host name to its addresses, as texts.
Resolve = Callable[[str], Awaitable[list[str]]]

#: Contains all public IPv6 addresses, but none that stand for an IPv4 address (mapped, NAT64), are site-local or belong to segment
#: routing.
_UNICAST6: Final = ipaddress.ip_network("2000::/3")
#: Special-purpose addresses (IANA registries) that `ipaddress` calls global or does not know, and a cloud's internal address.
_SPECIAL: Final = tuple(
    ipaddress.ip_network(each)
    for each in (
        "192.0.0.0/24",  # protocol assignments
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # Azure's own services, seen from inside
        "2001::/23",  # protocol assignments: Teredo, ORCHID
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)


#: The threads for looking up names. A name server that does not answer blocks its thread for as long as the system waits, perhaps half
#: a minute, and the lookup can't be cancelled. In asyncio's default pool, which is small and serves everything, one tenant's names
#: could take all threads, and no other tenant's names would be resolved.
_LOOKUPS: Final = ThreadPoolExecutor(256, "lookup")


class AddressRefused(OSError):
    """A name has an address to which no connection may be made."""


def blocked(address: str) -> bool:
    """Whether an address is anything but a plain one of the public internet.

    An IPv6 address that contains an IPv4 one (mapped, NAT64, 6to4, Teredo) is blocked, because a gateway decides where it leads. So is
    an address with a zone, which names one of our interfaces.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return True
    if not ip.is_global or ip.is_multicast or ip.is_reserved or ip.is_unspecified:
        return True
    if isinstance(ip, ipaddress.IPv6Address) and (ip.scope_id is not None or ip not in _UNICAST6):
        return True
    return any(ip in network for network in _SPECIAL)


def literal(host: str) -> bool:
    """Whether the HTTP client takes a URL's host for an address. It connects to addresses without a resolver, so they have to be checked
    beforehand.

    The rule is aiohttp's own, and a wide one: `::1%` and `127.1` count as addresses too, which `blocked` can't parse and so blocks.
    """
    return ":" in host or host.replace(".", "").isdigit()


async def system_resolve(host: str) -> list[str]:
    """The system's resolver. Raises OSError."""
    look = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, look)
    except UnicodeError as error:  # a label that is empty or too long
        raise socket.gaierror(socket.EAI_NONAME, "this is not a host name") from error
    return [str(each[4][0]) for each in found]


class CheckedResolver(AbstractResolver):
    """Resolves a name and checks all its addresses, for aiohttp, which connects only to what this returns."""

    def __init__(self, resolve: Resolve = system_resolve, *, private: bool) -> None:
        self._resolve = resolve
        self._private = private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        del family
        addresses = list(dict.fromkeys(await self._resolve(host)))
        # A private address among public ones is an attack or a mistake.
        if not addresses or (not self._private and any(blocked(address) for address in addresses)):
            raise AddressRefused(f"{host} is not at a public address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        pass
