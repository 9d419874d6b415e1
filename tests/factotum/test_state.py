"""What a factotum holds and does by lines of ctl: nothing of them comes out in an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotumd import state
from cloudfs.factotumd.files import Agent, tree
from cloudfs.factotumd.held import Logins
from cloudfs.factotumd.state import Factotum
from cloudfs.tree.api import ORDWR, OREAD, OWRITE, Cues, Handle, Who
from cloudfs.tree.space import Space
from cloudfs.wait import Wait, settle
from tests.factotum.town import Town

ME = Who("me", 7, boss=True)
SECRET = "swordfish"


class Files:
    """The files of a factotum, without a server."""

    def __init__(self) -> None:
        self.factotum = Factotum()
        self.ended: list[bool] = []
        agent = Agent(self.factotum, Logins(self.factotum, "/x"), lambda: self.ended.append(True))
        self.space = Space(tree(agent, "me", lambda: 0.0))

    def open(self, name: str, mode: int, follow: bool = False) -> Handle:
        at = self.space.attach(ME)
        handle = self.space.root.walk(name, at, Cues()).open(mode, at, Cues(follow=follow))  # type: ignore[union-attr]
        assert isinstance(handle, Handle)
        return handle

    def echo(self, line: str | bytes, name: str = "ctl") -> object:
        handle = self.open(name, OWRITE)
        data = line if isinstance(line, bytes) else line.encode()
        try:
            return handle.write(0, data)
        finally:
            handle.close()

    def cat(self, name: str = "ctl") -> str:
        data = self.open(name, OREAD).read(0, 1 << 16)
        assert isinstance(data, bytes)
        return data.decode()


LINES = st.text(max_size=60) | st.sampled_from(
    [
        f"key proto=pass !password={SECRET}",
        f"key !password={SECRET}",
        f"key proto=pass 'x={SECRET}",
        f"key proto=pass {SECRET}",
        f"delkey {SECRET}",
        f"delkey !password={SECRET}",
        f"granted {SECRET}",
        f"{SECRET}=1",
        f"login {SECRET}",
        f"login unix:/x '{SECRET}",
        f"logout {SECRET}/x",
    ]
)
RPC = st.sampled_from(
    ["start proto=p9any", "start proto=cap25519 role=holder", "start proto=cap25519 role=grant",
     "read", "attr", "authinfo", "write x", "write"]
)  # fmt: skip


@given(
    st.lists(
        st.tuples(st.sampled_from(["ctl", "confirm", "needkey"]), LINES)
        | st.tuples(st.just("rpc"), RPC)
    )
)
@settings(deadline=None, max_examples=150)
def test_whatever_is_written_no_secret_comes_out_and_it_goes_on(
    steps: list[tuple[str, str]],
) -> None:
    files = Files()
    files.echo(f"key proto=cap25519 dom=local user=ana !seed={SECRET}\n")
    rpc = files.open("rpc", ORDWR)
    said = []
    for name, line in steps:
        try:
            if name == "rpc":
                rpc.write(0, line.encode("utf-8", "surrogatepass"))
                answer = rpc.read(0, 9999)
                said.append(bytes(answer).decode() if not isinstance(answer, Wait) else "")
            else:
                files.echo(line.encode("utf-8", "surrogatepass"), name)
        except CloudError as error:
            # An address that is none is shown as it was written; it is no secret's place.
            said.append("" if line.strip().startswith(("login", "logout")) else str(error))
    said += [files.cat(name) for name in ("ctl", "log", "confirm", "needkey")]
    assert not [text for text in said if SECRET in text]


async def test_a_question_that_nobody_answers_is_no(autojump_clock: object, tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.user("ana")
    files = Files()
    files.factotum.add(town.line("ana", "confirm=yes "))
    rpc = files.factotum.rpc()
    await files.factotum.answer(rpc, b"start proto=p9any role=client")
    began = trio.current_time()
    answer = await files.factotum.answer(rpc, b"read")
    assert answer == b"error its owner did not confirm that the key be used"
    assert trio.current_time() - began == pytest.approx(state.SAY)
    assert files.cat("confirm") == ""


async def test_questions_and_needs_are_bounded(tmp_path: Path) -> None:
    town = Town(tmp_path)
    town.user("ana")
    files = Files()
    files.factotum.add(town.line("ana", "confirm=yes "))
    for _ in range(state.QUESTIONS + 3):
        rpc = files.factotum.rpc()
        rpc.write(b"start proto=p9any role=client")
        rpc.write(b"read")
    assert len(files.cat("confirm").splitlines()) == state.QUESTIONS
    assert rpc.read() == b"error its owner did not confirm that the key be used"
    for number in range(state.NEEDS + 3):
        rpc.write(f"start proto=p9any role=client user=u{number}".encode())
        rpc.write(b"read")
    assert len(files.cat("needkey").splitlines()) == state.NEEDS
    rpc.write(b"start proto=p9any role=client user=u66")
    rpc.write(b"read")
    assert len(files.cat("needkey").splitlines()) == state.NEEDS, "the same is wanted once"


async def test_what_waits_is_followed_from_where_it_stands() -> None:
    files = Files()
    rpc = files.factotum.rpc()
    follow = files.open("needkey", OREAD, follow=True)
    for user in ("ana", "bob"):
        rpc.write(f"start proto=p9any role=client user={user}".encode())
        rpc.write(b"read")
        text = bytes(await settle(follow.read(0, 999))).decode()
        assert text.startswith(f"needkey tag={1 if user == 'ana' else 2} user={user} ")


def test_end_is_told_and_other_verbs_are_not() -> None:
    files = Files()
    with pytest.raises(CloudError, match="no verb of a factotum"):
        files.echo("stop")
    files.echo("end")
    assert files.ended == [True]
