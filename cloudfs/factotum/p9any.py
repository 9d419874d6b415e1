"""p9any(2): both ends agree on a protocol and a domain.  Pure: messages in, messages out.

    S→C  v.2 PROTO@DOM PROTO@DOM …\\0
    C→S  PROTO DOM\\0
    S→C  OK\\0

and then the protocol's own messages.  Each message of the client is one write to the afid, each
of the server one or more reads; whatever comes in the wrong turn ends the conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from cloudfs.errors import CloudError

MOST = 4096  # bytes of a message: Plan 9's AuthRpcMax
_TEXT = 256


class Talk(Protocol):
    """One end of a conversation.

    state: a word for people, "done" at its end.  `read` is what to send, b"" while it is the
    other end's turn; `write` takes one whole message of the other end and raises CloudError,
    after which the conversation is over.
    """

    @property
    def state(self) -> str: ...

    def read(self) -> bytes: ...

    def write(self, message: bytes) -> None: ...


# (domain, everything that was said before) → the protocol's own part
Begin = Callable[[str, bytes], Talk]


class _End:
    """What both ends have: their own messages first, then those of the protocol.

    talk: the protocol that was chosen.
    """

    def __init__(self, said: bytes, out: bytes, state: str) -> None:
        self.talk: Talk | None = None
        self._said = said
        self._out = out
        self._state = state

    @property
    def state(self) -> str:
        return self.talk.state if self.talk else self._state

    @property
    def turn(self) -> bool:
        """Whether the other end is to write."""
        return not self._out

    def read(self) -> bytes:
        if self._out:
            out, self._out = self._out, b""
            return out
        return self.talk.read() if self.talk else b""

    def write(self, message: bytes) -> None:
        check_turn(self, message)
        if self.talk is not None:
            self.talk.write(message)
        else:
            self._agree(message)

    def _agree(self, message: bytes) -> None:
        """A message before there is a protocol."""
        raise CloudError("proto", "that is no message of p9any")


class Server(_End):
    """offers: by protocol and domain."""

    def __init__(self, offers: Mapping[tuple[str, str], Begin]) -> None:
        said = ("v.2 " + " ".join(f"{proto}@{dom}" for proto, dom in offers)).encode() + b"\0"
        super().__init__(said, said, "offer")
        self._offers = offers

    def _agree(self, message: bytes) -> None:
        words = _text(message).split(" ")
        begin = self._offers.get((words[0], words[1])) if len(words) == 2 else None
        if begin is None:
            raise CloudError("denied", "that protocol was not offered")
        self._out = b"OK\0"
        self.talk = begin(words[1], self._said + message + self._out)


class Client(_End):
    """wants: the protocols to take, the best first, for each domain; "" is any."""

    def __init__(self, wants: Mapping[tuple[str, str], Begin]) -> None:
        super().__init__(b"", b"", "wait for offer")
        self._wants = wants
        self._chosen: tuple[Begin, str] | None = None

    def _agree(self, message: bytes) -> None:
        if self._chosen is None:
            self._choose(message)
            return
        if message != b"OK\0":
            raise CloudError("proto", "the server did not agree to the protocol it offered")
        begin, dom = self._chosen
        self.talk = begin(dom, self._said + message)

    def _choose(self, message: bytes) -> None:
        version, *offers = _text(message).split(" ")
        if version != "v.2":  # without it there is no OK, and nothing to tell a cut apart by
            raise CloudError("proto", "the server speaks another p9any than v.2")
        found = [tuple(offer.split("@", 1)) for offer in offers[:32] if "@" in offer]
        for (proto, wanted), begin in self._wants.items():
            for name, dom in found:
                if name == proto and wanted in ("", dom):
                    self._out = f"{proto} {dom}\0".encode()
                    self._said = message + self._out
                    self._chosen = begin, dom
                    self._state = "wait for OK"
                    return
        names = " ".join(offers)[:80]
        raise CloudError("denied", f"none of these is known here: {names}", "see: cloudfs keys")


def check_turn(talk: Talk, message: bytes) -> None:
    """CloudError("proto") for a message out of turn or without bounds."""
    if len(message) > MOST:
        raise CloudError("toobig", f"a message has at most {MOST} bytes")
    if talk.state == "done" or not getattr(talk, "turn", True):
        raise CloudError("proto", f"a message came out of turn, in the state: {talk.state}")


def _text(message: bytes) -> str:
    if not message.endswith(b"\0") or message.count(b"\0") != 1 or len(message) > _TEXT:
        raise CloudError("proto", "that is no message of p9any")
    try:
        return message[:-1].decode("ascii")
    except UnicodeDecodeError:
        raise CloudError("proto", "that is no message of p9any") from None
