"""A user's client of secstore against holders that are right, lost, behind, or lie."""

from __future__ import annotations

import itertools
import os
import re
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs import ndb
from cloudfs.cli import secstore
from cloudfs.cli.files import Files
from cloudfs.errors import CloudError
from cloudfs.factotum import accounts, dealings, oprf, sealed, shares, versions
from cloudfs.factotum.ristretto import ORDER
from cloudfs.kernel.holder import Holder
from cloudfs.kernel.people import People
from cloudfs.kernel.records import Records
from cloudfs.kernel.secstore import Secstore
from tests.factotum.people import TRUST
from tests.factotum.test_authority import PARIS, ROME

RIGHT, WRONG, NEW = "sesame-sesame", "sesame-sesamf", "another one"


class Node(Secstore):
    """One node's part, which asks the others in this process."""

    def __init__(self, net: Net, name: str, people: People, records: Records) -> None:
        self.net = net
        made = Holder(name, people, records, lambda: TRUST, lambda: net.now)
        super().__init__(types.SimpleNamespace(), people, made, net.answer)  # type: ignore[arg-type]

    async def candidates(self, user: str) -> dict[str, str]:
        return {name: "paris" for name in self.net.nodes if name not in self.net.down}


class Net(Files):
    """The files of the first of some nodes, as a client sees them.

    down: those that do not answer.  lies: what a node answers instead of the truth.  sent: all
    that went to holders and back.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.now = time.time()
        self.down: set[str] = set()
        self.lies: dict[str, Callable[[str, str], str]] = {}
        self.sent: list[tuple[str, str, str]] = []
        self.nodes: dict[str, Node] = {}
        self.stores = {f"n{n}": Records(folder / f"n{n}.db") for n in range(1, count + 1)}
        for name, records in self.stores.items():
            self.nodes[name] = Node(self, name, People(lambda: TRUST, records), records)
        self.first = self.nodes["n1"]

    async def answer(self, node: str, request: str, seconds: float) -> str:
        await trio.lowlevel.checkpoint()
        if node in self.down:
            raise CloudError("unreachable", f"node {node} is gone")
        said = self.nodes[node].holder.ask(request, "n1")
        assert isinstance(said, str)
        if node in self.lies:
            said = self.lies[node](request, said)
        self.sent.append((node, request, said))
        return said

    # --- Files

    def ask(self, path: str, request: str) -> str:
        kind, *user = path.removeprefix("secstore/").removeprefix("users/").split("/")[::-1]
        work = getattr(self.first, kind)
        if kind == "keys" and request != "keys":
            return trio.run(self.first.keep, user[0], request)
        return trio.run(work, *user, *([request] if kind != "keys" else []))

    def read(self, path: str) -> str:
        _, _, user, kind = path.split("/")
        register = self.first.people.register
        if register.user(user) is None:
            raise CloudError("absent", "no such file")
        return "".join(
            one.text() for one in register.versions({"record": "user"}.get(kind, kind), user)
        )

    def put(self, path: str, data: bytes) -> None:
        assert path == "secstore/ctl"
        for node in self.nodes.values():  # as the fabric does in a moment
            node.people.take(data.decode())

    def list(self, path: str) -> list[str]:
        register = self.first.people.register
        return register.users() if path.endswith("users") else register.groups()

    # --- what a client does

    def make(self, user: str = "ana") -> str:
        return secstore.make_user(self, PARIS, user, RIGHT, self.notes.append)

    def login(self, password: str = RIGHT, user: str = "ana", **more: object) -> list[str]:
        self.notes = []
        return secstore.get_keys(self, user, password, say=self.notes.append, **more)  # type: ignore[arg-type]

    def change(self, old: str, new: str, version: str = "") -> None:
        opened = secstore.unlock(self, "ana", password=old, version=version)
        secstore.change_password(self, opened, new, self.notes.append)

    notes: list[str] = []  # noqa: RUF012, what the client was told


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A client of its own, that has little memory for Argon2id."""
    monkeypatch.setattr(sealed, "MEMORY", 64)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "client"))
    monkeypatch.setenv("CLOUDFS_STATE", str(tmp_path / "state"))


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """From now on this is a client that has never logged in."""
    numbers = itertools.count()

    def become() -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / f"other{next(numbers)}"))

    return become


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    made = Net(tmp_path, 5)
    made.make()
    yield made
    for records in made.stores.values():
        records.close()


def fails(work: Callable[..., object], kind: str, *args: object, **more: object) -> str:
    with pytest.raises(CloudError) as caught:
        work(*args, **more)
    assert caught.value.kind == kind, caught.value
    return str(caught.value)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_keys_come_back_by_password_alone(tmp_path: Path, count: int) -> None:
    net = Net(tmp_path, count)
    code = net.make()
    (line,) = net.login()
    assert line.startswith("key proto=cap25519 dom=local user=ana !seed=")
    assert secstore.unlock(net, "ana", code=code).keys == [line]
    made = net.first.people.dealing("ana")
    assert made is not None
    assert (made.need, len(made.holders)) == dealings.size(count)
    assert net.notes == []


def test_wrong_ones_are_refused_with_the_reason(net: Net) -> None:
    assert "the password is wrong" in fails(net.login, "denied", WRONG)
    assert "no user bob" in fails(net.login, "absent", RIGHT, "bob")
    for name in ("../ana", "root", "", "x" * 99, "a\nb", "user"):
        assert "no name of a user" in fails(net.login, "bad", RIGHT, name)
    assert "1 to 1024 bytes" in fails(net.login, "bad", "x" * 1025)
    make = secstore.make_user
    say = net.notes.append
    assert "a user ana already" in fails(make, "exists", net, PARIS, "ana", RIGHT, say)
    assert "at least 8" in fails(make, "bad", net, PARIS, "bob", "short", say)
    assert "at most 1024" in fails(make, "bad", net, PARIS, "bob", "x" * 1025, say)
    assert "recovery code is wrong" in fails(
        secstore.unlock, "denied", net, "ana", code=sealed.new_code()
    )
    assert "26 letters" in fails(secstore.unlock, "bad", net, "ana", code="none")


def test_where_too_few_holders_answer_it_says_who_and_why(net: Net) -> None:
    net.down = {"n2", "n3"}
    assert net.login()
    net.down = {"n2", "n3", "n4"}
    said = fails(net.login, "unreachable")
    assert "3 of 5 holders needed, 2 answered" in said
    assert "n3: node n3 is gone" in said


def test_a_user_whose_holders_do_not_all_answer_is_not_made(net: Net) -> None:
    down = {"n2"}

    def dies(request: str, said: str) -> str:
        if request.startswith("give"):
            raise CloudError("unreachable", "it died just now")
        return said

    net.lies = dict.fromkeys(down, dies)
    assert "it died just now" in fails(net.make, "unreachable", "bob")
    assert net.list("secstore/users") == ["ana"]
    net.lies = {}
    net.make("bob")
    assert net.login(user="bob")


# --- guessing ----------------------------------------------------------------------------------


def test_guessing_is_slow_and_locks_nobody_out(net: Net, stranger: Callable[[], None]) -> None:
    code = secstore.unlock(net, "ana", password=RIGHT).code
    net.login()  # the owner's device
    owner = os.environ["XDG_STATE_HOME"]
    stranger()
    for _ in range(5):
        assert "the password is wrong" in fails(net.login, "denied", WRONG)
    assert "wait" in fails(net.login, "busy", WRONG)
    fails(net.login, "busy", RIGHT)  # a new device waits,
    os.environ["XDG_STATE_HOME"] = owner
    for _ in range(3):
        assert net.login()  # a known one does not,
    stranger()
    opened = secstore.unlock(net, "ana", code=code)  # nor does the recovery code, to change it
    secstore.change_password(net, opened, RIGHT, net.notes.append)
    net.now += 301
    assert net.login(RIGHT)


def test_right_passwords_count_as_no_guesses(net: Net, stranger: Callable[[], None]) -> None:
    for _ in range(12):
        stranger()
        assert net.login()
    record = net.first.people.user("ana")
    assert record is not None
    assert len(dealings.notes(record).devices) == 12


def test_nobody_makes_use_of_a_devices_proof(net: Net, stranger: Callable[[], None]) -> None:
    net.login()
    net.sent.clear()
    net.login()
    seen = [(node, request) for node, request, _ in net.sent if request.startswith("harden")]
    assert all("device=" in request for _, request in seen)
    spent = []
    for node, request in seen:
        for _ in range(20):  # replayed, to its holder or another, or with another point
            for other in (node, "n2"):
                try:
                    net.nodes[other].holder.ask(request, "evil")
                except CloudError as error:
                    spent.append(error.kind)
    assert set(spent) == {"busy"}
    net.login()  # what was used up is the replayer's
    told = ndb.parse(seen[0][1].partition(" ")[2])
    other = oprf.blind(b"x").point.hex()
    holder = net.nodes[seen[0][0]].holder
    record = net.first.people.user("ana")
    assert record is not None
    for changed in (
        {"point": other}, {"time": f"{net.now + 1}"}, {"device": "00" * 32}, {"time": "nan"},
    ):  # fmt: skip
        pairs = told | changed
        point = bytes.fromhex(pairs["point"])
        assert holder._device(record, point, pairs) == ""


# --- fewer than needed ---------------------------------------------------------------------------


def test_fewer_than_needed_cannot_test_a_password(net: Net, tmp_path: Path) -> None:
    """Two of the three needed put together all that they have on disk, have sent and have heard,
    with the right password at hand: nothing tells them that it is."""
    net.login()
    net.login()
    two = [net.nodes[name].holder for name in ("n1", "n2")]
    mine = {h.share("ana").number: h.share("ana").value for h in two}
    made = two[0].share("ana").dealing
    blob = sealed.parse(two[0].records.sealed_of("ana")[0])
    asked = oprf.blind(RIGHT.encode())

    def opens(values: dict[int, int]) -> bool:
        answers = {n: oprf.evaluate(value, asked.point)[0] for n, value in values.items()}
        try:
            sealed.open_by_password(blob, oprf.finish(asked, oprf.combine(answers)))
        except CloudError:
            return False
        return True

    assert not opens(mine)
    for number in range(3, 6):
        for guess in (1, 2, *mine.values()):
            assert not opens({**mine, number: guess})
    third = net.nodes["n3"].holder.share("ana")
    assert opens({**mine, third.number: third.value})
    for secret in (1, 12345):  # whatever the key were, some third share goes with theirs
        two_and_it = {0: secret, **mine}
        over = {n: (third.number - n) for n in two_and_it}
        value = 0
        for n, at in two_and_it.items():
            term = at
            for m in two_and_it:
                if m != n:
                    term = term * over[m] * pow(n - m, -1, ORDER)
            value += term
        assert shares.restore({**mine, third.number: value % ORDER}) == secret
    assert len(mine) == made.need - 1
    for name, records in net.stores.items():
        records._db.execute("pragma wal_checkpoint(truncate)")
        assert RIGHT.encode() not in (tmp_path / f"{name}.db").read_bytes()
    assert all(RIGHT not in request + said for _, request, said in net.sent)
    points = [
        ndb.parse(request.split("\n")[0])["point"]
        for node, request, _ in net.sent
        if node == "n2" and request.startswith("harden")
    ]
    assert len(set(points)) == len(points) >= 2  # the same password never looks the same


# --- lies ----------------------------------------------------------------------------------------


def test_a_wrong_answer_is_seen_and_does_no_harm(net: Net) -> None:
    def lie(request: str, said: str) -> str:
        if not request.startswith("harden"):
            return said
        first, rest = said.split("\n", 1)
        pairs = ndb.parse(first)
        pairs["answer"] = oprf.blind(b"x").point.hex()
        return f"{ndb.record(pairs)}\n{rest}"

    net.lies = {
        "n2": lie,
        "n3": lambda request, said: "holder=n3 x='\n" if "harden" in request else said,
    }
    assert net.login()
    assert any("n2 answers wrongly" in note for note in net.notes)
    net.lies["n4"] = lie
    said = fails(net.login, "unreachable")
    assert "3 of 5 holders needed, 2 answered" in said


def test_holders_of_another_key_are_seen(net: Net) -> None:
    """Liars together answer by a key and a dealing of their own: the user's record names another."""
    secret = 4711
    dealt = shares.deal(secret, 1, [1])
    mine = dealings.Dealing("ana", 1, 1, ("n2",), (bytes(32),), dealt.commitments)

    def lie(request: str, said: str) -> str:
        if not request.startswith("harden"):
            return said
        point = bytes.fromhex(ndb.parse(request.partition(" ")[2])["point"])
        answer, proof = oprf.evaluate(dealt.shares[1], point)
        pairs = {"number": 1, "answer": answer.hex(), "proof": proof.hex()}
        return f"{ndb.record(pairs)}\n{mine.text()}"

    net.lies = dict.fromkeys(("n1", "n2", "n3", "n4"), lie)
    net.first = net.nodes["n5"]
    fails(net.login, "unreachable")
    assert any("answers for another key" in note for note in net.notes)


def old_keys(lines: str) -> Callable[[str, str], str]:
    return lambda request, said: lines if request.startswith("keys") else said


def test_an_old_blob_is_seen(net: Net, stranger: Callable[[], None]) -> None:
    before = net.nodes["n2"].holder.records.sealed_of("ana")[0]
    net.login()
    net.change(RIGHT, NEW)
    net.lies = {"n2": old_keys(before)}
    net.login(NEW)
    assert any("n2: version 1 of the keys, which is older than 2" in note for note in net.notes)
    fails(net.login, "denied", RIGHT)
    net.lies = dict.fromkeys(net.nodes, old_keys(before))
    net.first = net.nodes["n5"]
    net.nodes["n5"].holder.records.drop_sealed("ana", sealed.parse(
        net.nodes["n5"].holder.records.sealed_of("ana")[0]).digest)  # fmt: skip
    assert "there was another one after it" in fails(net.login, "stale", RIGHT)
    stranger()  # who has seen nothing yet sees it by the user's record
    assert "there was another one after it" in fails(net.login, "stale", RIGHT)


def test_a_changed_blob_is_seen(net: Net) -> None:
    line = net.nodes["n2"].holder.records.sealed_of("ana")[0]
    other = sealed.seal(b"key evil\n", "ana", bytes(64), sealed.new_code(),
                        secstore.Ed25519PrivateKey.generate()).text()  # fmt: skip
    for bad in (line.replace("version=1", "version=9"), other, line[:-9] + "\n", "x\n", ""):
        net.lies = {"n2": old_keys(bad)}
        assert net.login()
        if bad:
            assert any("at n2 were changed" in note for note in net.notes), bad


def test_a_fork_is_seen_and_ended_by_the_user(net: Net) -> None:
    opened = secstore.unlock(net, "ana", password=RIGHT)
    for holders in ({"n1", "n2"}, {"n3", "n4", "n5"}):
        blob = sealed.seal(opened.content.encode(), "ana", bytes(64), opened.code, opened.secret,
                           opened.blobs)  # fmt: skip
        for name in holders:
            net.nodes[name].holder.store(opened.heads[0], blob.text())
    assert "parted in versions 2" in fails(net.login, "busy", RIGHT)
    both = {line for node in net.nodes.values() for line in node.holder.records.sealed_of("ana")}
    assert len(both) == 2
    digest = versions.heads(map(sealed.parse, both))[0].digest
    chosen = secstore.unlock(net, "ana", code=opened.code, version=digest[:10])
    secstore.change_password(net, chosen, NEW, net.notes.append)
    assert net.login(NEW)
    assert net.notes == []
    assert {len(node.holder.records.sealed_of("ana")) for node in net.nodes.values()} == {1}
    assert "no one version" in fails(net.login, "absent", NEW, version="zz")


def test_a_record_that_parted_is_told_and_joined_again(net: Net) -> None:
    opened = secstore.unlock(net, "ana", password=RIGHT)
    last = opened.heads[0]
    for more in ("one", "two"):
        made = accounts.change_user([last], opened.secret, more=f"{last.more} x={more}")
        net.write("secstore/ctl", made.text().strip())
    assert net.login()
    assert any("has parted in 2 versions" in note for note in net.notes)
    net.change(RIGHT, NEW)
    assert net.login(NEW)
    assert not any("parted" in note for note in net.notes)


def test_a_password_changes_where_most_holders_take_it(net: Net) -> None:
    net.down = {"n2"}
    net.change(RIGHT, NEW)
    assert any("n2 still has the old password" in note for note in net.notes)
    net.down = {"n3", "n4"}
    assert net.login(NEW)
    net.down = {"n3", "n4", "n5"}
    fails(net.login, "unreachable", NEW)
    net.down = set()
    code = secstore.unlock(net, "ana", password=NEW).code
    opened = secstore.unlock(net, "ana", code=code)
    secstore.change_password(net, opened, RIGHT, net.notes.append)
    fails(net.login, "denied", NEW)
    assert net.login()
    assert secstore.unlock(net, "ana", code=code).keys  # it is the same one


# --- what holders take -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(
    st.text(max_size=200), st.sampled_from(["harden", "keys", "keep", "give", "right", "key", ""])
)
def test_nonsense_is_refused_by_a_holder(text: str, verb: str) -> None:
    records = Records(":memory:")
    made = Holder("n1", People(lambda: TRUST, records), records, lambda: TRUST)
    try:
        made.ask(f"{verb} {text}")
    except CloudError as error:
        assert error.kind in ("bad", "absent", "denied", "stale")  # noqa: PT017
    assert made.shares == {}


def test_shares_that_were_not_dealt_or_not_for_here_are_refused(net: Net) -> None:
    record, made = net.first.people.user("ana"), net.first.people.dealing("ana")
    assert record is not None
    assert made is not None
    two, line = net.nodes["n2"].holder, net.nodes["n2"].holder.records.sealed_of("ana")[0]
    value = two.share("ana").value

    def give(share: int, at: str = "n2", *lines: str) -> str:
        text = "\n".join(one.strip() for one in lines or (record.text(), made.text(), line))
        return str(net.nodes[at].holder.ask(f"give share={share:x}\n{text}"))

    assert give(value) == "given\n"
    fails(give, "denied", value + 1)
    fails(give, "denied", value, "n3")
    other = replace(made, holders=made.holders[::-1])
    fails(give, "denied", value, "n2", record.text(), other.text(), line)
    fails(give, "bad", value, "n2", record.text(), made.text())
    eve = accounts.make_user(PARIS, "ana", secstore.Ed25519PrivateKey.generate(),
                             dealings.Notes(made.digest, made.public).text())  # fmt: skip
    fails(give, "exists", value, "n2", eve.text(), made.text(), line)
    fails(two.ask, "toobig", "x" * (1 << 21))


def test_what_nobody_claims_is_forgotten(net: Net) -> None:
    two = net.nodes["n2"].holder
    record = secstore.records(net, "ana")[0]
    net.write("secstore/ctl", accounts.make_gone(PARIS, record).text().strip())
    assert "no user ana" in fails(net.login, "absent")
    two.tidy()
    assert "ana" in two.shares  # a moment, in case its user comes yet
    net.now += 3601
    two.tidy()
    assert two.shares == {}
    assert two.records.all_shares() == []
    assert two.records.sealed_users() == []


def test_a_clock_that_is_wrong_by_a_day_is_told(net: Net, stranger: Callable[[], None]) -> None:
    net.login()
    net.now += 86400
    net.login()  # as a stranger, who may
    for _ in range(5):
        fails(net.login, "denied", WRONG)
    said = fails(net.login, "busy", RIGHT)
    assert re.search(r"that device's clock is \+(863|864)\d\d s off", said)


def test_a_login_has_the_record_name_the_last_of_many_dealings(net: Net) -> None:
    register = net.first.people.register
    (last,) = register.dealings("ana")
    first = last
    for _ in range(6):
        made = replace(last, number=last.number + 1, before=last.digest, signs=())
        signs = {
            made.share_of(name): made.sign(made.share_of(name), node.holder.key)
            for name, node in net.nodes.items()
        }
        made = dealings.with_signs(made, signs)
        for node in net.nodes.values():
            share = node.holder.shares["ana"][first.digest]
            node.holder.take_share(made, share.number, share.value)
        net.write("secstore/ctl", made.text().strip())
        last = made
    assert len(register.dealings("ana")) == 7
    assert net.login()
    assert register.dealings("ana") == [last]
    assert net.login()
    assert net.notes == []


def test_a_new_epoch_comes_with_a_password_where_that_is_asked(net: Net) -> None:
    opened = secstore.unlock(net, "ana", password=RIGHT)
    secstore.change_password(net, opened, NEW, net.notes.append, epoch=True)
    assert net.first.people.epoch("ana") == 2
    net.change(NEW, RIGHT)
    assert net.first.people.epoch("ana") == 2


def test_another_user_of_the_name_is_told_of_and_changes_nothing(net: Net) -> None:
    other = accounts.make_user(ROME, "ana", secstore.Ed25519PrivateKey.generate())
    net.write("secstore/ctl", other.text().strip())
    assert net.login()
    assert any("was made in the cluster rome" in note for note in net.notes)
    net.change(RIGHT, NEW)
    assert net.login(NEW)
    net.write("secstore/ctl", accounts.make_gone(ROME, other).text().strip())
    assert net.login(NEW)
    assert net.notes == []
