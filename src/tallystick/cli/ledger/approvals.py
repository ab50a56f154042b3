"""`tallystick ledger proposals`, `approve` and `reject`: transactions that wait for approval, and the signed decisions about them.

An approver signs exactly what was shown. The digest is computed here, from the proposal; if the ledger's digest differs, nothing is signed.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple
from uuid import UUID

import msgspec
from cyclopts import Parameter

from tallystick.cli.ledger.app import Book, Client, Shard, ask, ledger, named, pages, refused, run
from tallystick.cli.output import NO, OK, PART_FAILED, USAGE, Common, Failed, console, emit, escaped, print_line
from tallystick.kernel import ids
from tallystick.kernel.money import in_units
from tallystick.kernel.problem import Problem

if TYPE_CHECKING:
    from rich.console import Console

    from tallystick.cli.apiclient import ApiClient

Status = Literal["pending", "approved", "posted", "refused", "rejected", "expired", "all"]
Decision = Literal["approve", "reject"]
Proposal = Annotated[str, Parameter(help="a proposal's id (`prp_...`)")]
Approver = Annotated[
    Path, Parameter(name="--client", help="the approver's credentials file; its key signs the decision")
]
Yes = Annotated[bool, Parameter(help="decide without asking, for scripts", negative="")]

MOST: Final = 100_000
_WORDS: Final = {"approve": "approved", "reject": "rejected"}
#: Members of a command that its line shows in other words, or that it has from the transaction.
_SAID: Final = {"kind", "id", "debit", "credit", "amount", "currency", "transaction", "effective_at"}


class Seen(NamedTuple):
    """A proposal whose digest was checked. `moves`: the accounts (debit, credit) of the transfers that it reverses."""

    document: dict[str, Any]
    plan: dict[str, Any]
    moves: dict[str, tuple[str, str]]


class _Exact(msgspec.Struct, frozen=True):
    """The members that the digest covers; the transaction byte for byte."""

    book: str
    plan: str
    transaction: msgspec.Raw
    digest: str


@ledger.command
def proposals(
    proposal: Annotated[
        str | None, Parameter(help="show the proposal with this id (`prp_...`) [list proposals]")
    ] = None,
    /,
    *,
    status: Annotated[Status | None, Parameter(help="list only these [pending]")] = None,
    limit: Annotated[int, Parameter(help="the most to list")] = 200,
    book: Book = "main",
    shard: Shard = None,
    client: Client = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """List transactions that wait for approval, newest first; or show one, with what it would post, its rules and the decisions so far."""
    if proposal is not None:
        if status is not None:
            raise Failed("--status is for the list: leave out --status or the id", USAGE)
        own = _id(proposal)
        seen = run(common, client, lambda api: _look(api, own), shard=shard)
        if common.json:
            emit(seen.document, common)
        else:
            _show(seen, console())
        return
    if not 1 <= limit <= MOST:
        raise Failed(f"--limit must be between 1 and {MOST}", USAGE)
    wanted = status or "pending"
    query = {"book": book, "status": None if wanted == "all" else wanted}

    async def read(api: ApiClient) -> list[Any]:
        return [one async for one in pages(api, "/v1/proposals", query, limit)]

    found = run(common, client, read, shard=shard)
    if common.json:
        emit({"data": found}, common)
        return
    if not found:
        print(f"the book {book} has no proposals" if wanted == "all" else f"the book {book} has no {wanted} proposals")
        return
    _list(found)
    if len(found) == limit:
        console(error=True).print(f"[dim]the first {limit}; --limit shows more[/]")


@ledger.command
def approve(
    proposal: Proposal,
    /,
    *,
    client: Approver,
    yes: Yes = False,
    shard: Shard = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Show what a proposal would post, ask for confirmation, then sign and send the approval.

    The last approval posts it. Exit status 1 if it can't be posted.
    """
    return _decide(common, client, proposal, "approve", yes=yes, shard=shard)


@ledger.command
def reject(
    proposal: Proposal,
    /,
    *,
    client: Approver,
    yes: Yes = False,
    shard: Shard = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Show what a proposal would post, ask for confirmation, then sign and send the rejection. One rejection ends a proposal."""
    return _decide(common, client, proposal, "reject", yes=yes, shard=shard)


def _decide(common: Common, client: Path, proposal: str, decision: Decision, *, yes: bool, shard: str | None) -> int:
    """Making the same decision again changes nothing, so it is safe to repeat after an interruption. Raises Failed."""
    own = _id(proposal)
    if not yes and not sys.stdin.isatty():
        raise Failed(
            f"standard input is not a terminal: look at `tallystick ledger proposals {own}`, then decide with --yes",
            USAGE,
        )

    async def look(api: ApiClient) -> tuple[Seen, str]:
        return await _look(api, own), api.credentials.client_id

    seen, me = run(common, client, look, shard=shard)
    if (me, decision) in {(one["approver"], one["decision"]) for one in seen.document["decisions"]}:
        return _tell(seen.document, seen.plan, decision, common)
    if seen.document["status"] != "pending":
        raise Failed(f"the proposal can't be decided any more: it is {seen.document['status']}", NO)
    out = console(error=common.json)
    _show(seen, out)
    if not yes:
        out.print(f"\n{decision} it and sign that as {me}? \\[y/N] ", end="")
        if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
            raise Failed("nothing was signed", NO)

    async def send(api: ApiClient) -> Any:
        from tallystick.contracts.ledger.messages import STATEMENT_TYPE

        said = {"proposal": own, "digest": seen.document["digest"], "decision": decision, "iat": int(time.time())}
        body = {"signature": api.proof_key.statement(STATEMENT_TYPE, said)}
        return await ask(api, "POST", f"/v1/proposals/{own}/{decision}", body)

    # A new client, not the one that looked: its connection may have been closed meanwhile, and a POST without a key is not retried.
    return _tell(run(common, client, send, own_key=True, shard=shard), seen.plan, decision, common)


async def _look(api: ApiClient, own: str) -> Seen:
    """Fetch a proposal and check its digest. Raises Failed, also if the digest does not match."""
    answer = await api.request("GET", f"/v1/proposals/{own}")
    if not answer.ok:
        raise refused(answer)
    document, exact = answer.json(), msgspec.json.decode(answer.body, type=_Exact)
    said = {"book": exact.book, "plan": exact.plan, "proposal": own, "transaction": exact.transaction}
    if hashlib.sha256(msgspec.json.encode(said)).hexdigest() != exact.digest:
        raise Failed("the proposal's digest does not match its content: don't sign it, ask the operator", PART_FAILED)
    plan = json.loads(exact.plan)
    moves = {}
    if reverses := plan["header"]["reverses"]:
        path = f"/v1/transactions/{ids.transactions.text(UUID(reverses))}"  # type: ignore[arg-type]
        undone = await ask(api, "GET", path, query={"book": exact.book})
        moves = {one["id"]: (one["credit_account"], one["debit_account"]) for one in undone["transfers"]}
    return Seen(document, plan, moves)


def _list(found: list[Any]) -> None:
    """Print proposals as lines, not a table, so that ids stay whole."""
    out = console()
    for one in found:
        plan = json.loads(one["plan"])
        waits = f"{one['missing']} to come, until {one['expires_at'][:19].replace('T', ' ')}"
        state = waits if one["status"] == "pending" else one["status"]
        print_line(
            f"{one['id']}  [bold]{_sums(plan)}[/]  {escaped(plan['header']['reference'] or '')}  [dim]{state}[/]", out
        )


def _show(seen: Seen, out: Console) -> None:
    """Print what would be posted, from the plan alone, since that is what is signed. Nothing is cut off, however narrow the terminal."""
    document, header, commands = seen.document, seen.plan["header"], seen.plan["commands"]
    state = f"until {document['expires_at']}" if document["status"] == "pending" else _why(document)
    print_line(f"[bold]{document['id']}[/]  {document['status']}  [dim]{state}[/]", out)
    print_line(f"[dim]proposed by {document['proposer']}, {document['created_at']}[/]", out)
    does = {"pending": "would post", "approved": "would post", "posted": "posted"}.get(
        document["status"], "would have posted"
    )
    out.print(f"\n[bold]{does}[/] {_sums(seen.plan)} in the book {document['book']}")
    for name, value in header.items():
        if value is not None:
            word = "transaction" if name == "id" else name.replace("_", " ")
            out.print(f"[dim]{word}[/] {_text(name, value)}")
    for place, one in enumerate(commands, 1):
        debit, credit = map(escaped, _accounts(seen, one))
        print_line(f"[dim]{place}[/] {one['kind']} {_amount(one)}  {debit} -> {credit}  {_rest(one)}".rstrip(), out)
    out.print("\n[bold]rules[/]")
    for rule in document["rules"]:
        above = in_units(int(rule["above"]), rule["currency"])
        where = f" on {rule['pattern']}" if rule.get("pattern") else ""
        print_line(
            f"above {above} {rule['currency']}{where}: {rule['approvals']} of [dim]{', '.join(rule['approvers'])}[/]",
            out,
        )
    for one in document["decisions"]:
        print_line(f"{_WORDS[one['decision']]} by {one['approver']}  [dim]{one['at']}[/]", out)
    if document["status"] == "pending":
        out.print(f"{document['missing']} to come")
    out.print(f"\n[dim]digest {document['digest']}[/]")


def _accounts(seen: Seen, command: dict[str, Any]) -> tuple[str, str]:
    if command["target"] is None:
        return command["debit"] or "", command["credit"] or ""
    return seen.moves.get(ids.transfers.text(UUID(command["target"])), ("", ""))  # type: ignore[arg-type]


def _amount(command: dict[str, Any]) -> str:
    if command["amount"] is None:
        return "all of it"
    most = "up to " if command["balancing"] else ""
    return f"{most}{in_units(command['amount'], command['currency'])} {command['currency']}"


def _rest(command: dict[str, Any]) -> str:
    """All other members of a command, whatever they are: nothing may be signed that was not shown."""
    return ", ".join(
        name if value is True else f"{name.replace('_', ' ')} {_text(name, value)}"
        for name, value in command.items()
        if name not in _SAID and value is not None and value is not False
    )


def _text(name: str, value: Any) -> str:
    if name == "target":
        return ids.transfers.text(UUID(value))  # type: ignore[arg-type]
    if name in {"id", "reverses"}:
        return ids.transactions.text(UUID(value))  # type: ignore[arg-type]
    return escaped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _sums(plan: dict[str, Any]) -> str:
    sums: Counter[str] = Counter()
    for one in plan["commands"]:
        if one["amount"] is not None:
            sums[one["currency"]] += one["amount"]
    return ", ".join(f"{in_units(amount, code)} {code}" for code, amount in sums.items())


def _why(document: dict[str, Any]) -> str:
    """Why it was refused, and for which account."""
    return ", ".join(escaped(document[name]) for name in ("reason", "account") if document.get(name))


def _tell(document: dict[str, Any], plan: dict[str, Any], decision: Decision, common: Common) -> int:
    """Print the outcome. Exit status 1 if it is not the decision's intent."""
    status = document["status"]
    wanted = status == "rejected" if decision == "reject" else status in {"pending", "approved", "posted"}
    if common.json:
        emit(document, common)
        return OK if wanted else NO
    more = {
        "pending": f"{document['missing']} more to come",
        "approved": "it will be posted in a moment; `tallystick ledger proposals` with its id shows when",
        "posted": f"posted {_text('id', plan['header']['id'])} in the book {document['book']}",
        "refused": f"it can't be posted: {_why(document)}",
        "rejected": "the proposal has ended, nothing is posted" if wanted else "somebody has rejected the proposal",
    }
    colour = "green" if wanted else "red"
    console().print(f"[{colour}]{_WORDS[decision]}[/]  {more.get(status, status)}")
    return OK if wanted else NO


def _id(text: str) -> str:
    """A checked proposal id, quoted for a path. Raises Failed."""
    try:
        ids.proposals.parse(text)
    except Problem as problem:
        raise Failed(
            f"{text!r} is not a proposal's id: {problem.detail}; `tallystick ledger proposals` lists them", USAGE
        ) from None
    return named(text)
