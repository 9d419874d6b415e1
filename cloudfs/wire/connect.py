"""Connections of a client: dialled, spoken over for as long as a block lasts, closed."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Container
from contextlib import asynccontextmanager

import trio

from cloudfs.errors import CloudError
from cloudfs.factotum.nodeproof import bound_to
from cloudfs.wire import tls
from cloudfs.wire.address import Address, parse
from cloudfs.wire.client import Client, Prove
from cloudfs.wire.exchange import DEADLINE
from cloudfs.wire.listen import peer_uid
from cloudfs.wire.pipe import Watcher
from cloudfs.wire.trace import Trace


@asynccontextmanager
async def connect(
    text: str,
    *,
    version: str = "9P2000.L",
    aname: str = "",
    deadline: float = DEADLINE,
    trace: Trace | None = None,
    prove: Prove | None = None,
) -> AsyncIterator[Client]:
    """A client attached to the server at an address, for as long as the block lasts.

    prove: see Client.start.  Over TLS it is also what tells who the server is, by its
    certificate, so there it must not be missing.

    Raises CloudError: `unreachable` or `timeout` if nobody answers there, and what the
    server said to the attach.
    """
    address = parse(text)
    if address.tls and prove is None:
        raise CloudError(
            "refused",
            f"{address}: only nodes, and users who prove who they are, speak TLS with each other",
            "type: cloudfs login USER",
        )
    stream = await (_dial_tls if address.tls else _dial)(address, deadline)
    async with attended(stream, str(address), deadline, trace) as client:
        if isinstance(stream, tls.Stream):
            client.binding = bound_to(stream.socket.getpeercert(binary_form=True) or b"")
        await client.start(version, aname, prove)
        yield client


@asynccontextmanager
async def attended(
    stream: trio.abc.Stream,
    name: str,
    deadline: float = DEADLINE,
    trace: Trace | None = None,
    watcher: Watcher | None = None,
) -> AsyncIterator[Client]:
    """A client that speaks over a stream, not attached to anything yet.  watcher: who looks
    whether there is something to receive, where that is not to be a task."""
    failed: Exception | None = None
    async with stream, trio.open_nursery() as nursery:
        client = Client(stream, name, deadline, trace)
        nursery.start_soon(client.pipe.run_reader, watcher)
        nursery.start_soon(client.pipe.run_writer)
        nursery.start_soon(client.deadlines.run)
        try:
            yield client
        except Exception as error:
            failed = error  # raised outside the nursery, which would wrap it
        finally:
            client.end(f"the connection to {name} was closed")
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def dial_near(path: str, uids: Container[int], deadline: float) -> trio.SocketStream:
    """A connection to a server of this machine that one of these users runs.

    Raises CloudError: "unreachable" where nobody answers, "denied" where somebody else does.
    """
    stream = await _dial(Address(path=path), deadline)
    uid = peer_uid(stream.socket)
    if uid not in uids:
        stream.socket.close()
        raise CloudError("denied", f"{path}: who answers there is the user with number {uid}")
    return stream


async def _dial_tls(address: Address, deadline: float) -> trio.abc.Stream:
    """A connection in TLS to whoever is there, who has yet to prove that it is a node."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the proof is bound to the certificate (cap25519)
    with trio.move_on_after(deadline):
        return await tls.dial(address.host, address.port, context, "", tls.Threads())
    raise CloudError("timeout", f"{address} does not answer")


async def _dial(address: Address, deadline: float) -> trio.SocketStream:
    try:
        with trio.fail_after(deadline):
            if address.path:
                return await trio.open_unix_socket(address.path)
            return await trio.open_tcp_stream(address.host, address.port)
    except trio.TooSlowError:
        raise CloudError("timeout", f"{address} does not answer") from None
    except OSError as error:
        why = error.strerror or "cannot be reached"
        raise CloudError(
            "unreachable", f"{address}: {why}", "is a cloud running there?  type: cloudfs up"
        ) from None
