"""Tauth: a conversation on an afid, after which Tattach with it attaches as who was proved.

Each message of either end is one Twrite or Tread, whose offsets mean nothing.  What was said out of
turn, too long or too late ends the conversation, and the afid is good for nothing any more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import trio

from cloudfs.errors import CloudError
from cloudfs.factotum.p9any import MOST, Server
from cloudfs.tree.api import Who
from cloudfs.tree.space import Space
from cloudfs.wait import Wait
from cloudfs.wire.fids import Reply
from cloudfs.wire.messages import READ_HEAD

if TYPE_CHECKING:
    from cloudfs.wire.session import Session

MAX_AFIDS = 8  # of one connection
TIME = 10.0  # seconds for a conversation
THREADS = 2  # tokens that are checked at once
LOGIN = "login"  # the aname by which a factotum says that its uid is that user
_QTAUTH = 0x08


class Proofs(Protocol):
    """Who checks the proofs of users (factotum/proofs.py)."""

    def wanted(self) -> bool:
        """Whether a caller can prove anything here."""

    def begin(self, binding: bytes) -> Server:
        """A conversation over a connection."""

    def slow(self, talk: Server, message: bytes) -> bool:
        """Whether taking this message takes so long that it is for a thread."""

    def who(self, talk: Server, uid: int | None = None, lender: str = "") -> Who:
        """The caller that was proved; CloudError("denied").  lender: the node whose connection
        it is."""

    def good(self, talk: Server) -> bool:
        """Whether what it proved holds still."""


class Logins(Protocol):
    """Where local users say who they are in the cloud (cloudfs/logins.py)."""

    def open(self, uid: int, who: Who, talk: Server | None, path: tuple[str, ...]) -> Space:
        """While the space is in use, callers with that uid are who.  path: the rest of the
        aname."""


class Afid:
    """A conversation.  Its state: talking, checking (a thread looks at a token), over.

    rest: what is left of a message that was read in part.  until: on the session's clock.
    """

    __slots__ = ("rest", "state", "talk", "until")

    def __init__(self, talk: Server, until: float) -> None:
        self.talk = talk
        self.until = until
        self.rest = b""
        self.state = "talking"


_limiter: list[trio.CapacityLimiter] = []


async def _in_thread(step: Callable[[], None]) -> None:
    if not _limiter:
        _limiter.append(trio.CapacityLimiter(THREADS))
    await trio.to_thread.run_sync(step, limiter=_limiter[0])


def t_auth(
    session: Session, tag: int, number: int, uname: str, aname: str, n_uname: int = 0
) -> Reply:
    """Some clients take no other errno than ENOENT for "no authentication is needed"."""
    proofs = session.proofs
    if proofs is None or not proofs.wanted():
        raise CloudError("absent", "no authentication is needed here")
    session.free(number)
    if len(session.afids) >= MAX_AFIDS:
        raise CloudError("toomany", f"a connection has at most {MAX_AFIDS} afids")
    talk = proofs.begin(session.binding)
    session.afids[number] = Afid(talk, session.clock() + TIME)
    return session.reply["Rauth"](tag, (_QTAUTH, 0, number))


def read(session: Session, tag: int, afid: Afid, count: int) -> Reply:
    """What the node has to say next, or what is left of it."""
    if not afid.rest:
        _talks(session, afid)
        afid.rest = afid.talk.read()
        if not afid.rest:
            raise CloudError("proto", "it is your turn to write to the afid")
    count = min(count, session.msize - READ_HEAD)
    data, afid.rest = afid.rest[:count], afid.rest[count:]
    return session.reply["Rread"](tag, data)


def write(session: Session, tag: int, afid: Afid, data: bytes | memoryview) -> Reply | None:
    """A whole message of the client."""
    _talks(session, afid)
    message = bytes(data)
    assert session.proofs is not None
    finish = partial(_written, session, tag, afid, len(message))
    if len(message) <= MOST and session.proofs.slow(afid.talk, message):
        afid.state = "checking"
        wait = Wait(partial(_in_thread, partial(_take, afid, message)))
        return session.block(tag, None, wait, finish, partial(_checked, afid))
    _take(afid, message)
    return finish(None)


def _talks(session: Session, afid: Afid) -> None:
    if afid.state == "checking":
        raise CloudError("proto", "a message came out of turn, while a token is checked")
    if session.clock() >= afid.until and afid.talk.state != "done":
        afid.state = "over"
        raise CloudError("timeout", f"a proof may take {TIME:g} s", "begin again")
    if afid.state == "over":
        raise CloudError("proto", "the conversation is over", "begin again, with a new afid")


def _take(afid: Afid, message: bytes) -> None:
    try:
        afid.talk.write(message)
    except BaseException:
        afid.state = "over"
        raise


def _written(session: Session, tag: int, afid: Afid, size: int, _: Any) -> Reply:
    afid.state = "talking"
    return session.reply["Rwrite"](tag, size)


def _checked(afid: Afid) -> None:
    if afid.state == "checking":  # nobody waits for the answer any more
        afid.state = "over"


def proved(session: Session, number: int) -> tuple[Who, Server]:
    """The caller that an afid proved, whatever name it gave.  CloudError("denied")."""
    afid = session.afids.get(number)
    if afid is None or session.proofs is None:
        raise CloudError("nofid", f"afid {number} has proved nothing")
    if afid.state != "talking":
        raise CloudError("denied", "nothing was proved: the conversation is not done")
    return session.proofs.who(afid.talk, session.uid, session.node), afid.talk
