"""Which addresses a service may connect to, and that what was checked is what is connected to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from typing import Any

import pytest
from aiohttp.helpers import is_ip_address
from hypothesis import given
from hypothesis import strategies as st

from tallystick.chassis.egress import AddressRefused, CheckedResolver, blocked, literal, system_resolve
from tallystick.services.notify.service.deliveries import PER_TENANT


@given(st.ip_addresses())
def test_what_is_not_public_is_blocked(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
    ):
        assert blocked(str(address))


@given(st.ip_addresses(v=4))
def test_an_inner_address_does_not_hide_in_an_outer_one(address: ipaddress.IPv4Address) -> None:
    high, low = divmod(int(address), 1 << 16)
    for outer in (
        f"::ffff:{address}",
        f"::{high:x}:{low:x}",
        f"64:ff9b::{high:x}:{low:x}",
        f"64:ff9b:1::{high:x}:{low:x}",
        f"2002:{high:x}:{low:x}::1",
        f"2001:0:{high:x}:{low:x}::1",
    ):
        assert blocked(outer), outer


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::1", "::", "fc00::1", "fe80::1", "fe80::1%eth0",
        "ff02::1", "2001:db8::1", "", "shop.example", "127.1", "2130706433", "0x7f.0.0.1", "::1%", "::ffff:127.0.0.1%", "2606:4700::1111%eth0", "fec0::1", "3fff::1", "5f00::1",
        "192.0.0.8", "192.0.0.192", "192.88.99.1", "168.63.129.16", "2001:20::1",
    ],
)  # fmt: skip
def test_known_ways_inside(address: str) -> None:
    assert blocked(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111"])
def test_public_addresses_are_not(address: str) -> None:
    assert not blocked(address)


def test_what_the_http_client_takes_for_an_address_is_one() -> None:
    hosts = ("1.2.3.4", "::1", "::1%", "::ffff:7f00:1%", "127.1", "127.0.0.1.", "2130706433", "0", "v1.fe80::1")
    names = ("shop.example", "0x7f.1", "v1.fe80", "")
    assert all(literal(host) for host in hosts)
    assert not any(literal(host) for host in names)
    # Not a rule of our own: an address that is none to us would be connected to unseen.
    assert all(literal(host) is is_ip_address(host) for host in hosts + names)


@given(st.text("0123456789abcdef.:%xv", max_size=20))
def test_the_clients_idea_of_an_address_is_ours(host: str) -> None:
    assert literal(host) is is_ip_address(host)


async def test_a_name_is_asked_each_time_and_each_answer_is_checked() -> None:
    answers = [["93.184.216.34", "2606:4700::1111"], ["93.184.216.34", "10.0.0.1"], []]

    async def resolve(host: str) -> list[str]:
        assert host == "shop.example"
        return answers.pop(0)

    resolver = CheckedResolver(resolve, private=False)
    found = await resolver.resolve("shop.example", 443)
    assert [(each["host"], each["port"], each["family"]) for each in found] == [
        ("93.184.216.34", 443, socket.AF_INET),
        ("2606:4700::1111", 443, socket.AF_INET6),
    ]
    assert all(each["flags"] & socket.AI_NUMERICHOST for each in found)
    for _ in range(2):
        with pytest.raises(AddressRefused):
            await resolver.resolve("shop.example", 443)
    assert answers == []


async def test_private_ones_where_the_operator_allows_them() -> None:
    async def resolve(host: str) -> list[str]:
        return ["127.0.0.1", "127.0.0.1"]

    (found,) = await CheckedResolver(resolve, private=True).resolve("inside", 80)
    assert found["host"] == "127.0.0.1"


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example"])
async def test_what_is_no_host_name_is_not_found(host: str) -> None:
    with pytest.raises(OSError, match="not a host name"):
        await system_resolve(host)


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f.0.0.1"])
async def test_the_systems_spellings_of_loopback_are_refused(host: str) -> None:
    try:
        await system_resolve(host)
    except OSError:
        pytest.skip("this system does not know that spelling")
    with pytest.raises(AddressRefused):
        await CheckedResolver(private=False).resolve(host, 443)


async def test_names_whose_servers_say_nothing_keep_nobody_elses_from_being_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many as a tenant may have under way at once."""
    hung = threading.Semaphore(0)
    at_last = threading.Event()

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        if host.startswith("slow"):
            hung.release()
            at_last.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.0.2.7", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    slow = [asyncio.create_task(system_resolve(f"slow-{number}.example")) for number in range(PER_TENANT * 2)]
    try:
        async with asyncio.timeout(30):
            assert await system_resolve("shop.example") == ["192.0.2.7"]
            for _ in slow:
                await asyncio.to_thread(hung.acquire)
    finally:
        at_last.set()
        await asyncio.gather(*slow)
