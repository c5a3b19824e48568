"""A network of its own for this process and its children: a loopback, and no way out.

Owns the namespace, and the kernel's counters of what was tried in it. Needs neither root nor
tools, but a kernel that lets users have namespaces.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_SET_FLAGS, _UP_AND_RUNNING = 0x8914, 0x41

FORBIDDEN = 77
"""Exit code of a process that may not have a namespace."""

ATTEMPTS = (
    "Ip.OutNoRoutes",  # connections and datagrams that would have left the machine
    "Ip6.OutNoRoutes",
    "Udp.OutDatagrams",  # questions to a name server on this machine
    "Udp6.OutDatagrams",
)


def enter() -> None:
    """Move this process, which must have one thread, there; end it where that is forbidden."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_USER | _NEW_NET) != 0:
        code = ctypes.get_errno()
        if code in (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.ENOSYS):
            sys.exit(FORBIDDEN)
        raise OSError(code, os.strerror(code))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP_AND_RUNNING))


def attempts() -> dict[str, int]:
    """Return how often anything in the namespace tried to get out or asked for a name."""
    found = dict(_counters())
    return {name: found.get(name, 0) for name in ATTEMPTS}


def more(before: Mapping[str, int]) -> dict[str, int]:
    """Return the counters that have risen."""
    return {
        name: count - before[name] for name, count in attempts().items() if count > before[name]
    }


def _counters() -> Iterator[tuple[str, int]]:
    lines = Path("/proc/self/net/snmp").read_text().splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        kind, *rest = names.split()
        for name, value in zip(rest, values.split()[1:], strict=True):
            yield f"{kind[:-1]}.{name}", int(value)
    version6 = Path("/proc/self/net/snmp6")
    for line in version6.read_text().splitlines() if version6.exists() else ():
        full_name, value = line.split()
        protocol, _, name = full_name.partition("6")
        yield f"{protocol}6.{name}", int(value)
