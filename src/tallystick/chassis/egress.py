"""Where a service may connect to outside of the platform: the guard against being made to call our own network (SSRF).

The address that was checked is the address that is connected to: names are resolved here, for each new connection, and
every address that a name has must be one of the public internet, unless the operator allowed private ones.
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

#: The address texts of a host name.
Resolve = Callable[[str], Awaitable[list[str]]]

#: All of the public internet's IPv6 is in here. What stands for an IPv4 address (mapped, NAT64), is site-local or segment routing's is not.
_UNICAST6: Final = ipaddress.ip_network("2000::/3")
#: What `ipaddress` calls global or does not know (IANA special-purpose registries), and the inner address of a cloud's machines.
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


#: Names are looked up here. A name server that says nothing holds its thread for as long as the system waits for one, half a minute perhaps, and
#: nothing else ends that: of the few threads that asyncio has for everything, one tenant's names would take all, and no other's be found.
_LOOKUPS: Final = ThreadPoolExecutor(256, "lookup")


class AddressRefused(OSError):
    """A name led to an address that may not be connected to."""


def blocked(address: str) -> bool:
    """Whether an address is anything but a plain one of the public internet.

    An IPv6 address that carries an IPv4 one (mapped, NAT64, 6to4, Teredo) is blocked as a whole: where it leads is
    decided by a gateway. So is one with a zone: it means an interface of ours.
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
    """Whether the HTTP client takes a URL's host for an address: those it connects to without a resolver, so they are checked beforehand.

    It is aiohttp's own rule, a wide one: `::1%` and `127.1` are addresses to it too, though `blocked` knows no such.
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
    """Resolves a name and checks every address of it; aiohttp connects to nothing else."""

    def __init__(self, resolve: Resolve = system_resolve, *, private: bool) -> None:
        self._resolve = resolve
        self._private = private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        del family
        addresses = list(dict.fromkeys(await self._resolve(host)))
        # One private address among public ones is an attack or a mistake.
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
