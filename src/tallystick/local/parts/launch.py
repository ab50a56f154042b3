"""The last few instructions before a child becomes its program. Run as a script, standard library only.

``python -I -S launch.py PARENT SIGNAL IDENTITY PROGRAM ARG...`` sets what only the child itself can set, then ``exec``s:

* ``PR_SET_PDEATHSIG``: the kernel sends SIGNAL when the parent dies, also of ``kill -9``. Nothing outlives the supervisor.
* no core dumps (a core file of a service would hold keys and card numbers), no new privileges, umask 077, many file descriptors.
* IDENTITY: who the program runs as: ``same``, ``switch:UID:GID``, ``switch-search:UID:GID`` or ``namespace:UID:GID``
  (`tallystick.local.parts.identity` says when and why).

A process of its own, and not a ``preexec_fn``, because Python code between fork and exec of a process with threads may deadlock.
It starts in about 10 ms. Exit status 126: the identity was refused by the kernel; 127: the program could not be executed.
"""

import ctypes
import os
import resource
import struct
import sys

PR_SET_PDEATHSIG, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 28, 38, 47
SECBIT_NO_SETUID_FIXUP = 1 << 2
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522
CLONE_NEWUSER = 0x10000000

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")


def prctl(option: int, *arguments: int) -> None:
    values = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    check(libc.prctl(option, *values), f"prctl({option})")


def switch(uid: int, gid: int, *, search: bool) -> None:
    """Become another user for good. With `search` keep one capability: to walk through directories closed to that user."""
    os.setgroups([])
    if search:
        # What only keeps capabilities (PR_SET_KEEPCAPS) would not do: access(2) takes the real user to have none, and PostgreSQL's programs
        # ask it whether they may run each other.
        prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if search:
        bit = 1 << CAP_DAC_READ_SEARCH
        header = ctypes.create_string_buffer(struct.pack("=Ii", CAPABILITY_VERSION_3, 0))
        sets = ctypes.create_string_buffer(
            struct.pack("=6I", bit, bit, bit, 0, 0, 0)
        )  # effective, permitted, inheritable
        check(libc.capset(header, sets), "capset")
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH)


def namespace(uid: int, gid: int) -> None:
    """Stay the same user to the kernel, be called `uid` inside a new user namespace, and hold no capability at all."""
    outer_uid, outer_gid = os.geteuid(), os.getegid()
    check(libc.unshare(CLONE_NEWUSER), "unshare(CLONE_NEWUSER)")
    for path, text in (
        ("/proc/self/setgroups", "deny"),
        ("/proc/self/uid_map", f"{uid} {outer_uid} 1"),
        ("/proc/self/gid_map", f"{gid} {outer_gid} 1"),
    ):
        with open(path, "w", encoding="ascii") as file:  # noqa: PTH123 - this script imports as little as it can
            file.write(text)


def become(identity: str) -> None:
    kind, _, ids = identity.partition(":")
    if kind == "same":
        return
    uid, gid = (int(part) for part in ids.split(":"))
    if kind == "namespace":
        namespace(uid, gid)
    elif kind in {"switch", "switch-search"}:
        switch(uid, gid, search=kind == "switch-search")
    else:
        raise ValueError(f"unknown identity {identity!r}")


def main(arguments: list[str]) -> int:
    parent, death_signal, identity, *program = arguments
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        become(identity)
    except (OSError, ValueError) as error:
        print(f"launch: cannot run as {identity}: {error}", file=sys.stderr)
        return 126
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_PDEATHSIG, int(death_signal))  # after become(): a change of credentials clears it
    if os.getppid() != int(parent):  # the parent died before the line above
        return 1
    try:
        os.execv(program[0], program)  # noqa: S606 - that is its job
    except OSError as error:
        print(f"launch: cannot execute {program[0]}: {error}", file=sys.stderr)
    return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
