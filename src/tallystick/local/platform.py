"""One platform on one machine, from the first process to the last: `start`, `status`, `stop`.

Starting, everything that can goes at once: PostgreSQL, NATS, Valkey, the authority with the control plane and Envoy. A service starts as
soon as its own database is migrated and the bus and the store are there. Stopping goes the other way round, in the order of who needs
whom: no new requests, those under way end, services, proxy, parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from tallystick.chassis import telemetry
from tallystick.chassis.charter import Charter, pairs, workloads
from tallystick.chassis.keys import root as root_key
from tallystick.chassis.keys.root import RootError
from tallystick.chassis.migrate import MigrationError
from tallystick.chassis.telemetry.metrics import exposition
from tallystick.fabric import envoy as fabric_envoy
from tallystick.kernel.clock import Clock, SystemClock, rfc3339
from tallystick.kernel.secret import Secret
from tallystick.local import control, logs, ops, provision
from tallystick.local.ads import AdsServer, Rejection
from tallystick.local.agent import IdentityAgent
from tallystick.local.collector import Collector
from tallystick.local.environment import Options, environment
from tallystick.local.layout import Layout, LayoutError
from tallystick.local.parts import Nats, Postgres, Valkey
from tallystick.local.parts.envoy import Envoy
from tallystick.local.parts.process import resident_mib, write_private
from tallystick.local.pki import Authority, PkiError
from tallystick.local.program import program_version
from tallystick.local.rail_part import RailPart
from tallystick.local.replica import Replica
from tallystick.local.sampling import Sampler
from tallystick.local.secrets import SecretFiles, read_passphrase
from tallystick.local.slowly import Slowly
from tallystick.local.state import State
from tallystick.local.supervisor import Keeper, StartFailed
from tallystick.local.tasks import together
from tallystick.local.whole import faults

HOSTS: Final = ("localhost", "127.0.0.1", "::1")
#: Seconds that requests under way get to finish at a stop, when no new ones are accepted any more.
EDGE_DRAIN: Final = 5.0
#: Errors whose messages say what is wrong and what to do. The messages of others need the error's type with them.
FORESEEN: Final = (LayoutError, RootError, PkiError, MigrationError)
_ACTIVE = re.compile(rb"downstream_rq_active: (\d+)")


Report = Callable[[str, str, str], None]
"""Called as `report(process, phase, detail)` at each change."""


class Platform:
    """`charters` are the services and shards to run, by the name of the deployment. Everything lies in `layout`, whose lock the caller holds."""

    def __init__(
        self,
        layout: Layout,
        state: State,
        charters: Mapping[str, Charter],
        *,
        options: Options,
        report: Report,
        clock: Clock | None = None,
    ) -> None:
        self.layout = layout
        self.state = state
        self.charters = dict(charters)
        self.options = options
        self.clock = clock or SystemClock()
        self.ready = False
        self.stopping = False
        self._report = report
        self._started_at = self.clock.now()
        self._program = program_version()
        self._secrets = SecretFiles(layout.secrets)
        self._ads = AdsServer(layout.ads, self._rejected)
        self._collector = Collector(layout.collector, layout.traces, options.otlp_endpoint, self._trace_error)
        self._ops = ops.OpsServer(state.ops_port, self._metric_sources)
        self._parts: dict[str, Keeper] = {}
        self._services: dict[str, list[Keeper]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._migrating: dict[str, str] = {}
        self._topology = fabric_envoy.Topology(
            trust_domain=state.trust_domain,
            public_port=state.port,
            mtls_port=state.mtls_port,
            mesh_dir=layout.mesh,
            ads_socket=layout.ads,
            admin_socket=layout.envoy_admin,
            collector_socket=layout.collector,
            replicas={name: self._sockets(name) for name in charters},
            trace_percent=100.0,
        )
        self._up = telemetry.gauge("process_up", "1 while the process is ready", ["process"])
        self._restarts = telemetry.gauge("process_restarts", "How often the process was started again", ["process"])

    # ---- starting --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start everything, and return when it is ready. Raises StartFailed, after stopping what was started."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        self.ready = True

    async def _start(self) -> None:
        async with _group() as group:
            self._clear_leftovers()
            self._find_whole()
            for caller, _ in pairs(self.charters):
                (self.layout.mesh / caller).mkdir(mode=0o700, exist_ok=True)
            try:
                await self._ops.start()
            except OSError as error:
                raise StartFailed(
                    f"port {self.state.ops_port} (metrics) is not available: {error.strerror}; choose another with --ops-port"
                ) from error
            self._keep_parts()
            for name in ("postgres", "nats", "valkey", "rail"):
                self._parts[name].start()
            group.create_task(self._start_proxy())
            databases = group.create_task(self._databases())
            for name in ("nats", "valkey", "rail"):
                group.create_task(self._parts[name].until_ready())
            for service in self.charters:
                group.create_task(self._start_service(service, databases))
        if "audit" in self.charters:
            self._background(databases.result().pin_log_key(), "log-key")
        self._background(logs.rotate(self.layout.logs, self._log_error), "logs")

    def _clear_leftovers(self) -> None:
        """Sockets of a platform that was killed: we hold the lock, so nobody listens on them."""
        for path in sorted(self.layout.run.rglob("*.sock")):
            if path != self.layout.control:  # the session's own, which is served already
                path.unlink(missing_ok=True)

    def _keep_parts(self) -> None:
        layout, secrets = self.layout, self._secrets
        accounts = provision.bus_accounts(self.charters, secrets)
        self._parts["postgres"] = self._keeper(
            Postgres(
                layout.postgres,
                layout.postgres_sockets,
                password=secrets.get("postgres"),
                log=layout.log("postgres"),
            )
        )
        self._parts["nats"] = self._keeper(
            Nats(layout.nats, port=self.state.nats_port, accounts=accounts, log=layout.log("nats"))
        )
        self._parts["valkey"] = self._keeper(
            Valkey(
                layout.valkey,
                layout.valkey_socket,
                users=provision.valkey_users(self.charters, secrets),
                log=layout.log("valkey"),
            )
        )
        outbound = [self._topology.outbound(caller, target) for caller, target in pairs(self.charters)]
        inbound = [self._topology.inbound(name) for name in self.charters]
        self._parts["envoy"] = self._keeper(
            Envoy(
                layout.data / "envoy",
                layout.envoy_admin,
                bootstrap=json.dumps(fabric_envoy.bootstrap(self._topology), indent=2),
                arguments=fabric_envoy.ARGUMENTS,
                sockets=[*outbound, *inbound],
                log=layout.log("envoy"),
            )
        )
        self._parts["rail"] = self._keeper(
            RailPart(layout.run / "rail.sock", layout.data / "rail.sqlite", layout.log("rail"))
        )

    async def _start_proxy(self) -> None:
        """Authority, control plane, proxy. The proxy is ready with no replica behind it; they come by EDS as they get ready."""
        authority = await Authority.open(
            self.layout.authority, self._open_root, trust_domain=self.state.trust_domain, hosts=HOSTS, clock=self.clock
        )
        found = fabric_envoy.resources(self.charters, self._topology)
        by_name = {"listener": found.listeners, "cluster": found.clusters}
        for kind, resources in by_name.items():
            self._ads.put(
                kind,  # type: ignore[arg-type]
                {item["name"]: fabric_envoy.message(kind, item) for item in resources},  # type: ignore[arg-type]
            )
        for name in self.charters:
            self._put_endpoints(name)
        agent = IdentityAgent(
            authority,
            self._ads,
            {name: self._topology.spiffe(name) for name in workloads(self.charters)},
            clock=self.clock,
            on_bundle=self._publish_bundle,
            on_error=lambda error: self._report("certificates", "error", f"{type(error).__name__}: {error}"),
        )
        agent.issue_all()
        await self._ads.start()
        await self._collector.start()
        keeper = self._parts["envoy"]
        keeper.start()
        await keeper.until_ready()
        if self._ads.rejections:
            raise StartFailed(f"envoy refused its configuration: {self._ads.rejections[0].text}")
        self._background(agent.run(), "identity-agent")
        if isinstance(keeper.unit, Envoy):
            self._background(Sampler(keeper.unit).run(), "sampler")

    def _find_whole(self) -> None:
        """Refuse damaged or missing data: with new, empty databases everything would seem to be well."""
        mended = []
        for fault in faults(self.layout):
            if not fault.mended:
                raise StartFailed(fault.text)
            mended.append(fault.text)
        if mended:
            self._report("data", "error", "; ".join(mended))
        # Made at the first start only: a new root key could not decrypt any existing data.
        if not self.layout.root_key.exists():
            root_key.create(self.layout.root_key, self._passphrase())

    def _passphrase(self) -> Secret[str] | None:
        return read_passphrase(self.options.root_passphrase_file)

    async def _open_root(self) -> root_key.Root:
        return await root_key.LocalRoot.open(self.layout.root_key, self._passphrase())

    async def _databases(self) -> provision.Databases:
        server, databases = self._parts["postgres"], provision.Databases(self.layout, self._secrets)
        await server.until_ready()
        await server.served(partial(databases.create, self.charters), provision.lost)
        return databases

    async def _start_service(self, service: str, databases: asyncio.Task[provision.Databases]) -> None:
        with Slowly(partial(self._migrates, service)) as told:
            migrate = partial((await asyncio.shield(databases)).migrate, service, told.begins)
            await self._parts["postgres"].served(migrate, provision.lost)
        for name in ("nats", "valkey", "envoy"):
            await self._parts[name].until_ready()
        parts, numbers = self._parts.values(), range(self._count(service))
        self._services[service] = keepers = [self._keeper(self._replica(service, number), *parts) for number in numbers]
        for keeper in keepers:
            keeper.start()
        await asyncio.gather(*(keeper.until_ready() for keeper in keepers))

    def _migrates(self, service: str, file: str | None) -> None:
        if file is None:
            if self._migrating.pop(service, None) is not None:
                self._report(service, "migrated", "")
        else:
            self._migrating[service] = file
            self._report(service, "migrating", file)

    def _count(self, service: str) -> int:
        return self.state.replicas.get(service, self.charters[service].scale.min_replicas)

    def _sockets(self, service: str) -> tuple[Path, ...]:
        return tuple(self.layout.listen(service, number) for number in range(self._count(service)))

    def _replica(self, service: str, number: int) -> Replica:
        return Replica(
            service,
            number,
            listen=self.layout.listen(service, number),
            environment=environment(self.layout, self.state, self.options, self.charters[service], number),
            log=self.layout.log(f"{service}-{number}"),
        )

    # ---- while it runs ---------------------------------------------------------------------------------------------

    def _keeper(self, unit: Any, *needs: Keeper) -> Keeper:
        return Keeper(unit, name=unit.name, clock=self.clock, on_change=self._changed, needs=needs)

    def _changed(self, keeper: Keeper) -> None:
        view = keeper.view
        self._up.labels(view.name).set(1 if view.ready else 0)
        self._restarts.labels(view.name).set(view.restarts)
        if isinstance(keeper.unit, Replica) and view.phase in {"ready", "restarting", "stopping"}:
            self._put_endpoints(keeper.unit.service)
        self._report(view.name, view.phase, view.error or "")

    def _put_endpoints(self, service: str) -> None:
        """Tell the proxy who is there. A replica that is running but not ready just now stays: the proxy checks that itself."""
        listed = [
            keeper.unit.listen
            for keeper in self._services.get(service, [])
            if isinstance(keeper.unit, Replica) and keeper.view.phase in {"ready", "unready"}
        ]
        found = fabric_envoy.endpoints(service, listed)
        self._ads.put("endpoints", {found["cluster_name"]: fabric_envoy.message("endpoints", found)})

    def _rejected(self, rejection: Rejection) -> None:
        self._report("envoy", "rejected", rejection.text)

    def _publish_bundle(self, bundle: bytes) -> None:
        write_private(self.layout.ca, bundle.decode(), mode=0o644)

    def _trace_error(self, error: Exception) -> None:
        self._report("collector", "error", f"spans of the proxy are dropped: {type(error).__name__}: {error}")

    def _log_error(self, error: OSError) -> None:
        self._report("logs", "error", str(error))

    def _background(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._background_ended)
        self._tasks.append(task)

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._report(task.get_name(), "error", f"{type(error).__name__}: {error}")

    def _metric_sources(self) -> dict[tuple[str, str], ops.Source]:
        async def own() -> bytes:
            return exposition()

        sources: dict[tuple[str, str], ops.Source] = {("supervisor", "0"): own}
        sources["envoy", "0"] = ops.from_socket(self.layout.envoy_admin, "/stats/prometheus")
        for service, keepers in self._services.items():
            for number, _ in enumerate(keepers):
                sources[service, str(number)] = ops.from_socket(self.layout.listen(service, number))
        return sources

    def status(self) -> control.Status:
        parts = [control.PartStatus(name=name, **_state(keeper)) for name, keeper in self._parts.items()]
        services = [
            control.ServiceStatus(
                name=service,
                memory_mib=self.charters[service].scale.memory_mib,
                replicas=[
                    control.ReplicaStatus(
                        **_state(keeper),
                        memory_mib=resident_mib(keeper.view.pid),
                        socket=str(self.layout.listen(service, number)),
                    )
                    for number, keeper in enumerate(keepers)
                ],
            )
            for service, keepers in sorted(self._services.items())
        ]
        whole = all(part.ready for part in parts) and all(r.ready for s in services for r in s.replicas)
        return control.Status(
            edge=self.state.url,
            mtls=self.state.mtls_url,
            ca=str(self.layout.ca),
            ops=f"http://127.0.0.1:{self.state.ops_port}",
            data=str(self.layout.data),
            program=self._program,
            pid=os.getpid(),
            ready=self.ready and whole,
            stopping=self.stopping,
            migrating=dict(self._migrating),
            started_at=rfc3339(self._started_at),
            parts=parts,
            services=services,
            shards=self.state.shards,
            replicas={name: self._count(name) for name in self.charters},
            rejections=[rejection.text for rejection in self._ads.rejections],
        )

    # ---- stopping --------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Everything, gently, in the order of need; also after a start that failed halfway. Leaves no process and no socket.

        A step that fails is reported and does not keep the others from being taken.
        """
        self.ready, self.stopping = False, True
        self._migrating.clear()
        proxy = [keeper for name, keeper in self._parts.items() if name == "envoy"]
        others = [keeper for name, keeper in self._parts.items() if name != "envoy"]
        await self._all(self._close_edge())
        await self._all(*(keeper.stop() for keepers in self._services.values() for keeper in keepers))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._all(*(keeper.stop() for keeper in proxy))
        await self._all(self._collector.stop(), self._ads.stop(), self._ops.stop())
        await self._all(*(keeper.stop() for keeper in others))
        self._clear_leftovers()

    async def _all(self, *steps: Awaitable[None]) -> None:
        for result in await asyncio.gather(*steps, return_exceptions=True):
            if isinstance(result, BaseException):
                self._report("supervisor", "error", f"while stopping: {type(result).__name__}: {result}")

    async def _close_edge(self) -> None:
        """Take the public listeners away, so that nothing new comes in, and wait for what is under way."""
        envoy = self._parts["envoy"].unit if "envoy" in self._parts else None
        if not isinstance(envoy, Envoy) or envoy.pid is None:
            return
        for name in fabric_envoy.EDGE_LISTENERS:
            self._ads.remove("listener", name)
        loop = asyncio.get_running_loop()
        ending = loop.time() + EDGE_DRAIN
        while loop.time() < ending:
            await asyncio.sleep(0.05)
            with contextlib.suppress(OSError, TimeoutError, ValueError):
                _, body = await envoy.ask("GET", r"/stats?filter=^http\.edge\.downstream_rq_active$")
                active = _ACTIVE.search(body)
                if active is None or int(active[1]) == 0:
                    return
                continue
            return


def _state(keeper: Keeper) -> dict[str, Any]:
    """The fields of a `control.ProcessStatus`."""
    view = keeper.view
    return {
        "version": view.version,
        "pid": view.pid,
        "ready": view.ready,
        "phase": view.phase,
        "restarts": view.restarts,
        "started_at": view.started_at,
        "error": view.error,
    }


@contextlib.asynccontextmanager
async def _group() -> Any:
    try:
        async with together() as group:
            yield group
    except StartFailed:
        raise
    except Exception as error:
        raise StartFailed(str(error) if isinstance(error, FORESEEN) else f"{type(error).__name__}: {error}") from error
