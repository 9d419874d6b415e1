"""rpc of a factotum: requests and their answers, from start to authinfo."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import cap25519, keyring, p9any, tokens
from cloudfs.factotum.keyring import Key, Keyring, Template
from cloudfs.factotum.roles import roles
from cloudfs.factotum.rpc import Question, Rpc
from tests.factotum.test_cap25519 import HOLDER, NODE, NOW, USER, certificate, check, verify

SEED = USER.private_bytes_raw().hex()
ANA = f"proto=cap25519 dom=local user=ana epoch=3 !seed={SEED}"
ROLES = roles(lambda key: check, lambda: NOW)


def ring(*lines: str) -> Keyring:
    made = Keyring()
    for line in lines:
        made.add(keyring.key(line))
    return made


def server() -> p9any.Server:
    def begin(dom: str, before: bytes) -> p9any.Talk:
        return cap25519.Server(before, b"", certificate(NODE), NODE.sign, verify)

    return p9any.Server({(cap25519.NAME, "local"): begin})


def ask(rpc: Rpc, request: bytes) -> bytes:
    rpc.write(request)
    return rpc.read()


def login(rpc: Rpc, far: p9any.Server) -> bytes:
    """What plan9port's auth_proxy does between a factotum and an afid; rpc's last answer."""
    assert ask(rpc, b"start proto=p9any role=client") == b"ok"
    for _ in range(20):
        answer = ask(rpc, b"read")
        word, _, message = answer.partition(b" ")
        if word == b"ok":
            far.write(message)
        elif word == b"phase":
            room = ask(rpc, b"write ")  # as auth_proxy asks how much to read
            if not room.startswith(b"toosmall "):
                return room
            message = far.read()
            assert len(message) <= int(room.split()[1])
            answer = ask(rpc, b"write " + message)
            if answer != b"ok":
                return answer
        else:
            return answer
    raise AssertionError("it does not end")


def test_a_key_logs_in_and_authinfo_says_whom() -> None:
    rpc, far = Rpc(ring(ANA), ROLES), server()
    assert login(rpc, far) == b"done haveai"
    assert far.talk.powers.user == "ana"
    with pytest.raises(CloudError, match="not allowed by it, only n1"):
        far.talk.powers.check(NOW, node="n2")
    assert ask(rpc, b"authinfo") == b"ok \3\0ana\2\0n1\0\0\0\0"
    assert ask(rpc, b"attr") == b"ok proto=cap25519 dom=local user=ana epoch=3"
    assert ask(rpc, b"read") == b"done haveai"


def test_the_same_token_is_shown_to_a_node_again() -> None:
    shown = []

    def note(token: bytes) -> tokens.Powers:
        shown.append(token)
        return verify(token)

    for _ in range(2):
        far = p9any.Server(
            {
                (cap25519.NAME, "local"): lambda dom, before: cap25519.Server(
                    before, b"", certificate(NODE), NODE.sign, note
                )
            }
        )
        assert login(Rpc(ring(ANA), ROLES), far) == b"done haveai"
    assert shown[0] == shown[1]


def test_a_key_that_wants_it_is_used_only_when_its_owner_says_so() -> None:
    asked: list[Question] = []

    def question(key: Key) -> Question:
        asked.append(Question(key))
        return asked[-1]

    keys = ring(ANA + " confirm=yes")
    for answer, word in ((True, b"phase"), (False, b"error")):
        rpc = Rpc(keys, ROLES, ask=question)
        assert ask(rpc, b"start proto=p9any role=client") == b"ok"
        rpc.write(b"read")
        assert rpc.waits is asked[-1]
        rpc.waits.answer = answer
        rpc.go_on()
        assert rpc.waits is None
        assert rpc.read().split()[0] == word
    assert len(asked) == 2
    alone = Rpc(keys, ROLES)
    ask(alone, b"start proto=p9any role=client")
    assert ask(alone, b"read") == b"error its owner did not confirm that the key be used"


def test_a_grant_is_a_token_for_another_holder_that_says_no_more_than_was_asked() -> None:
    rpc = Rpc(ring(ANA), ROLES)
    name = cap25519.holder(HOLDER.public_key())
    start = f"start proto=cap25519 role=grant holder={name} op=kill,read app=web until={NOW + 60}"
    assert ask(rpc, start.encode()) == b"ok"
    word, token = ask(rpc, b"read").split()
    assert (word, ask(rpc, b"read")) == (b"ok", b"done haveai")
    powers = verify(base64.b64decode(token))
    assert (powers.user, powers.holder) == ("ana", name)
    assert powers.limits.sets == {"op": frozenset({"kill", "read"}), "app": frozenset({"web"})}
    assert powers.limits.until == NOW + 60
    for bad in ("until=0", "until=1e99", "until=x", "op=a/b"):
        ask(rpc, f"start proto=cap25519 role=grant holder={name} {bad}".encode())
        assert ask(rpc, b"read").startswith(b"error ")


def test_a_granted_token_logs_in_with_its_holders_key() -> None:
    name = cap25519.holder(HOLDER.public_key())
    made = tokens.mint(USER.private_bytes_raw(), "ana", "local", 3, name, NOW)
    text = base64.b64encode(made).decode()
    seed = HOLDER.private_bytes_raw().hex()
    rpc, far = (
        Rpc(ring(f"proto=cap25519 dom=local user=ana token={text} !seed={seed}"), ROLES),
        server(),
    )
    assert login(rpc, far) == b"done haveai"
    assert far.talk.powers.holder == name


def test_without_a_key_it_says_which_and_goes_on_when_it_is_there() -> None:
    keys, told = Keyring(), list[Template]()
    rpc = Rpc(keys, ROLES, told.append)
    assert ask(rpc, b"start proto=p9any role=client user=ana binding=00") == b"ok"
    assert ask(rpc, b"read") == b"needkey user=ana proto=cap25519 !seed? dom? user?"
    assert [str(one) for one in told] == ["user=ana proto=cap25519 !seed? dom? user?"]
    keys.add(keyring.key(ANA))
    assert ask(rpc, b"read").startswith(b"phase it is the other end's turn")


def test_what_the_server_says_no_to_is_an_error_with_its_reason() -> None:
    rpc = Rpc(ring(ANA.replace("epoch=3", "epoch=2")), ROLES)
    assert login(rpc, server()) == b"error the token does not do: it is of another epoch"
    assert ask(rpc, b"read") == b"error the token does not do: it is of another epoch"
    assert rpc.state == "the token does not do: it is of another epoch"


def test_no_answer_holds_a_secret() -> None:
    rpc = Rpc(ring(ANA), ROLES)
    answers = [login(rpc, server()), *(ask(rpc, verb) for verb in (b"attr", b"authinfo", b"read"))]
    assert SEED.encode() not in b"".join(answers)
    assert USER.private_bytes_raw() not in b"".join(answers)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"read", b"error not started"),
        (b"write x", b"error not started"),
        (b"authinfo", b"error the conversation is not done"),
        (b"attr", b"ok "),
        (b"start proto=p9sk1", b"error no protocol 'p9sk1' as client; known are cap25519 p9any"),
        (
            b"start proto=p9any role=server",
            b"error no protocol 'p9any' as server; known are cap25519 p9any",
        ),
        (b"start proto=p9any !seed=ab", b"error '!seed' in a template"),
        (b"start \xff", b"error the line is not UTF-8 at byte 0"),
    ],
)
def test_requests_out_of_place(request_: bytes, answer: bytes) -> None:
    assert ask(Rpc(Keyring(), ROLES), request_) == answer


def test_what_is_no_request_is_refused_at_once() -> None:
    with pytest.raises(CloudError, match="no request of rpc"):
        Rpc(Keyring(), ROLES).write(b"give me the key")
    with pytest.raises(CloudError, match="at most"):
        Rpc(Keyring(), ROLES).write(b"write " + bytes(5000))


REQUESTS = st.sampled_from([b"start proto=p9any", b"read", b"attr", b"authinfo"]) | st.binary(
    max_size=200
).map(lambda data: b"write " + data)


@given(st.lists(REQUESTS, max_size=12))
@settings(deadline=None, max_examples=200)
def test_whatever_is_asked_has_an_answer_and_no_secret(requests: list[bytes]) -> None:
    rpc = Rpc(ring(ANA), ROLES)
    for request in requests:
        answer = ask(rpc, request)
        words = (b"ok", b"error", b"phase", b"needkey", b"done", b"toosmall")
        assert answer.split(b" ", 1)[0] in words
        assert SEED.encode() not in answer
