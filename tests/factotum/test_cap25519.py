"""The conversation: both ends prove themselves, and nothing that was changed, replayed or relayed
gets through."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import cap25519, p9any, tokens

NOW = 1_790_000_000.0
USER, HOLDER, NODE, ROGUE = (
    Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(1, 5)
)


def certificate(key: Ed25519PrivateKey) -> bytes:
    """As good as one: the cloud's nodes have ECDSA ones in X.509 (test_cloudkey.py)."""
    return b"node n1 " + key.public_key().public_bytes_raw()


def check(cert: bytes, signature: bytes, data: bytes) -> str:
    if cert != certificate(NODE):
        raise CloudError("denied", "that is no node of the cloud")
    try:
        Ed25519PublicKey.from_public_bytes(cert[-32:]).verify(signature, data)
    except InvalidSignature:
        raise CloudError("denied", "that is not the node it says it is") from None
    return "n1"


def verify(token: bytes) -> tokens.Powers:
    public = USER.public_key().public_bytes_raw()
    return tokens.verify(token, lambda user: public, NOW, cloud="local", epoch_of=lambda user: 3)


def token(holder: Ed25519PrivateKey = HOLDER, **more) -> bytes:
    seed = USER.private_bytes_raw()
    return tokens.mint(seed, "ana", "local", 3, cap25519.holder(holder.public_key()), NOW, **more)


@dataclass
class Pair:
    """Both ends, and what goes between them."""

    shown: bytes = field(default_factory=token)
    key: Ed25519PrivateKey = HOLDER
    node: Ed25519PrivateKey = NODE
    here: bytes = b"cert-hash"
    there: bytes = b"cert-hash"
    showed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        def server(dom: str, before: bytes) -> p9any.Talk:
            cert = certificate(self.node)
            return cap25519.Server(before, self.there, cert, self.node.sign, verify)

        def client(dom: str, before: bytes) -> p9any.Talk:
            return cap25519.Client(before, self.here, self.key, check, self.show)

        self.server = p9any.Server({(cap25519.NAME, "local"): server})
        self.client = p9any.Client({(cap25519.NAME, ""): client})
        self.passed: list[bytes] = []

    def show(self, node: str, certificate: bytes) -> bytes:
        self.showed.append(node)
        return self.shown

    def step(self, change=lambda number, message: message) -> bool:
        """One message there, and one back; False when nobody has more to say."""
        went = False
        for one, other in ((self.server, self.client), (self.client, self.server)):
            if message := one.read():
                self.passed.append(message)
                other.write(change(len(self.passed) - 1, message))
                went = True
        return went

    def run(self, change=lambda number, message: message) -> None:
        while self.step(change):
            pass

    @property
    def user(self) -> str:
        """Whom the server takes the client for."""
        talk = self.server.talk
        done = isinstance(talk, cap25519.Server) and talk.state == "done" and talk.powers
        return talk.powers.user if done else ""


def test_both_ends_are_proved() -> None:
    pair = Pair()
    pair.run()
    assert pair.user == "ana"
    assert pair.server.state == pair.client.state == "done"
    assert (pair.client.talk.node, pair.client.talk.user) == ("n1", "ana")
    assert [len(message) for message in pair.passed][3] == 32
    assert max(map(len, pair.passed)) < 2048, "plan9port's rpc takes no more"


def test_no_token_is_shown_to_what_is_no_node() -> None:
    pair = Pair(node=ROGUE)
    with pytest.raises(CloudError, match="no node of the cloud"):
        pair.run()
    assert pair.showed == []


def test_a_stolen_certificate_without_its_key_is_no_node() -> None:
    pair = Pair(node=ROGUE)
    with pytest.raises(CloudError, match="not the node it says"):
        pair.run(lambda n, m: m.replace(certificate(ROGUE), certificate(NODE)))
    assert pair.showed == []


def test_a_stolen_token_alone_is_useless() -> None:
    pair = Pair(key=ROGUE)
    with pytest.raises(CloudError, match="another holder's key"):
        pair.run()
    assert pair.user == ""


def test_a_relay_to_another_connection_fits_no_signature() -> None:
    pair = Pair(here=b"the attacker's certificate")
    with pytest.raises(CloudError, match="not the node it says"):
        pair.run()


def test_on_another_binding_the_server_refuses_as_well() -> None:
    pair = Pair(here=b"")
    pair.client._wants[(cap25519.NAME, "")] = lambda dom, before: cap25519.Client(
        before, b"", HOLDER, lambda cert, signature, data: "n1", pair.show
    )
    with pytest.raises(CloudError, match="signature does not fit this conversation"):
        pair.run()
    assert pair.user == ""


def test_a_replay_fits_no_signature() -> None:
    first = Pair()
    first.run()
    said = [m for n, m in enumerate(first.passed) if n in (1, 3, 5)]
    assert said[0].startswith(b"cap25519 ")
    second = Pair()
    while second.server.read():
        pass
    for message in said:
        second.server.write(message)
        answer = second.server.read()
    assert answer.startswith(b"no the holder's signature")
    assert second.user == ""


def test_reasons_come_to_the_one_who_holds_the_key() -> None:
    pair = Pair(shown=token(life=-10.0))
    with pytest.raises(CloudError, match="it ended 2026-09-21T") as caught:
        pair.run()
    assert caught.value.fix == "log in again"


def test_nothing_weaker_is_agreed_on() -> None:
    pair = Pair()
    with pytest.raises(CloudError, match="none of these is known here: p9sk1@local"):
        pair.run(lambda n, m: m.replace(b"cap25519", b"p9sk1") if n == 0 else m)
    pair = Pair()
    with pytest.raises(CloudError, match="was not offered"):
        pair.run(lambda n, m: b"none local\0" if n == 1 else m)
    pair = Pair()
    with pytest.raises(CloudError, match="another p9any"):
        pair.run(lambda n, m: m.replace(b"v.2 ", b"") if n == 0 else m)


def test_an_offer_that_was_changed_on_the_way_fits_no_signature() -> None:
    pair = Pair()
    with pytest.raises(CloudError, match="not the node it says"):
        pair.run(lambda n, m: m[:-1] + b" p9sk1@local\0" if n == 0 else m)


@given(st.integers(0, 6), st.integers(0, 3000), st.integers(1, 255))
@settings(deadline=None, max_examples=300)
def test_a_message_changed_in_any_byte_gets_nobody_in(which: int, at: int, bit: int) -> None:
    pair, changed = Pair(), False

    def change(number: int, message: bytes) -> bytes:
        nonlocal changed
        if number != which:
            return message
        changed = True
        place = at % len(message)
        return message[:place] + bytes([message[place] ^ bit]) + message[place + 1 :]

    try:
        pair.run(change)
    except CloudError:
        pass
    else:
        # Nothing signs the last message: it tells what the server has decided by itself.
        assert not changed or which == 6
    if changed and which < 6:
        assert pair.user == ""


@given(
    st.lists(
        st.binary(max_size=300) | st.just(b"cap25519 local\0") | st.just(bytes(32)), max_size=6
    )
)
@settings(deadline=None, max_examples=300)
def test_whatever_a_client_says_it_is_nobody(messages: list[bytes]) -> None:
    pair = Pair()
    for message in messages:
        while pair.server.read():
            pass
        try:
            pair.server.write(message)
        except CloudError as error:
            assert error.why  # noqa: PT017
            break
    assert pair.user == ""


def test_out_of_turn() -> None:
    pair = Pair()
    with pytest.raises(CloudError, match="out of turn"):
        pair.server.write(b"cap25519 local\0")
    pair = Pair()
    pair.run()
    with pytest.raises(CloudError, match="out of turn"):
        pair.server.write(b"more")
    with pytest.raises(CloudError, match="at most 4096"):
        Pair().client.write(bytes(5000))
