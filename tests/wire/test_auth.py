"""Tauth: who proves what on an afid, in each dialect, and what of it gets nobody in."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum.proofs import Proofs
from cloudfs.wire import auth
from cloudfs.wire.messages import NOFID, VERSIONS
from tests.factotum.town import Prover, Town
from tests.wire.talk import GUEST, Talk, refused

AFID = 9
DIALECTS = pytest.mark.parametrize("dialect", ["9", "u", "L"])


@pytest.fixture
def town(tmp_path: Path) -> Town:
    made = Town(tmp_path)
    made.user("ana")
    made.user("bob")
    made.people.groups["ana"] = frozenset({"web"})
    return made


class Session(Talk):
    """A session whose connection proves nobody, with the clock of the town."""

    def __init__(self, proofs: Proofs, town: Town, dialect: str = "L", **more: object) -> None:
        super().__init__(dialect, GUEST, attach=False, proofs=proofs, clock=town.clock, **more)
        self.ask("Tversion", 65536, VERSIONS[dialect])
        self.threads = 0  # messages that went to one

    @property
    def number(self) -> tuple[int, ...]:
        return () if self.codec.key == "9" else (0,)

    def begin(self, afid: int = AFID, uname: str = "glenda") -> tuple[str, tuple[object, ...]]:
        return self.ask("Tauth", afid, uname, "", *self.number)

    def read(self, count: int = 2048, afid: int = AFID) -> bytes:
        got, values = self.ask("Tread", afid, 77, count)  # offsets mean nothing
        assert got == "Rread", (got, values)
        return bytes(values[0])

    def write(self, message: bytes, afid: int = AFID) -> tuple[str, tuple[object, ...]]:
        replies = self.send("Twrite", afid, 5, message)
        if not replies:
            self.threads += 1
            job = self.jobs[-1]
            result, error = None, None
            try:
                job.wait._run.args[0]()  # what the thread does, here
            except CloudError as reason:
                error = reason
            replies = self.end(job, result, error)
        ((got, _, values),) = replies
        return got, values

    def prove(self, prover: Prover, change=lambda n, m: m) -> bytes:
        """The whole conversation; what the factotum says at its end."""
        count = 0
        while (message := prover.say()) is not None:
            if message:
                got, _ = self.write(change(count, message))
                assert got == "Rwrite"
            else:
                prover.hear(change(count, self.read()))
            count += 1
        return prover.end

    def who(self, afid: int = AFID, uname: str = "glenda") -> str:
        """Attach with an afid; whom the server takes us for, or the errno or text of why not."""
        got, values = self.ask("Tattach", 0, afid, uname, "", *self.number)
        if got != "Rattach":
            return str(values[-1])
        return self.session.fids[0].tree.at.who.user


@DIALECTS
def test_whoever_proves_to_be_ana_attaches_as_ana_whatever_name_is_given(
    town: Town, dialect: str
) -> None:
    talk = Session(town.proofs("n1"), town, dialect)
    assert talk.begin() == ("Rauth", ((0x08, 0, AFID),))
    assert talk.prove(Prover(town.rpc("ana"))) == b"done haveai"
    assert talk.who(uname="root") == "ana"
    who = talk.session.fids[0].tree.at.who
    assert (who.groups, who.boss, who.powers) == ({"ana"}, False, None)
    assert talk.threads == 1


@DIALECTS
def test_afid_nought_is_an_afid(town: Town, dialect: str) -> None:
    talk = Session(town.proofs("n1"), town, dialect)
    talk.begin(0)
    prover = Prover(town.rpc("ana"))
    while (message := prover.say()) is not None:
        if message:
            talk.write(message, 0)
        else:
            prover.hear(talk.read(afid=0))
    got, _ = talk.ask("Tattach", 1, 0, "me", "", *talk.number)
    assert got == "Rattach"
    assert talk.session.fids[1].tree.at.who.user == "ana"


@DIALECTS
def test_a_server_that_knows_no_users_asks_for_no_proof(town: Town, dialect: str) -> None:
    town.people.users.clear()
    talk = Session(town.proofs("n1"), town, dialect)
    assert refused(talk.begin()) in (errno.ENOENT, "file not found")
    assert talk.who(NOFID) == "guest"


@DIALECTS
def test_an_afid_that_proved_nothing_attaches_nobody(town: Town, dialect: str) -> None:
    talk = Session(town.proofs("n1"), town, dialect)
    closed = {"9": "Permission denied"}.get(dialect, str(errno.EACCES))
    unknown = {"9": "Bad file descriptor"}.get(dialect, str(errno.EBADF))
    assert talk.who(AFID) == unknown
    talk.begin()
    assert talk.who(AFID) == closed
    talk.read()
    assert talk.who(AFID) == closed
    assert talk.who(NOFID) == "guest", "without one the connection says who it is"


def test_the_second_proof_with_a_token_takes_no_thread(town: Town) -> None:
    talk, rpc = Session(town.proofs("n1"), town), town.rpc("ana")
    for afid in (AFID, AFID + 1):
        talk.begin(afid)
        prover = Prover(rpc)
        while (message := prover.say()) is not None:
            if message:
                talk.write(message, afid)
            else:
                prover.hear(talk.read(afid=afid))
        assert prover.end == b"done haveai"
    assert talk.threads == 1
    talk.ask("Tattach", 1, AFID, "", "", 0)
    talk.ask("Tattach", 2, AFID + 1, "", "", 0)
    assert {fid.tree.at.who.user for fid in talk.session.fids.values()} == {"ana"}


def test_a_cached_proof_ends_with_its_epoch_its_key_and_its_time(town: Town) -> None:
    rpc, proofs = town.rpc("ana"), town.proofs("n1")

    def login() -> bytes:
        talk = Session(proofs, town)
        talk.begin()
        return talk.prove(Prover(rpc))

    assert login() == b"done haveai"
    town.new_epoch("ana")
    assert b"new epoch" in login()
    rpc = town.rpc("ana")
    assert login() == b"done haveai"
    town.user("ana")  # another key; the epoch is 1 again
    assert b"signature does not fit" in login()


def test_an_afid_is_no_longer_good_when_its_token_is_not(town: Town) -> None:
    talk = Session(town.proofs("n1"), town)
    talk.begin()
    talk.prove(Prover(town.rpc("ana")))
    town.now += 13 * 3600
    assert talk.who() == str(errno.EACCES)
    town.now -= 13 * 3600
    town.new_epoch("ana")
    assert talk.who() == str(errno.EACCES)


def test_a_revoked_token_is_refused_though_it_was_checked_before(town: Town) -> None:
    void: set[str] = set()
    proofs, rpc = town.proofs("n1"), town.rpc("ana")
    town.people.taken_back["ana"] = void
    talk = Session(proofs, town)
    talk.begin()
    assert talk.prove(Prover(rpc)) == b"done haveai"
    powers = talk.session.afids[AFID].talk.talk.powers
    void.add(powers.ids[-1])
    assert talk.who() == str(errno.EACCES)
    again = Session(proofs, town)
    again.begin()
    assert b"revoked" in again.prove(Prover(rpc))


def test_a_replay_gets_nobody_in(town: Town) -> None:
    proofs, prover = town.proofs("n1"), Prover(town.rpc("ana"))
    first = Session(proofs, town)
    first.begin()
    first.prove(prover)
    second = Session(proofs, town)
    second.begin()
    for message in prover.said:
        second.read()
        second.write(message)
    assert b"signature does not fit" in second.read()
    assert second.who() == str(errno.EACCES)


def test_a_relay_to_another_server_gets_nobody_in(town: Town) -> None:
    """n2 has the user prove to it and passes all on to n1, over TLS or not."""
    proofs = town.proofs("n1")
    for there, here in ((b"n2's certificate", b"n1's"), (b"n2's", b""), (b"", b"n1's")):
        talk = Session(proofs, town, binding=here)
        talk.begin()
        end = talk.prove(Prover(town.rpc("ana"), f"binding={there.hex()}"))
        assert end.startswith(b"error who answers is not the node")
        assert talk.who() == str(errno.EACCES)


def test_a_token_for_another_node_is_not_good_here(town: Town) -> None:
    """A node that was shown a token cannot show it to another, even had it the holder's key."""
    rpc, one, two = town.rpc("ana"), town.proofs("n1"), town.proofs("n2")
    talk = Session(one, town)
    talk.begin()
    shown: list[bytes] = []
    verify = one.verify
    one.verify = lambda token: shown.append(token) or verify(token)  # type: ignore[method-assign]
    talk.begin(AFID + 1)
    prover = Prover(rpc)
    while (message := prover.say()) is not None:
        if message:
            talk.write(message, AFID + 1)
        else:
            prover.hear(talk.read(afid=AFID + 1))
    with pytest.raises(CloudError, match="node n2 is not allowed by it, only n1"):
        two.verify(shown[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda n, m: m.replace(b"v.2 ", b"") if n == 0 else m,
        lambda n, m: m.replace(b"cap25519", b"p9sk1") if n == 0 else m,
        lambda n, m: b"v.2 cap25519@local p9sk1@local\0" if n == 0 else m,
        lambda n, m: m.replace(b"local", b"loca1") if n == 0 else m,
    ],
)
def test_a_downgrade_gets_nobody_in(town: Town, change) -> None:
    talk = Session(town.proofs("n1"), town)
    talk.begin()
    assert talk.prove(Prover(town.rpc("ana")), change).startswith(b"error ")
    assert talk.who() == str(errno.EACCES)


@pytest.mark.parametrize("nonce", [b"", bytes(31), bytes(33), bytes(4096)])
def test_a_wrong_nonce_ends_the_conversation(town: Town, nonce: bytes) -> None:
    talk = Session(town.proofs("n1"), town)
    talk.begin()
    talk.read()
    assert talk.write(b"cap25519 local\0")[0] == "Rwrite"
    talk.read()
    assert refused(talk.write(nonce)) == errno.EPROTO
    assert refused(talk.write(bytes(32))) == errno.EPROTO
    assert refused(talk.ask("Tread", AFID, 0, 100)) == errno.EPROTO
    assert talk.who() == str(errno.EACCES)


def test_what_is_too_long_or_out_of_turn_ends_it(town: Town) -> None:
    talk = Session(town.proofs("n1"), town)
    talk.begin()
    assert refused(talk.write(bytes(5000))) == errno.E2BIG
    assert talk.who() == str(errno.EACCES)
    talk.begin(AFID + 1)
    assert refused(talk.write(b"cap25519 local\0", AFID + 1)) == errno.EPROTO
    talk.begin(AFID + 2)
    talk.read(afid=AFID + 2)
    assert refused(talk.ask("Tread", AFID + 2, 0, 100)) == errno.EPROTO, "it is our turn"
    assert talk.write(b"cap25519 local\0", AFID + 2)[0] == "Rwrite", "which was but a question"


def test_a_message_may_be_read_in_pieces(town: Town) -> None:
    talk = Session(town.proofs("n1"), town)
    talk.begin()
    pieces = [talk.read(7) for _ in range(3)]
    assert b"".join(pieces) == b"v.2 cap25519@local\0"


def test_a_proof_has_its_time(town: Town) -> None:
    talk = Session(town.proofs("n1"), town)
    talk.begin()
    town.now += auth.TIME
    assert refused(talk.ask("Tread", AFID, 0, 100)) == errno.ETIMEDOUT
    assert talk.who() == str(errno.EACCES)


def test_a_connection_has_few_afids_and_gives_them_back(town: Town) -> None:
    talk = Session(town.proofs("n1"), town)
    for afid in range(auth.MAX_AFIDS):
        assert talk.begin(afid)[0] == "Rauth"
    assert refused(talk.begin(50)) == errno.EMFILE
    assert refused(talk.begin(3)) == errno.EINVAL, "in use"
    assert refused(talk.ask("Tattach", 3, NOFID, "", "", 0)) == errno.EINVAL, "as a fid too"
    assert talk.ask("Tclunk", 0)[0] == "Rclunk"
    assert refused(talk.ask("Tclunk", 0)) == errno.EBADF
    assert talk.begin(0)[0] == "Rauth"
    assert refused(talk.ask("Tremove", 1)) == errno.EPERM
    assert refused(talk.ask("Tremove", 1)) == errno.EBADF
    assert refused(talk.ask("Twalk", 2, 20, [])) == errno.EBADF
    assert refused(talk.ask("Tlopen", 2, 0)) == errno.EBADF
    talk.ask("Tversion", 65536, "9P2000.L")
    assert talk.session.afids == {}


def test_while_a_token_is_checked_nothing_else_is_heard_and_a_flush_ends_it(town: Town) -> None:
    talk = Session(town.proofs("n1"), town)
    talk.begin()
    prover = Prover(town.rpc("ana"))
    while (message := prover.say()) is not None:
        if not message:
            prover.hear(talk.read())
        elif len(message) < 200:
            talk.write(message)
        else:
            break
    job = talk.blocks("Twrite", AFID, 0, message, tag=7)
    assert refused(talk.ask("Tread", AFID, 0, 100)) == errno.EPROTO
    assert refused(talk.ask("Twrite", AFID, 0, message)) == errno.EPROTO
    assert talk.who() == str(errno.EACCES)
    assert talk.ask("Tflush", 7, tag=8)[0] == "Rflush"
    assert job.state == "stopped"
    job.wait._run.args[0]()  # the thread cannot be stopped, and what it finds is nothing
    assert refused(talk.ask("Tread", AFID, 0, 100)) == errno.EPROTO
    assert talk.who() == str(errno.EACCES)


def test_a_node_names_callers_or_proves_for_whom_it_acts(town: Town) -> None:
    proofs = town.proofs("n1")
    assert Session(proofs, town, vouch=lambda name: GUEST, node="n2").who(NOFID) == "guest"
    talk = Session(proofs, town, vouch=lambda name: GUEST, node="n2")
    talk.begin()
    assert talk.prove(Prover(town.rpc("ana"))) == b"done haveai"
    assert talk.who() == "ana"
    assert talk.session.fids[0].tree.at.who.node == "n2"


ONE = st.sampled_from(["Tauth", "Tread", "Twrite", "Tattach", "Tclunk", "Tflush"])
SAID = st.one_of(
    st.binary(max_size=300), st.just(b"cap25519 local\0"), st.just(bytes(32)), st.just(bytes(4097))
)


@given(st.lists(st.tuples(ONE, st.integers(0, 3), SAID, st.integers(0, 3000)), max_size=30))
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_is_said_on_afids_nobody_gets_in(town: Town, steps) -> None:
    talk = Session(town.proofs("n1"), town)
    for name, number, data, count in steps:
        fields = {
            "Tauth": (number, "ana", "", 0),
            "Tread": (number, count, count),
            "Twrite": (number, count, data),
            "Tattach": (10 + count, number, "ana", "", 0),
            "Tclunk": (number,),
            "Tflush": (number,),
        }[name]
        replies = talk.send(name, *fields)
        while not replies:
            job = talk.jobs[-1]
            replies = talk.end(job, *drive_thread(job))
        assert replies[0][0] != "Rattach"
    assert talk.session.fids == {}
    assert len(talk.session.afids) <= auth.MAX_AFIDS


def drive_thread(job) -> tuple[None, CloudError | None]:
    try:
        job.wait._run.args[0]()
    except CloudError as error:
        return None, error
    return None, None


@given(st.integers(0, 8), st.integers(0, 3000), st.integers(1, 255))
@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_conversation_changed_in_any_byte_gets_nobody_in(
    town: Town, which: int, at: int, bit: int
) -> None:
    talk, changed = Session(town.proofs("n1"), town), []

    def change(number: int, message: bytes) -> bytes:
        if number != which or number > 5:  # 6 is the server's last word, which nothing signs
            return message
        changed.append(number)
        place = at % len(message)
        return message[:place] + bytes([message[place] ^ bit]) + message[place + 1 :]

    talk.begin()
    prover = Prover(town.rpc("ana"))
    try:
        talk.prove(prover, change)
    except AssertionError:
        assert changed, "only what was changed is refused by the server"
    assert (talk.who() == "ana") == (not changed)
