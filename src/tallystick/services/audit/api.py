"""All that arrives at audit by HTTP: the files of C2SP tlog-tiles, and receipts."""

from __future__ import annotations

from typing import Any

from tallystick.chassis.web import Endpoint, Reply, Request
from tallystick.contracts.audit.messages import InnerReceipt, ReceiptQuery, TilePath
from tallystick.contracts.audit.problems import LogEmpty, ReceiptNotFound, TileNotFound
from tallystick.kernel import ids
from tallystick.services.audit.service import Log

_TEXT = {"Content-Type": "text/plain; charset=utf-8"}
_BYTES = {"Content-Type": "application/octet-stream", "Cache-Control": "private, max-age=31536000, immutable"}


async def checkpoint(log: Log, request: Request) -> Reply[Any]:
    del request
    return Reply.raw((await log.checkpoint()).encode(), headers=_TEXT)


async def key(log: Log, request: Request) -> Reply[Any]:
    del request
    return Reply.raw((await log.verifier_key() + "\n").encode(), headers=_TEXT)


async def tile(log: Log, request: Request) -> Reply[Any]:
    return Reply.raw(await log.tile(request.path["tile"]), headers=_BYTES)


async def receipt(log: Log, request: Request[None, ReceiptQuery]) -> Reply[Any]:
    fact = ids.facts.parse(request.path["id"])
    text, _ = await log.receipt(fact, tenant=request.subject.tenant, wait=request.query.wait_ms / 1000)
    return Reply.raw(text.encode(), headers=_TEXT)


async def inner_receipt(log: Log, request: Request[None, ReceiptQuery]) -> Reply[InnerReceipt]:
    fact = ids.facts.parse(request.path["id"])
    # A service waits for what it told itself, whatever others told under the same id.
    text, index = await log.receipt(fact, service=request.caller, wait=request.query.wait_ms / 1000)
    return Reply(InnerReceipt(text, index))


ENDPOINTS = (
    Endpoint(
        "GET", "/v1/audit/checkpoint", checkpoint, scope="audit:read", action="readLog", resource="Log", rate="read",
        produces="text/plain", problems=(LogEmpty,), summary="The newest signed head of the log",
    ),
    Endpoint(
        "GET", "/v1/audit/key", key, scope="audit:read", action="readLog", resource="Log", rate="read",
        produces="text/plain", summary="The log's public key, to verify checkpoints and receipts with",
    ),
    Endpoint(
        "GET", "/v1/audit/tile/{tile:path}", tile, scope="audit:read", action="readLog", resource="Log", rate="read",
        produces="application/octet-stream", problems=(TileNotFound,),
        segments={"tile": TilePath}, summary="A tile of the Merkle tree, or a bundle of its entries (C2SP tlog-tiles)",
    ),
    Endpoint(
        "GET", "/v1/audit/receipts/{id}", receipt, scope="audit:read", action="readReceipt", resource="Receipt",
        query=ReceiptQuery, rate="read", produces="text/plain", problems=(ReceiptNotFound, ids.InvalidId),
        segments={"id": ids.FactIdWire}, summary="The proof that a fact is in the log, to be verified offline (C2SP tlog-proof)",
    ),
    Endpoint(
        "GET", "/internal/receipts/{id}", inner_receipt, mesh=("vault",), action="readReceipt", resource="Receipt",
        query=ReceiptQuery, answer=InnerReceipt, problems=(ReceiptNotFound, ids.InvalidId),
        segments={"id": ids.FactIdWire}, summary="Wait until a fact is in the log",
    ),
)  # fmt: skip
