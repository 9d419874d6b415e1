"""Where clients knock: unix sockets, loopback TCP and TLS, and who it is that knocks."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket as sockets
import stat
import struct
from dataclasses import dataclass
from typing import Any

from cloudfs.errors import CloudError, from_errno
from cloudfs.factotum.nodekeys import KeyFiles, server_context
from cloudfs.factotum.nodeproof import shown_by
from cloudfs.tree.api import NOBODY, Who
from cloudfs.tree.idmap import who_of
from cloudfs.wire.address import Address, parse
from cloudfs.wire.tls import Admit, Door, everybody

BACKLOG = 512
MAX_PATH = 107  # bytes of a unix socket's path (unix(7))
FIXES = {
    errno.EADDRINUSE: "choose another port, or end what listens there",
    errno.EADDRNOTAVAIL: "write an address of this machine",
}
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


@dataclass(slots=True)
class Listener:
    """A socket that clients connect to.  file: device and inode of a unix socket's file.
    door: where it is for other nodes, their handshakes."""

    socket: sockets.socket
    address: Address
    file: tuple[int, int] | None = None
    door: Door | None = None

    def who(self, client: sockets.socket) -> Who:
        """The caller at the other end: what the kernel vouches for on a unix socket, nobody
        over TCP."""
        if self.socket.family != sockets.AF_UNIX:
            return NOBODY
        return who_of(peer_uid(client), {0, os.geteuid()})

    def close(self) -> None:
        """Stop listening; a unix socket's file goes if it is still ours."""
        self.socket.close()
        if self.file is not None and _file(self.address.path) == self.file:
            with contextlib.suppress(OSError):
                os.unlink(self.address.path)


def peer_uid(client: Any) -> int:
    """The user at the other end of a unix socket, for whom the kernel vouches (unix(7)): who
    connected, or on the side that did, who listened."""
    raw = client.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])


# Everybody may connect to a node: its tree checks who may do what.
def listen(
    text: str, files: KeyFiles | None = None, admit: Admit = everybody, mode: int = 0o666
) -> Listener:
    """Listen at `unix:PATH`, a path, `tcp:HOST:PORT`, `HOST:PORT` or, with this node's
    keys, `tls:HOST:PORT` (port 0: any free one).  admit: which nodes get in there.  mode: of
    a unix socket's file.

    Raises CloudError: `busy` if somebody listens there, `refused` for plain TCP at a host
    that is not this machine's loopback and for TLS without keys, or what the system said.
    """
    address = parse(text)
    if address.path:
        return _unix(address, mode)
    return _tls(address, files, admit) if address.tls else _tcp(address)


def _tls(address: Address, files: KeyFiles | None, admit: Admit) -> Listener:
    if files is None:
        raise CloudError("refused", f"{address}: TLS wants the keys of a node")
    door = Door(server_context(files), admit, shown_by(files))
    try:
        found = sockets.getaddrinfo(
            address.host, address.port, type=sockets.SOCK_STREAM, flags=sockets.AI_PASSIVE
        )
    except OSError as error:
        raise CloudError("bad", f"{address}: {error.strerror}") from None
    return _inet(address, found[0][0], found[0][4][:2], door)


def _tcp(address: Address) -> Listener:
    host = "127.0.0.1" if address.host == "localhost" else address.host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise CloudError(
            "refused",
            f"{address}: plain TCP is for this machine only, since it proves nobody's identity",
            f"listen at tcp:127.0.0.1:{address.port} or at a unix socket",
        )
    family = sockets.AF_INET6 if ":" in host else sockets.AF_INET
    return _inet(address, family, (host, address.port), None)


def _inet(address: Address, family: int, at: tuple[Any, ...], door: Door | None) -> Listener:
    sock = sockets.socket(family, sockets.SOCK_STREAM)
    try:
        sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        sock.bind(at)
        _ready(sock)
    except OSError as error:
        sock.close()
        found = from_errno(error.errno or 0, f"{address}: {error.strerror}")
        found.fix = FIXES.get(error.errno or 0, "")
        raise found from None
    host, port = sock.getsockname()[:2]
    return Listener(sock, Address(host=host, port=port, tls=address.tls), None, door)


def _unix(address: Address, mode: int) -> Listener:
    path = address.path
    if len(os.fsencode(path)) > MAX_PATH:
        raise CloudError("toolong", f"{path}: a socket's path has at most {MAX_PATH} bytes")
    _clear(path)
    sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        sock.bind(path)
        os.chmod(path, mode)
        _ready(sock)
    except OSError as error:
        sock.close()
        raise from_errno(error.errno or 0, f"{path}: {error.strerror}") from None
    return Listener(sock, address, _file(path))


def _ready(sock: sockets.socket) -> None:
    sock.listen(BACKLOG)
    sock.setblocking(False)


def _file(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _clear(path: str) -> None:
    """Remove the socket that a dead daemon left; raise if there is anything else."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return  # bind will say what else is wrong
    if not stat.S_ISSOCK(mode):
        raise CloudError("exists", f"{path} is there and is no socket", "choose another path")
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:  # also a full backlog: somebody is there and is slow
            raise CloudError("busy", f"{path}: {error.strerror or 'no answer'}") from None
    raise CloudError("busy", f"a server listens at {path} already", "stop it: cloudfs down")
