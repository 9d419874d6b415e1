"""The client's side of Tauth: what auth_proxy(2) does between a factotum and an afid."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from cloudfs.errors import CloudError
from cloudfs.factotum import p9any
from cloudfs.factotum.p9any import MOST
from cloudfs.tree.api import ORDWR
from cloudfs.wire.client import Client, Prove
from cloudfs.wire.connect import connect
from cloudfs.wire.file import File
from cloudfs.wire.messages import NOFID

STEPS = 32  # messages of a conversation, at most
PATIENCE = 70.0  # seconds for an answer of a factotum, whose owner may be asked
# Kinds of errors by which servers say that there is nothing to prove (FACTS: some say ENOENT).
_NOT_WANTED = frozenset({"absent", "nosys", "unsupported"})

Ask = Callable[[bytes], Awaitable[bytes]]  # a request to a factotum's rpc → its answer


async def prove(client: Client, user: str, aname: str, ask: Ask, start: str = "") -> int:
    """Prove to a server with what a factotum has; the afid, to be clunked after the attach.

    start: more attributes of the key that is wanted and of the conversation (factotum/rpc.py).
    NOFID where the server wants no proof, which only one that is known already may say.
    Raises CloudError: "denied" where a side refuses the other, or the factotum has no such key.
    """
    afid = client.new_fid()
    number = () if client.codec.key == "9" else (NOFID,)
    try:
        await client.call("Tauth", afid, user, aname, *number, makes=afid)
    except CloudError as error:
        if error.kind not in _NOT_WANTED:
            raise
        if client.binding:
            raise CloudError(
                "denied", f"{client.name} asks for no proof, so nothing tells who it is"
            ) from None
        return NOFID
    bound = f" binding={client.binding.hex()}" if client.binding else ""
    try:
        await _converse(client, ask, afid, start + bound)
    except BaseException:
        client.forget(afid)
        raise
    return afid


async def _converse(client: Client, ask: Ask, afid: int, start: str) -> None:
    await said(ask, f"start proto=p9any role=client {start}".strip().encode())
    for _ in range(STEPS):
        word, message = await said(ask, b"read")
        if word == b"ok":
            (count,) = await client.call("Twrite", afid, 0, message)
            if count != len(message):
                raise CloudError("proto", f"{client.name} takes no whole message")
        elif word == b"phase":
            (data,) = await client.call("Tread", afid, 0, MOST)
            await said(ask, b"write " + bytes(data))
        else:
            return
    raise CloudError("proto", f"the conversation with {client.name} does not end")


async def attach(
    client: Client, user: str, aname: str, talk: p9any.Client, deadline: float | None = None
) -> File:
    """A tree of the connection as that user, whom a conversation proves.  Raises as `prove`."""
    afid = client.new_fid()
    await client.call("Tauth", afid, user, aname, NOFID, deadline=deadline, makes=afid)
    try:
        for _ in range(STEPS):
            if talk.state == "done":
                break
            message = talk.read()
            if message:
                await client.call("Twrite", afid, 0, message, deadline=deadline)
            else:
                (data,) = await client.call("Tread", afid, 0, MOST, deadline=deadline)
                talk.write(bytes(data))
        return await client.attach(user, aname, deadline, afid)
    finally:
        client.forget(afid)


async def said(ask: Ask, request: bytes) -> tuple[bytes, bytes]:
    """(word, rest) of what a factotum answers, where that is no refusal."""
    answer = await ask(request)
    word, _, rest = answer.partition(b" ")
    text = rest.decode(errors="replace")
    if word == b"error":
        raise CloudError("denied", text, "see: cloudfs keys")
    if word == b"needkey":
        raise CloudError("denied", f"there is no key: {text}", "type: cloudfs login USER")
    if word not in (b"ok", b"phase", b"done"):
        raise CloudError("proto", "that is no answer of a factotum")
    return word, rest


@asynccontextmanager
async def by_factotum(path: str, start: str = "") -> AsyncIterator[Prove]:
    """What proves with the keys of the factotum that serves at a path.

    CloudError("absent") where none does.
    """
    try:
        async with connect(f"unix:{path}") as agent:
            async with await agent.walk(["rpc"]) as file:
                file.deadline = PATIENCE
                await file.open(ORDWR)
                yield partial(prove, ask=asker(file), start=start)
    except CloudError as error:
        if error.kind == "unreachable" and path in error.why:
            raise CloudError(
                "absent", f"there is no factotum at {path}", "type: cloudfs login USER"
            ) from None
        raise


def asker(file: File) -> Ask:
    """What asks the rpc of a factotum that is open on another connection."""

    async def ask(request: bytes) -> bytes:
        done = 0
        while done < len(request):  # a request is one write; it always fits a frame
            done += await file.write(0, request[done:])
        return bytes(await file.read(0, MOST + 16))

    return ask
