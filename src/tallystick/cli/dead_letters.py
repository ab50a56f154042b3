"""`tallystick dead-letters`: facts that a consumer could not process, although each was tried several times by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from uuid import UUID

from cyclopts import App, Parameter

from tallystick.cli.output import NO, OK, PART_FAILED, USAGE, Common, Failed, console, emit, escaped, print_line

if TYPE_CHECKING:
    from tallystick.chassis.db import Database
    from tallystick.chassis.dead_letters import DeadLetter, State

T = TypeVar("T")
#: Letters read at a time: each contains its whole fact.
PAGE: Final = 100
Service = Annotated[str, Parameter(help="the service that could not process them")]
Ids = Annotated[list[str], Parameter(negative="", help="ids from `dead-letters list`, or `all` for all waiting ones")]
Reason = Annotated[str, Parameter(help="why; stored with the letter")]

dead_letters = App(help="List, replay and discard facts that consumers could not process.")


@dead_letters.command(name="list")
def list_(
    service: Annotated[str | None, Parameter(help="only this service's [all services]")] = None,
    /,
    *,
    every: Annotated[bool, Parameter(name="--all", negative="", help="include replayed and discarded ones")] = False,
    limit: Annotated[int, Parameter(help="the most to list for each service")] = 100,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """List the letters that wait for a decision, oldest first. Exit status 1 if there are any."""
    from typing import get_args

    from tallystick.chassis import dead_letters as letters

    if limit < 1:
        raise Failed(f"--limit {limit}: at least 1", USAGE)
    states = get_args(letters.State) if every else letters.OPEN
    found: list[dict[str, Any]] = []
    more: dict[str, int] = {}
    undecided = 0
    for name in [_known(common, service)] if service else _services(common):
        some, count, open_ = asyncio.run(_on(common, name, partial(_look, states=states, limit=limit)))
        found += [{"service": name, **asdict(letter), "fact": letter.fact.decode(errors="replace")} for letter in some]
        undecided += open_
        if count > len(some):
            more[name] = count - len(some)
    if common.json:
        emit({"data": found, "more": more}, common)
    elif not found:
        print("no dead letters")
    else:
        _show(found)
        for name, count in more.items():
            print(f"and {count:,} more of {name}: `tallystick dead-letters list {name} --limit {limit + count}`")
    return NO if undecided else OK


async def _look(database: Database, *, states: Sequence[State], limit: int) -> tuple[list[DeadLetter], int, int]:
    """The first letters in these states, how many there are in total, and how many are undecided."""
    from tallystick.chassis import dead_letters as letters

    found: list[DeadLetter] = []
    while len(found) < limit:
        after = found[-1].id if found else None
        page = await letters.list_letters(database, states=states, after=after, limit=min(PAGE, limit - len(found)))
        if not page:
            break
        found += page
    return found, await letters.count_letters(database, states=states), await letters.count_letters(database)


def _show(found: Sequence[dict[str, Any]]) -> None:
    out = console()
    for each in found:
        print_line(
            f"{each['id']}  {each['service']:<9} {each['state']:<9} {each['type']} (seq {each['seq']} of {each['source']})",
            out,
        )
        print_line(f"{'':<38}{escaped(str(each['error']).splitlines()[0][:120])}", out)
        if each["reason"] is not None:
            print_line(f"{'':<38}because: {escaped(each['reason'])}", out)


@dead_letters.command
def replay(service: Service, ids: Ids, /, *, reason: Reason, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Have letters processed again; the service does so within a second or two. Exit status 1 if none of them was waiting."""
    from tallystick.chassis import dead_letters as letters

    return _decide(service, ids, reason, common, letters.replay, done="to be replayed")


@dead_letters.command
def discard(service: Service, ids: Ids, /, *, reason: Reason, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Decide that letters need not be processed. They are kept, with the reason. Exit status 1 if none of them was undecided."""
    from tallystick.chassis import dead_letters as letters

    return _decide(service, ids, reason, common, letters.discard, done="discarded")


def _decide(
    service: str,
    ids: Sequence[str],
    reason: str,
    common: Common,
    decide: Callable[..., Awaitable[list[UUID]]],
    *,
    done: str,
) -> int:
    from tallystick.chassis import dead_letters as letters
    from tallystick.kernel.numbers import found_in

    if not reason.strip():
        raise Failed("--reason is empty; it is stored with the decision", USAGE)
    if what := found_in(reason):
        raise Failed(f"--reason contains {what}; it is stored, so leave that out", USAGE)

    async def apply(database: Any) -> list[UUID]:
        chosen = await _all_waiting(database) if list(ids) == ["all"] else [_id(text) for text in ids]
        return await decide(database, chosen, reason=reason)

    async def _all_waiting(database: Any) -> list[UUID]:
        found: list[UUID] = []
        while page := await letters.list_letters(database, states=("waiting",), after=found[-1] if found else None):
            found += [letter.id for letter in page]
        return found

    changed = asyncio.run(_on(common, _known(common, service), apply))
    if common.json:
        emit({"data": [str(each) for each in changed]}, common)
    else:
        print(
            f"{len(changed)} {done}"
            if changed
            else f"nothing {done}; `tallystick dead-letters list {service}` lists the waiting letters"
        )
    return OK if changed else NO


async def _on(common: Common, service: str, work: Callable[[Any], Awaitable[T]]) -> T:
    """Run `work` on a service's database, in that service's own least-privilege role."""
    from tallystick.chassis.db import Bounds, Database, DatabaseError
    from tallystick.kernel.problem import Problem
    from tallystick.local import control, provision
    from tallystick.local.secrets import SecretFiles

    layout = common.layout
    await control.ask(layout, control.GetStatus(), control.Status)
    dsn = provision.Databases(layout, SecretFiles(layout.secrets)).service(service)
    try:
        database = await Database.open(dsn, bounds=Bounds(connections=1), application="tallystick dead-letters")
        try:
            return await work(database)
        finally:
            await database.close()
    except (DatabaseError, Problem) as error:
        raise Failed(f"{service}'s database refused, or did not answer: {error}", PART_FAILED) from error


def _services(common: Common) -> list[str]:
    from tallystick.local.deployments import deployments

    return list(deployments(common.layout))


def _known(common: Common, service: str) -> str:
    if service not in (names := _services(common)):
        raise Failed(f"there is no service {service!r}; the services are {', '.join(names)}", USAGE)
    return service


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise Failed(
            f"{text!r} is not the id of a letter; `tallystick dead-letters list` shows the ids", USAGE
        ) from error
