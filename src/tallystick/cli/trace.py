"""`tallystick trace ID`: one request's spans, read from the local store and drawn as a waterfall."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Final

from cyclopts import Parameter

from tallystick.chassis.telemetry.store import Span, read_trace
from tallystick.cli.output import NO, UNBOUNDED, USAGE, Common, Failed, console, counted, emit

#: Columns of the bars, at most and at least, and of the labels before them, likewise.
WIDTH: Final = 48
LEAST: Final = 8
LONGEST: Final = 64
SHORTEST: Final = 40


def trace(
    trace_id: Annotated[str, Parameter(help="an answer's Request-Id: 32 hex digits")],
    /,
    *,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Show one request as a waterfall: which service did what, when, and for how long.

    At low load every request is traced, at high load about 20 a second. Spans are written within a second.
    """
    directory = common.layout.traces
    try:
        spans = read_trace(directory, trace_id.strip().lower())
    except ValueError as error:
        raise Failed(str(error), USAGE) from error
    if not spans and not directory.is_dir():
        raise Failed(f"there are no traces in {directory}; was the platform ever started?", USAGE)
    if not spans:
        raise Failed(
            "this trace is not stored: under load only some requests are traced, old traces are deleted, and with an OTLP endpoint "
            "traces go there instead",
            NO,
        )
    if common.json:
        emit({"trace": trace_id, "spans": spans}, common)
    else:
        for line in waterfall(spans, room=console().width):
            print(line)


def waterfall(spans: Sequence[Span], *, room: int = UNBOUNDED) -> Iterator[str]:
    """One line per span, children below their parents, bars on one time scale. `room`: the terminal's columns. Pure."""
    begin = min(span.start for span in spans)
    whole = max(max(span.end for span in spans) - begin, 1)
    ordered = list(_tree(spans))
    labels = [
        f"{'  ' * depth}{span.service}{f'-{span.replica}' if span.replica else ''} {span.name}"
        for depth, span in ordered
    ]
    notes = [_note(span, begin) for _, span in ordered]
    room -= len(" ││ ") + max(map(len, notes))
    longest = min(max(map(len, labels)), max(room - LEAST, SHORTEST), LONGEST)
    width = min(max(room - longest, LEAST), WIDTH)
    services = counted(len({span.service for span in spans}), "service")
    yield f"{counted(len(spans), 'span')}, {services}, {whole / 1e6:.2f} ms"
    for (_, span), label, note in zip(ordered, labels, notes, strict=True):
        left = (span.start - begin) * width // whole
        size = max(1, round((span.end - span.start) * width / whole))
        bar = (" " * left + "█" * size)[:width].ljust(width)
        yield f"{label[:longest]:<{longest}} │{bar}│ {note}"


def _note(span: Span, begin: int) -> str:
    """When the span began (ms), how long it took, its status, and whether it failed."""
    mark = " failed" if span.failed else ""
    status = span.attributes.get("http.status_code") or span.attributes.get("status")
    shown = f" {status}" if status is not None else ""
    return f"{(span.start - begin) / 1e6:8.2f} +{span.milliseconds:.2f} ms{shown}{mark}"


def _tree(spans: Sequence[Span]) -> Iterator[tuple[int, Span]]:
    known = {span.span for span in spans}
    children: dict[str | None, list[Span]] = {}
    for span in spans:
        # A span whose parent was not stored is drawn at the top level.
        children.setdefault(span.parent if span.parent in known else None, []).append(span)

    def below(parent: str | None, depth: int) -> Iterator[tuple[int, Span]]:
        for span in sorted(children.pop(parent, []), key=lambda span: (span.start, -span.end)):
            yield depth, span
            yield from below(span.span, depth + 1)

    yield from below(None, 0)
    for rest in list(children):  # a cycle of parents, which only a broken exporter makes
        yield from below(rest, 0)
