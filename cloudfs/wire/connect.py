"""Connections of a client: dialled, spoken over for as long as a block lasts, closed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Container
from contextlib import asynccontextmanager

import trio

from cloudfs.errors import CloudError
from cloudfs.wire.address import Address, parse
from cloudfs.wire.client import DEADLINE, Client, Prove
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

    prove: see Client.start.

    Raises CloudError: `unreachable` or `timeout` if nobody answers there, and what the
    server said to the attach.
    """
    address = parse(text)
    stream = await _dial(address, deadline)
    async with attended(stream, str(address), deadline, trace) as client:
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


async def _dial(address: Address, deadline: float) -> trio.SocketStream:
    if address.tls:
        raise CloudError("refused", f"{address}: only nodes speak TLS with each other")
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
