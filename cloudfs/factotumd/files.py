"""The files of a factotum (factotum(4))."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cloudfs.errors import CloudError
from cloudfs.factotum.rpc import Rpc
from cloudfs.factotumd.held import Logins
from cloudfs.factotumd.state import Factotum, Waiting
from cloudfs.kernel.bell import Log as KernelLog
from cloudfs.tree import numbers
from cloudfs.tree.api import Cues, Handle, Node, Wait
from cloudfs.tree.files import Log, Row, Value
from cloudfs.tree.handles import Following, Lines
from cloudfs.tree.space import Attach
from cloudfs.tree.table import TableDir

DOC = """\
What proves who you are.  Keys go in and do not come out again: what uses them speaks through
rpc (factotum(4) of Plan 9).  Verbs of ctl:

  key ATTR=VALUE... !ATTR=SECRET   Add a key; with confirm=yes you are asked before each use.
  delkey ATTR=VALUE... ATTR?       Forget all keys that match.
  granted TOKEN                    Add what another user granted you.
  login ADDR [ATTR=VALUE...]       Be that user at the node at ADDR until logout.
  logout [ADDR]                    End that login, or all.
  end                              Forget everything and end.
"""


class Agent:
    """What the table is about.  end(): ends the process."""

    def __init__(self, factotum: Factotum, logins: Logins, end: Callable[[], None]) -> None:
        self.factotum = factotum
        self.logins = logins
        self.end = end


def tree(agent: Agent, owner: str, changed: Callable[[], float]) -> Node:
    """The directory, all of which is for its owner alone."""
    return TableDir("/", TABLE, agent, numbers.ROOT, owner, changed, doc=DOC)


class Conversation(Row):
    """The file rpc: each open of it is a conversation."""

    def open(self, subject: Agent, mode: int, at: Attach, cues: Cues) -> Handle:
        return _Talking(subject.factotum, subject.factotum.rpc())


class _Talking(Handle):
    """A request is a write; its answer is read once, whatever the offset, and then the end."""

    __slots__ = ("_answer", "_asked", "_factotum", "_rpc")

    def __init__(self, factotum: Factotum, rpc: Rpc) -> None:
        self._factotum = factotum
        self._rpc = rpc
        self._asked = False  # whether an answer has yet to be read
        self._answer = b""

    def write(self, offset: int, data: bytes | memoryview) -> int:
        before = self._rpc.state
        self._rpc.write(bytes(data))
        self._factotum.note(before, self._rpc)
        self._asked, self._answer = True, b""
        return len(data)

    def read(self, offset: int, count: int) -> bytes | Wait[bytes]:
        if not self._asked:
            return self._take(count)
        if self._rpc.waits is None:
            self._asked, self._answer = False, self._rpc.read()
            return self._take(count)

        async def settled() -> bytes:
            answer = await self._factotum.settled(self._rpc)
            self._asked, self._answer = False, answer
            return self._take(count)

        return Wait(settled)

    def _take(self, count: int) -> bytes:
        data, self._answer = self._answer[:count], self._answer[count:]
        return data


class Asked(Row):
    """What waits for its owner: what there is now, under .follow also what comes.

    of(subject): what waits.  take(subject, line): what is written about one of it.
    """

    def __init__(
        self,
        name: str,
        doc: str,
        of: Callable[[Any], Waiting[Any]],
        take: Callable[[Any, str], None],
    ) -> None:
        super().__init__(name, 0o600, doc)
        self.of = of
        self.take = take

    def open(self, subject: Agent, mode: int, at: Attach, cues: Cues) -> Handle:
        waiting = self.of(subject)
        if not cues.follow or mode & 3 != 0:
            text = "" if mode & 3 == 1 else waiting.text()
            return Lines(text, lambda line: self.take(subject, line) if line.strip() else None)
        first, number = waiting.text(), waiting.told.count

        async def more() -> bytes:
            nonlocal first, number
            if first:
                text, first = first, ""
                return text.encode()
            await waiting.told.more(number)
            text, number = waiting.told.since(number)
            return text.encode()

        return Following(more)


class Secrets(Row):
    """The file ctl, whose errors show nothing of the line that was written."""

    def open(self, subject: Agent, mode: int, at: Attach, cues: Cues) -> Handle:
        text = "" if mode & 3 == 1 else _keys(subject)
        return Lines(text, lambda line: _act(subject, line))


def _keys(agent: Agent) -> str:
    lines = [*map(str, agent.factotum.keys), *agent.logins.lines()]
    return "".join(f"{line}\n" for line in lines)


def _act(agent: Agent, line: str) -> Any:
    verb, _, rest = line.strip().partition(" ")
    act = _VERBS.get(verb)
    if act is None:
        if not verb:
            return None
        raise CloudError("bad", "that is no verb of a factotum", f"verbs: {' '.join(_VERBS)}")
    return act(agent, rest.strip())


def _login(agent: Agent, rest: str) -> Wait[None]:
    address, _, wanted = rest.partition(" ")
    return agent.logins.begin(address, wanted)


def _logout(agent: Agent, rest: str) -> None:
    agent.logins.end(rest)


def _end(agent: Agent, rest: str) -> None:
    agent.end()


_VERBS: dict[str, Callable[[Agent, str], Any]] = {
    "key": lambda agent, rest: agent.factotum.add(rest),
    "delkey": lambda agent, rest: agent.factotum.delete(rest),
    "granted": lambda agent, rest: agent.factotum.granted(rest),
    "login": _login,
    "logout": _logout,
    "end": _end,
}


def _proto(agent: Agent, at: Attach) -> str:
    """The protocols that it speaks, one a line."""
    return "".join(f"{name}\n" for name in agent.factotum.protocols)


def _err(agent: Agent, at: Attach) -> str:
    """Why you were last refused something, the newest last."""
    lines = at.space.errors.of(at.who.user)
    return "".join(
        f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(when))} {text}\n"
        for when, text in lines
    )


def _log(agent: Agent) -> KernelLog:
    """What it did, without secrets.  Under .follow a read waits for more."""
    return agent.factotum.log


TABLE = (
    Secrets("ctl", 0o600, "Read: keys without their secrets, and logins.  Write: a verb a line."),
    Conversation(
        "rpc", 0o600, "Conversations, one for each open: write a request, read its answer."
    ),
    Value("proto", 0o400, _proto),
    Asked(
        "confirm",
        "Uses of keys that wait for your word: write tag=N answer=yes or no.",
        lambda agent: agent.factotum.questions,
        lambda agent, line: agent.factotum.confirm(line),
    ),
    Asked(
        "needkey",
        "Keys that were wanted and are not there: add them to ctl, or write tag=N.",
        lambda agent: agent.factotum.needs,
        lambda agent, line: agent.factotum.dismiss(line),
    ),
    Log("log", 0o400, _log),
    Value("err", 0o400, _err),
)
