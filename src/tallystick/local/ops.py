"""Metrics on loopback: `/metrics/<service>/<replica>`, `/metrics/envoy/0`, `/metrics/supervisor/0`, and `/sd`, which lists them.

`/sd` is Prometheus' HTTP service discovery: one entry in its configuration (`http_sd_configs: [{url: http://127.0.0.1:8444/sd}]`) and
every replica is scraped as it comes and goes. Services have no port of their own, so this passes their answers on. There is nothing
about a person or a payment in a metric; who can reach loopback may read them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from tallystick.local.parts.envoy import unix_http

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
Source = Callable[[], Awaitable[bytes]]


class OpsServer:
    """`sources` answers, at each request, which (job, replica) there are and how to read one."""

    def __init__(self, port: int, sources: Callable[[], Mapping[tuple[str, str], Source]]) -> None:
        self.port = port
        self._sources = sources
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        application = web.Application(middlewares=[_local_names_only], client_max_size=1024)
        application.router.add_get("/sd", self._discovery)
        application.router.add_get("/metrics/{job}/{replica}", self._metrics)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _discovery(self, request: web.Request) -> web.Response:
        del request
        found: list[dict[str, Any]] = [
            {
                "targets": [f"127.0.0.1:{self.port}"],
                "labels": {"__metrics_path__": f"/metrics/{job}/{replica}", "job": job, "replica": replica},
            }
            for job, replica in sorted(self._sources())
        ]
        return web.json_response(found)

    async def _metrics(self, request: web.Request) -> web.Response:
        source = self._sources().get((request.match_info["job"], request.match_info["replica"]))
        if source is None:
            return web.Response(status=404, text="there is no such process; GET /sd lists them\n")
        try:
            body = await source()
        except (OSError, TimeoutError, ValueError) as error:
            return web.Response(status=503, text=f"it did not answer: {type(error).__name__}\n")
        return web.Response(body=body, headers={"content-type": TEXT})


def from_socket(socket: Path, path: str = "/metrics") -> Source:
    """A source that asks a process over its Unix socket."""

    async def read() -> bytes:
        status, body = await unix_http(socket, "GET", path, timeout=5.0)
        if status != 200:
            raise ValueError(f"status {status}")
        return body

    return read


@web.middleware
async def _local_names_only(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """A web page whose host name was pointed at 127.0.0.1 (DNS rebinding) still sends its own name."""
    if request.url.host not in {"127.0.0.1", "localhost", "::1"}:
        return web.Response(status=421, text="only by a loopback name\n")
    return await handler(request)
