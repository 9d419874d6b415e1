"""What a factotum holds: keys, what it lacks, what its owner is asked, and what it did."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum import keyring, tokens
from cloudfs.factotum.cap25519 import holder
from cloudfs.factotum.keyring import Key, Keyring, Template, template
from cloudfs.factotum.nodeproof import Check
from cloudfs.factotum.roles import CAP, public_of, roles
from cloudfs.factotum.rpc import Question, Rpc
from cloudfs.kernel.bell import Bell, Log

LINES = 256  # of the log
NEEDS = 64
QUESTIONS = 16
SAY = 60.0  # seconds for an owner to say whether a key may be used
CHECKS = 64

T = TypeVar("T")


class Waiting(Generic[T]):
    """What waits for its owner, each under a number, and its lines as a log to follow."""

    def __init__(self, word: str, most: int) -> None:
        self.word = word
        self.most = most
        self.all: dict[int, tuple[str, T]] = {}
        self.told = Log(most)
        self._last = 0

    def add(self, attributes: str, what: T) -> None:
        """CloudError("toomany")."""
        if len(self.all) >= self.most:
            raise CloudError("toomany", f"{self.most} of {self.word} wait already")
        self._last += 1
        line = f"{self.word} tag={self._last} {attributes}"
        self.all[self._last] = line, what
        self.told.put(line)

    def text(self) -> str:
        return "".join(f"{line}\n" for line, _ in self.all.values())

    def take(self, line: str) -> tuple[T, dict[str, str]]:
        """What a written line, `tag=N …`, is about, which waits no more."""
        try:
            pairs = ndb.parse(line.removeprefix(f"{self.word} "))
            _, what = self.all.pop(int(pairs.get("tag", "")))
        except (CloudError, KeyError, ValueError):
            raise CloudError("bad", f"there is no such {self.word}", "write: tag=N") from None
        return what, pairs


class Factotum:
    """One user's.  now: seconds since 1970."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.keys = Keyring()
        self.log = Log(LINES)
        self.needs: Waiting[Template] = Waiting("needkey", NEEDS)
        self.questions: Waiting[Question] = Waiting("confirm", QUESTIONS)
        self.used = now()
        self.changed = Bell()  # rung when a question is answered or a key comes
        self._now = now
        self._checks: dict[tuple[str, str], Check] = {}
        self._roles = roles(self._check_of, now)

    @property
    def protocols(self) -> list[str]:
        return sorted({name for name, _ in self._roles})

    def rpc(self) -> Rpc:
        """A new conversation."""
        return Rpc(self.keys, self._roles, self._need, self._ask)

    async def answer(self, rpc: Rpc, request: bytes) -> bytes:
        """A request's answer, once the owner has said what there is to say."""
        rpc.write(request)
        return await self.settled(rpc)

    async def settled(self, rpc: Rpc) -> bytes:
        """The answer to the last request, once it waits for nothing."""
        while (question := rpc.waits) is not None:
            with trio.move_on_after(SAY):
                while question.answer is None:
                    await self.changed.wait()
            if question.answer is None:
                question.answer = False
                self._drop(question)
            rpc.go_on()
        return rpc.read()

    def note(self, before: str, rpc: Rpc) -> None:
        """Put into the log how far a conversation got by a request."""
        self.used = self._now()
        if rpc.state != before:
            self.log.add("rpc", state=rpc.state)

    # --- what is written to ctl -----------------------------------------------------------------

    def add(self, line: str) -> None:
        """A key, from its line without the word."""
        self._add(keyring.key(line))

    def _add(self, made: Key) -> None:
        self.keys.add(made)
        self.log.add("key", **_shown(made))
        for tag, (_, wanted) in list(self.needs.all.items()):
            if made.matches(wanted):
                del self.needs.all[tag]

    def delete(self, line: str) -> None:
        """All keys that match a template."""
        count = self.keys.remove(keyring.template(line))
        if not count:
            raise CloudError("absent", "no key matches that", "see: cloudfs keys")
        self.log.add("delkey", count=count)

    def granted(self, text: str) -> None:
        """A key made of a token that another user granted to one of these keys."""
        try:
            token = base64.b64decode(text.strip(), validate=True)
        except ValueError:
            raise CloudError(
                "bad", "that is no token", "write what cloudfs grant printed"
            ) from None
        user, cloud, name = tokens.peek(token)
        own = template(f"{CAP} dom={cloud}")
        for key in self.keys.find(own):
            if holder(public_of(key)) == name and "token" not in key.attrs:
                break
        else:
            raise CloudError(
                "absent", f"{user} granted that to the holder of another key", "see: cloudfs keys"
            )
        attrs = {"proto": "cap25519", "dom": cloud, "user": user}
        root = {"root": key.attrs["root"]} if "root" in key.attrs else {}
        self._add(Key(attrs | root | {"token": text.strip()}, dict(key.secrets)))

    # --- what waits for the owner -------------------------------------------------------------

    def _need(self, wanted: Template) -> None:
        text = str(wanted)
        if all(str(other) != text for _, other in self.needs.all.values()):
            if len(self.needs.all) >= NEEDS:
                del self.needs.all[next(iter(self.needs.all))]
            self.needs.add(text, wanted)
            self.log.add("needkey", wanted=text)

    def _ask(self, key: Key) -> Question:
        question = Question(key)
        try:
            self.questions.add(ndb.record(_shown(key)), question)
        except CloudError:
            question.answer = False
        return question

    def _drop(self, question: Question) -> None:
        for tag, (_, other) in list(self.questions.all.items()):
            if other is question:
                del self.questions.all[tag]

    def confirm(self, line: str) -> None:
        """`tag=N answer=yes` or `no`."""
        question, pairs = self.questions.take(line)
        question.answer = pairs.get("answer") == "yes"
        self.log.add("confirm", answer="yes" if question.answer else "no", **_shown(question.key))
        self.changed.ring()

    def dismiss(self, line: str) -> None:
        """`tag=N`: that key will not come."""
        self.needs.take(line)

    # --- small things -----------------------------------------------------------------------------

    def _check_of(self, key: Key) -> Check:
        name = key.attrs.get("root", ""), key.attrs.get("dom", "")
        if not name[0]:
            raise CloudError("bad", f"the key of {name[1]} does not say its root", "add root=HEX")
        if name not in self._checks:
            if len(self._checks) >= CHECKS:
                self._checks.clear()
            self._checks[name] = Check(*name, self._now)
        return self._checks[name]


def _shown(key: Key) -> dict[str, str]:
    """Of a key what a log or a question tells."""
    return {name: key.attrs[name] for name in ("proto", "dom", "user") if name in key.attrs}
