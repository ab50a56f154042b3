"""CPU and memory that the platform's processes used during a run, by service and part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from tallystick.local.control import Status


@dataclass(slots=True)
class Usage:
    """CPU seconds and memory (MiB, proportional set size: memory that processes share is counted once), by name."""

    cpu: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)


class Meter:
    """From its making to `stop`. A process that is not there all of that time is left out."""

    def __init__(self, status: Status) -> None:
        self._processes: dict[str, psutil.Process] = {}
        for name, pid in _named(status):
            with suppress(psutil.NoSuchProcess):
                self._processes[name] = psutil.Process(pid)
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        return {name: _spent(process) for name, process in self._processes.items() if process.is_running()}

    def stop(self) -> Usage:
        usage = Usage()
        after = self._read()
        for name in self._before.keys() & after.keys():
            process = self._processes[name]
            key = name.rsplit("-", 1)[0] if name.rsplit("-", 1)[-1].isdigit() else name
            usage.cpu[key] = round(usage.cpu.get(key, 0.0) + after[name] - self._before[name], 3)
            usage.memory[key] = round(usage.memory.get(key, 0.0) + sum(map(_memory, _family(process))), 1)
        return usage


def _named(status: Status) -> Iterator[tuple[str, int]]:
    yield "supervisor", status.pid
    for part in status.parts:
        if part.pid is not None:
            yield part.name, part.pid
    for service in status.services:
        for number, replica in enumerate(service.replicas):
            if replica.pid is not None:
                yield f"{service.name}-{number}", replica.pid


def _family(process: psutil.Process) -> list[psutil.Process]:
    """The process and, for PostgreSQL, its backends. The supervisor's other children are counted under their own names."""
    try:
        return [process, *process.children(recursive=True)] if _is_postgres(process) else [process]
    except psutil.Error:
        return []


def _is_postgres(process: psutil.Process) -> bool:
    return "postgres" in process.name()


def _spent(process: psutil.Process) -> float:
    """CPU seconds of a process and its family. Backends that have ended are in it: else the end of one would take away what it had used."""
    spent = sum(map(_cpu, _family(process)))
    try:
        if _is_postgres(process):
            ended = process.cpu_times()
            spent += ended.children_user + ended.children_system
    except psutil.Error:
        return 0.0
    return spent


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _memory(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / 2**20
    except psutil.Error:
        return 0.0
