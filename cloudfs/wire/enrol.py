"""Asking a node for a certificate (factotum/enrol.py says what is said)."""

from __future__ import annotations

import ssl

import trio

from cloudfs.errors import CloudError
from cloudfs.factotum.enrol import MOST
from cloudfs.tree.api import ORDWR
from cloudfs.wire.connect import attended
from cloudfs.wire.imports import Pool
from cloudfs.wire.messages import NODES
from cloudfs.wire.ops import OWN

SECONDS = 8.0  # for all of it; the node that is asked may have to ask another


async def converse(
    pool: Pool, address: str, node: str = "", text: str = "", context: ssl.SSLContext | None = None
) -> str:
    """What the file `enrol` of the node at HOST:PORT says, first or, with text, to that.

    context: that of a stranger; without it this node proves itself as always.
    Raises CloudError: `unreachable` or `timeout` where nobody answers, `proto` where it is no
    node, and what the node says to the text.
    """
    with trio.move_on_after(SECONDS):
        stream = await pool.dial(address, node, context)
        async with attended(stream, f"the node at {address}", SECONDS, pool.trace) as client:
            await client.agree(NODES)
            if not client.node:
                why = f"what listens at {address} is no node, or one of another version"
                raise CloudError("proto", why, "compare: cloudfs --version, here and there")
            place = "enrol" if context is not None else f"{OWN}/enrol"
            async with await client.attach("none", place, SECONDS) as file:
                await file.open(ORDWR)
                if text:
                    await file.write(0, text.encode())
                return bytes(await file.read(0, MOST)).decode(errors="replace")
    raise CloudError("timeout", f"{address} did not answer in {SECONDS:g} s")
