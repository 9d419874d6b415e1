"""The file `rpc` of a factotum: one conversation for each open of it (factotum(4)).  Pure.

A request is written, its answer read.  What the keys are used for goes through here, and no
secret comes out.

    start proto=p9any role=client dom=local user?   ok | error WHY
    read                                            ok MESSAGE | phase WHY | done [haveai] | …
    write MESSAGE                                   ok | toosmall SIZE | phase WHY | …
    attr                                            ok ATTRIBUTES
    authinfo                                        ok CLIENT SERVER CAPABILITY SECRET, packed

where … is `needkey TEMPLATE` while the user has not added such a key, and `error WHY`, after which
the conversation is over.  `toosmall` answers a message without a byte: so auth_proxy(2) asks how
many to read.  A key with confirm=yes waits for its owner's word (`Question`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum import keyring
from cloudfs.factotum.keyring import Key, Keyring, Template
from cloudfs.factotum.p9any import MOST, Talk

REQUEST = MOST + 16  # a verb and a message
ROOM = 2048  # bytes that plan9port's clients have for a message


@dataclass(frozen=True, slots=True)
class Info:
    """Who was proved to whom, at the end of a conversation."""

    client: str
    server: str


@dataclass(eq=False, slots=True)
class Question:
    """Whether a key may be used; None while its owner has not said."""

    key: Key
    answer: bool | None = None


class _Unanswered(Exception):
    """The request waits for its question."""


@dataclass(frozen=True, slots=True)
class Role:
    """One end of a protocol that this factotum can play.

    needs: what a key must have.  begin(key, template): the conversation, with the key that was
    found.  info(talk): who was proved, once it is done.
    """

    needs: Template
    begin: Callable[[Key, Template], Talk]
    info: Callable[[Talk], Info]


# (proto, role) → what to do
Roles = Mapping[tuple[str, str], Role]


def _nobody(key: Key) -> Question:
    return Question(key, False)


class Rpc:
    """One open of the file.

    tell(template): the user lacks such a key.  ask(key): put a question to its owner.
    waits: the question that the last request waits for, which is to be given again with
    `go_on` when it is answered.
    """

    def __init__(
        self,
        keys: Keyring,
        roles: Roles,
        tell: Callable[[Template], None] = lambda wanted: None,
        ask: Callable[[Key], Question] = _nobody,
    ) -> None:
        self._keys, self._roles, self._tell, self._ask = keys, roles, tell, ask
        self.waits: Question | None = None
        self._request = b""
        self._allowed: Question | None = None
        self._role: Role | None = None
        self._talk: Talk | None = None
        self._wanted = Template({})
        self._shown: dict[str, str] = {}
        self._failed = ""
        self._answer = b"error nothing was asked"

    def write(self, request: bytes) -> None:
        """A request; its answer is what is read next."""
        verb, _, rest = request.partition(b" ")
        if len(request) > REQUEST:
            raise CloudError("toobig", f"a request has at most {REQUEST} bytes")
        act = _VERBS.get(verb.strip())
        if act is None:
            verbs = " ".join(sorted(name.decode() for name in _VERBS))
            raise CloudError("bad", f"{verb[:20]!r} is no request of rpc", f"write one of {verbs}")
        self.waits = None
        try:
            self._answer = act(self, rest)
        except CloudError as error:
            self._talk, self._failed = None, error.why
            self._answer = b"error " + error.why.encode()
        except _Unanswered:
            self.waits, self._request = self._allowed, request
            self._answer = b"error it waits to be confirmed"

    def go_on(self) -> None:
        """The question is answered: do what waited for it."""
        self.write(self._request)

    def read(self) -> bytes:
        return self._answer

    @property
    def state(self) -> str:
        """For people: how far it got."""
        return self._talk.state if self._talk else self._failed or "not started"

    # --- requests ---------------------------------------------------------------------------

    def _start(self, rest: bytes) -> bytes:
        line = ndb.text_line(rest)
        wanted = keyring.template(line)
        proto, role = wanted.values.get("proto", ""), wanted.values.get("role", "client")
        found = self._roles.get((proto, role))
        if found is None:
            known = " ".join(sorted({name for name, _ in self._roles}))
            raise CloudError("unsupported", f"no protocol {proto!r} as {role}; known are {known}")
        self._role, self._talk, self._failed, self._shown = found, None, "", {}
        self._wanted, self._allowed = wanted, None
        return b"ok"

    def _begin(self) -> bytes:
        """Find the key when it is first needed; an answer where there is none."""
        if self._role is None:
            return b"error " + (self._failed or "not started").encode()
        if self._talk is None:
            if self._failed:
                return b"error " + self._failed.encode()
            needs, given = self._role.needs, self._wanted.of_keys()
            wanted = Template({**given.values, **needs.values}, given.asks | needs.asks)
            keys = self._keys.find(wanted)
            if not keys:
                self._tell(wanted)
                return b"needkey " + str(wanted).encode()
            self._confirm(keys[0])
            self._shown = {**given.values, **keys[0].attrs}
            self._talk = self._role.begin(keys[0], self._wanted)
        return b""

    def _confirm(self, key: Key) -> None:
        """Raises unless the key may be used."""
        if key.attrs.get("confirm", "no") == "no":
            return
        if self._allowed is None or self._allowed.key is not key:
            self._allowed = self._ask(key)
        if self._allowed.answer is None:
            raise _Unanswered
        if not self._allowed.answer:
            raise CloudError("denied", "its owner did not confirm that the key be used")

    def _read(self, rest: bytes) -> bytes:
        lacks = self._begin()
        if lacks or self._talk is None:
            return lacks
        if self._talk.state == "done":
            return b"done haveai"
        message = self._talk.read()
        if message:
            return b"ok " + message
        return b"phase it is the other end's turn: " + self._talk.state.encode()

    def _write(self, rest: bytes) -> bytes:
        lacks = self._begin()
        if lacks or self._talk is None:
            return lacks
        if not rest:
            return f"toosmall {ROOM}".encode()
        self._talk.write(rest)
        return b"ok"

    def _attr(self, rest: bytes) -> bytes:
        return b"ok " + ndb.record(self._shown).encode()

    def _authinfo(self, rest: bytes) -> bytes:
        if self._role is None or self._talk is None or self._talk.state != "done":
            return b"error the conversation is not done"
        info = self._role.info(self._talk)
        # auth_rpc(2)'s convM2AI: three strings and a secret, each with its length.
        parts = (info.client.encode(), info.server.encode(), b"", b"")
        return b"ok " + b"".join(len(part).to_bytes(2, "little") + part for part in parts)


_VERBS: dict[bytes, Callable[[Rpc, bytes], bytes]] = {
    b"start": Rpc._start,
    b"read": Rpc._read,
    b"write": Rpc._write,
    b"attr": Rpc._attr,
    b"authinfo": Rpc._authinfo,
}
