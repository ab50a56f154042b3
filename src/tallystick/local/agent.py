"""The identity agent: renews every workload's certificate, and gives it to Envoy (SDS over ADS), which presents it for the workload.

Each certificate is renewed at half of its life, at a moment of its own (jitter), so that not all services change at once. Keys exist in
this process and in Envoy's memory only.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from tallystick.fabric.envoy import BUNDLE, EDGE_IDENTITY, Json, identity, message
from tallystick.kernel.clock import Clock
from tallystick.local.ads import AdsServer
from tallystick.local.pki import BACKDATE, LEAF_LIFE, Authority, Leaf

#: Seconds between two looks for certificates that are due. After a machine slept for an hour all have expired, and no call works until the next look.
EVERY: Final = 1.0
JITTER: Final = 0.1


def due(now: datetime, life: timedelta, luck: float) -> datetime:
    """When to renew a certificate that is made now: at half of its life, 10 % earlier or later by `luck` (-1..1). Pure."""
    return now + life * (0.5 + JITTER * luck)


class IdentityAgent:
    """`workloads` maps a service to its SPIFFE ID. `on_bundle(pem)` is called at the start and when the trusted roots change; if it fails, it is
    called again at the next look. `on_error` is called if something could not be renewed; that is tried again too.
    """

    def __init__(
        self,
        authority: Authority,
        ads: AdsServer,
        workloads: Mapping[str, str],
        *,
        clock: Clock,
        on_bundle: Callable[[bytes], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._authority = authority
        self._ads = ads
        self._workloads = dict(workloads)
        self._clock = clock
        self._on_bundle = on_bundle
        self._on_error = on_error
        self._latest = clock.now()
        self._due: dict[str, datetime] = {}
        self._published = b""

    def issue_all(self) -> None:
        """Issue certificates for everyone. The bundle comes first: a peer must trust what it is shown."""
        self._publish_bundle()
        for name in (EDGE_IDENTITY, *map(identity, self._workloads)):
            self._issue(name)

    async def run(self, every: float = EVERY) -> None:
        """Renew what is due, for as long as the platform runs."""
        failing = False
        while True:
            await asyncio.sleep(every)
            try:
                await self.renew()
            except Exception as error:  # noqa: BLE001 - whatever it was (a full disk, say): without certificates everything ends
                if not failing:  # once, until it works again
                    self._on_error(error)
                failing = True
            else:
                failing = False

    async def renew(self) -> list[str]:
        """Renew what is due, and return its names. If the authority itself can't be renewed, leaves still are, as long as it can sign."""
        failed: Exception | None = None
        try:
            await self._authority.renew()
            self._publish_bundle()
        except Exception as error:  # noqa: BLE001 - raised below
            failed = error
        now = self._clock.now()
        # If the clock was set back by more than certificates are backdated, none is valid yet.
        back = now + BACKDATE < self._latest
        self._latest = now if back else max(now, self._latest)
        names = [name for name, at in self._due.items() if back or at <= now]
        for name in names:
            self._issue(name)
        if failed is not None:
            raise failed
        return names

    def _issue(self, name: str) -> None:
        owners = {identity(service): spiffe for service, spiffe in self._workloads.items()}
        leaf = self._authority.edge() if name == EDGE_IDENTITY else self._authority.service(owners[name])
        self._ads.put("secret", {name: message("secret", _certificate(name, leaf))})
        now = self._clock.now()
        # Near the end of the issuer's life leaves get shorter, and so does the time until the next renewal.
        self._due[name] = due(now, min(LEAF_LIFE, leaf.ends - now), random.uniform(-1, 1))  # noqa: S311 - jitter, not a secret

    def _publish_bundle(self) -> None:
        bundle = self._authority.bundle
        if bundle == self._published:
            return
        content: Json = {"name": BUNDLE, "validation_context": {"trusted_ca": {"inline_string": bundle.decode()}}}
        self._ads.put("secret", {BUNDLE: message("secret", content)})
        self._on_bundle(bundle)
        self._published = bundle


def _certificate(name: str, leaf: Leaf) -> Json:
    return {
        "name": name,
        "tls_certificate": {
            "certificate_chain": {"inline_string": leaf.chain.decode()},
            "private_key": {"inline_string": leaf.key.decode()},
        },
    }
