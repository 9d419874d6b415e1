"""Addresses of 9P servers as people write them."""

from __future__ import annotations

from dataclasses import dataclass

from cloudfs.errors import CloudError

DEFAULT_PORT = 564  # 9pfs of IANA
NODE_PORT = 5640  # of nodes, which speak 9P in TLS


@dataclass(frozen=True, slots=True)
class Address:
    """A unix socket's path, or a host and a port, in TLS or not."""

    path: str = ""
    host: str = ""
    port: int = 0
    tls: bool = False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'tcp'}:{host}:{self.port}"


def parse(text: str) -> Address:
    """The address in `unix:PATH`, a path with a slash, `tcp:HOST[:PORT]`, `tls:HOST[:PORT]`
    or `HOST:PORT`; an IPv6 host stands in brackets.  Raises CloudError("bad")."""
    if text.startswith("unix:") and len(text) > 5:
        return Address(path=text[5:])
    if "/" in text:
        return Address(path=text)
    tls = text.startswith("tls:")
    rest = text.removeprefix("tls:" if tls else "tcp:")
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        if rest == text:
            raise _bad(text)
        host, port = rest, str(NODE_PORT if tls else DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise _bad(text)
    return Address(host=host, port=int(port), tls=tls)


def _bad(text: str) -> CloudError:
    forms = "unix:PATH, tcp:HOST:PORT, tls:HOST:PORT or HOST:PORT"
    return CloudError("bad", f"{text!r} is no address", f"write {forms}")
