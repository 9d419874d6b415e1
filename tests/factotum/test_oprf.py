"""The oblivious function against RFC 9497's own vectors, and with its key in shares."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import oprf, ristretto, shares

H = bytes.fromhex
# RFC 9497, A.1.2: VOPRF(ristretto255, SHA-512), test vector 1.
KEY = H("e6f73f344b79b379f1a0dd37e07ff62e38d9f71345ce62ae3a9bc60b04ccd909")
PUBLIC = H("c803e2cc6b05fc15064549b5920659ca4a77b2cca6f04f6b357009335476ad4e")
BLIND = H("64d37aed22a27f5191de1c1d69fadb899d8862b58eb4220029e036ec4c1f6706")
BLINDED = H("863f330cc1a1259ed5a5998a23acfd37fb4351a793a5b3c090b642ddc439b945")
ANSWER = H("aa8fa048764d5623868679402ff6108d2521884fa138cd7f9c7669a9a014267e")
NONCE = H("222a5e897cf59db8145db8d16e597e8facb80ae7d4e26d9881aa6f61d645fc0e")
PROOF = H(
    "ddef93772692e535d1a53903db24367355cc2cc78de93b3be5a8ffcc6985dd06"
    "6d4346421d17bf5117a2a1ff0fcb2a759f58a539dfbe857a40bce4cf49ec600d"
)
OUTPUT = H(
    "b58cfbe118e0cb94d79b5fd6a6dafb98764dff49c14e1770b566e42402da1a7d"
    "a4d8527693914139caee5bd03903af43a491351d23b430948dd50cde10d32b3c"
)


def test_vector_of_the_rfc() -> None:
    key = ristretto.unpack(KEY)
    asked = oprf.blind(b"\0", ristretto.unpack(BLIND))
    answer, _ = oprf.evaluate(key, asked.point)
    proof = oprf._prove(key, asked.point, answer, ristretto.unpack(NONCE))
    assert (ristretto.base(key), asked.point, answer) == (PUBLIC, BLINDED, ANSWER)
    assert proof == PROOF
    oprf.check(PUBLIC, BLINDED, ANSWER, PROOF)
    assert oprf.finish(asked, answer) == OUTPUT


@given(
    st.binary(min_size=1, max_size=40),
    st.integers(1, 5).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=40)
def test_any_t_holders_give_what_the_whole_key_gives(password, of, dice) -> None:
    need, count = of
    key = ristretto.scalar()
    dealt = shares.deal(key, need, range(1, count + 1))
    asked = oprf.blind(password)
    whole = oprf.finish(asked, oprf.evaluate(key, asked.point)[0])
    chosen = dice.sample(sorted(dealt.shares), need)
    answers = {}
    for number in chosen:
        answer, proof = oprf.evaluate(dealt.shares[number], asked.point)
        oprf.check(shares.public_share(dealt.commitments, number), asked.point, answer, proof)
        answers[number] = answer
    again = oprf.blind(password)
    assert again.point != asked.point, "what holders see is never the same"
    assert oprf.finish(asked, oprf.combine(answers)) == whole
    if need > 1:
        answers.popitem()
        assert oprf.finish(asked, oprf.combine(answers)) != whole


def test_a_holder_that_answers_with_another_share_is_found_out() -> None:
    dealt = shares.deal(ristretto.scalar(), 2, (1, 2, 3))
    asked = oprf.blind(b"secret")
    answer, proof = oprf.evaluate(dealt.shares[1], asked.point)
    with pytest.raises(CloudError, match="not what its share gives"):
        oprf.check(shares.public_share(dealt.commitments, 2), asked.point, answer, proof)
    other, _ = oprf.evaluate(dealt.shares[2], asked.point)
    with pytest.raises(CloudError, match="not what its share gives"):
        oprf.check(shares.public_share(dealt.commitments, 1), asked.point, other, proof)
    bent = bytes([proof[0] ^ 1]) + proof[1:]
    with pytest.raises(CloudError):
        oprf.check(shares.public_share(dealt.commitments, 1), asked.point, answer, bent)


# The highest bit of a point is never set, nor is the lowest (RFC 9496, 4.3.1).
@given(
    st.binary(max_size=31)
    | st.binary(min_size=33, max_size=40)
    | st.binary(min_size=31, max_size=31).map(lambda data: data + b"\xff")
)
@settings(deadline=None)
def test_what_is_no_point_is_refused(data: bytes) -> None:
    with pytest.raises(CloudError, match="no point"):
        oprf.evaluate(5, data)


@pytest.mark.parametrize("data", [bytes(32), bytes(31), b"\xff" * 32, b"\1" + bytes(31)])
def test_neutral_short_and_unreduced_points_are_refused(data: bytes) -> None:
    with pytest.raises(CloudError, match="no point"):
        oprf.evaluate(7, data)


@pytest.mark.parametrize("password", [b"", b"x" * 1025])
def test_a_password_has_bounds(password: bytes) -> None:
    with pytest.raises(CloudError, match="1 to 1024 bytes"):
        oprf.blind(password)
