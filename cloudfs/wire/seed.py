"""Asking a node of which only the address is known where this node belongs."""

from __future__ import annotations

import trio

from cloudfs.errors import CloudError
from cloudfs.tree.api import ORDWR
from cloudfs.wire.connect import attended
from cloudfs.wire.imports import Pool
from cloudfs.wire.messages import NODES
from cloudfs.wire.ops import OWN

SECONDS = 3.0  # for all of it
MOST = 64 << 10  # bytes of an answer


async def ask(pool: Pool, address: str, user: str, question: str) -> str:
    """What the file `introduce` of the node at HOST:PORT says to "CLUSTER NAME".

    Raises CloudError: `unreachable` or `timeout` where nobody answers, `denied` where it
    is a node of another cloud, `proto` where it is none.
    """
    with trio.move_on_after(SECONDS):
        stream = await pool.dial(address, "")
        async with attended(stream, f"the node at {address}", trace=pool.trace) as client:
            await client.agree(NODES)
            if not client.node:
                why = f"what listens at {address} is no node, or one of another version"
                raise CloudError("proto", why, "compare: cloudfs --version, here and there")
            root = await client.attach(user, OWN, SECONDS)
            async with await client.walk(["introduce"], start=root) as file:
                await file.open(ORDWR)
                await file.write(0, question.encode())
                return bytes(await file.read(0, MOST)).decode(errors="replace")
    raise CloudError("timeout", f"{address} did not answer in {SECONDS:g} s")
