"""Identity, wired."""

from __future__ import annotations

from datetime import timedelta

from valkey.asyncio import Valkey

from tallystick.chassis.app import Runtime, Wiring
from tallystick.chassis.auth import Authorizer
from tallystick.chassis.auth.replay import ProofStore
from tallystick.chassis.bus import REVOCATIONS
from tallystick.chassis.db import Database
from tallystick.chassis.keys import Keyring
from tallystick.chassis.outbox import Outbox
from tallystick.kernel.clock import Clock
from tallystick.services.identity.api import ENDPOINTS
from tallystick.services.identity.model.failures import FailureLimit
from tallystick.services.identity.model.signing import Rotation
from tallystick.services.identity.service import Identity
from tallystick.services.identity.service.administration import Administration
from tallystick.services.identity.service.authentication import ClientAuthentication
from tallystick.services.identity.service.failures import FailureLog
from tallystick.services.identity.service.revocations import Publish, Revocations
from tallystick.services.identity.service.signing import SigningKeys
from tallystick.services.identity.service.tokens import AccessTokens
from tallystick.services.identity.service.transactions import TransactionTokens
from tallystick.services.identity.settings import Settings
from tallystick.services.identity.store import SEALED, Store
from tallystick.services.identity.worker import SCHEDULES, SUBSCRIPTIONS

SETTINGS = Settings


async def wire(runtime: Runtime) -> Wiring:
    settings = runtime.settings_as(Settings)

    async def publish(message: bytes) -> None:
        await runtime.bus.publish(REVOCATIONS, message)

    service = assemble(
        database=runtime.database,
        outbox=Outbox(),
        keyring=runtime.keyring,
        valkey=runtime.valkey,
        clock=runtime.clock,
        authorizer=runtime.authorizer,
        publish=publish,
        issuer=settings.public_url,
        mtls_origin=settings.mtls_url,
        trust_domain=settings.trust_domain,
        rotation=Rotation(
            life=timedelta(hours=settings.key_life_hours),
            publish_ahead=timedelta(minutes=settings.key_publish_minutes),
        ),
    )
    # The very first start makes the keys; later ones find them.
    await service.keys.rotate()

    async def close() -> None:
        await service.failures.tell(all_of_it=True)

    return Wiring(
        service=service,
        endpoints=ENDPOINTS,
        subscriptions=SUBSCRIPTIONS,
        schedules=SCHEDULES,
        sealed=SEALED,
        close=close,
    )


def assemble(
    *,
    database: Database,
    outbox: Outbox,
    keyring: Keyring,
    valkey: Valkey,
    clock: Clock,
    authorizer: Authorizer,
    publish: Publish,
    issuer: str,
    mtls_origin: str,
    trust_domain: str,
    rotation: Rotation,
) -> Identity:
    """Wire the use cases."""
    store = Store(database)
    revocations = Revocations(store, clock, publish)
    keys = SigningKeys(
        database=database,
        store=store,
        outbox=outbox,
        keyring=keyring,
        clock=clock,
        revocations=revocations,
        rotation=rotation,
    )
    failures = FailureLog(database=database, store=store, outbox=outbox, clock=clock, limit=FailureLimit())
    tokens = AccessTokens(
        database=database,
        store=store,
        outbox=outbox,
        clock=clock,
        issuer=issuer,
        mtls_origin=mtls_origin,
        keys=keys,
        revocations=revocations,
        seen=ProofStore(valkey, "identity"),
    )
    return Identity(
        issuer=issuer,
        mtls_origin=mtls_origin,
        authentication=ClientAuthentication(store, clock, issuer, failures),
        tokens=tokens,
        transactions=TransactionTokens(
            database=database,
            store=store,
            outbox=outbox,
            clock=clock,
            authorizer=authorizer,
            keys=keys,
            access_tokens=tokens,
            issuer=issuer,
            trust_domain=trust_domain,
        ),
        keys=keys,
        revocations=revocations,
        administration=Administration(
            database=database,
            store=store,
            outbox=outbox,
            clock=clock,
            authorizer=authorizer,
            keys=keys,
            revocations=revocations,
        ),
        failures=failures,
    )
