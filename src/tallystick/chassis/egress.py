"""Where a service may connect to outside of the platform: the guard against being made to call our own network (SSRF).

The address that was checked is the address that is connected to: names are resolved here, for each new connection, and
every address that a name has must be one of the public internet, unless the operator allowed private ones.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

#: The address texts of a host name.
Resolve = Callable[[str], Awaitable[list[str]]]

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL: Final = ipaddress.ip_network("64:ff9b:1::/48")


class AddressRefused(OSError):
    """A name led to an address that may not be connected to."""


def blocked(address: str) -> bool:
    """Whether an address is anything but a plain one of the public internet.

    An IPv6 address that carries an IPv4 one (mapped, NAT64, 6to4, Teredo) is blocked as a whole: where it leads is
    decided by a gateway.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return True
    if not ip.is_global or ip.is_multicast or ip.is_reserved or ip.is_unspecified:
        return True
    return isinstance(ip, ipaddress.IPv6Address) and (
        ip.ipv4_mapped is not None
        or ip.sixtofour is not None
        or ip.teredo is not None
        or ip in _NAT64
        or ip in _NAT64_LOCAL
        or int(ip) >> 32 == 0
    )


def literal(host: str) -> bool:
    """Whether a URL's host is an address: those are connected to without a resolver, and are checked beforehand."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


async def system_resolve(host: str) -> list[str]:
    """The system's resolver. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
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
