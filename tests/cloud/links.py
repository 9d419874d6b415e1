"""What really passes between two nodes: sockets of this process that live in theirs."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from cloudfs.node.netns import HOME
from tests.cloud.net import Net

T = TypeVar("T")
CLONE_NEWNET = 0x40000000  # sched.h
PATIENCE = 0.4  # seconds after which what was sent counts as lost
_libc = ctypes.CDLL(None, use_errno=True)


def inside(net: Net, name: str, work: Callable[[], T]) -> T:
    """work(), done by a thread that is in the node's network; sockets stay there."""
    result: list[T] = []

    def there() -> None:
        fd = os.open(HOME / net.machines.switch.namespace(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(fd, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            result.append(work())
        finally:
            os.close(fd)

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    assert result, f"nothing came of it inside {name}"
    return result[0]


def address(net: Net, name: str) -> str:
    return net.machines.switch.ports[name].address


class Links:
    """A UDP socket and a TCP listener in each node."""

    def __init__(self, net: Net, stack: ExitStack) -> None:
        self.net = net
        self.udp: dict[str, socket.socket] = {}
        self.tcp: dict[str, socket.socket] = {}
        for name in net.all:
            at = (address(net, name), 7)
            datagram = inside(net, name, lambda: socket.socket(type=socket.SOCK_DGRAM))
            self.udp[name] = stack.enter_context(datagram)
            datagram.bind(at)
            datagram.setblocking(False)
            listener = inside(net, name, socket.socket)
            self.tcp[name] = stack.enter_context(listener)
            listener.bind(at)
            listener.listen()
            listener.settimeout(PATIENCE)

    def ways(self) -> set[tuple[str, str]]:
        """The ways on which a datagram arrives now."""
        for a, sender in self.udp.items():
            for b in self.udp:
                if a != b:
                    sender.sendto(f"{a} {b}".encode(), (address(self.net, b), 7))
        time.sleep(0.3)  # no link has a delay
        found = set()
        for name, receiver in self.udp.items():
            while (text := waiting(receiver)) is not None:
                a, b = text.decode().split()
                assert b == name
                found.add((a, b))
        return found

    def connect(self, a: str, b: str) -> tuple[socket.socket, socket.socket] | None:
        """A TCP connection from a to b, both ends; None if none comes about."""
        caller = inside(self.net, a, socket.socket)
        caller.settimeout(PATIENCE)
        try:
            caller.connect((address(self.net, b), 7))
            called = self.tcp[b].accept()[0]
        except TimeoutError:
            caller.close()
            return None
        called.settimeout(PATIENCE)
        return caller, called


def waiting(receiver: socket.socket) -> bytes | None:
    """A datagram that has come already."""
    try:
        return receiver.recv(100)
    except BlockingIOError:
        return None


@contextmanager
def links(net: Net) -> Iterator[Links]:
    with ExitStack() as stack:
        yield Links(net, stack)
