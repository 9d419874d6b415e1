"""Questions for certificates and their answers."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import authority, enrol
from cloudfs.factotum.authority import LIFE
from cloudfs.factotum.certificates import der_public
from cloudfs.factotum.revocation import REGAIN
from tests.factotum.test_authority import KEY, NOW, PARIS, PUBLIC, ROME, ROOT, make


def test_a_join_file_is_answered_with_a_certificate() -> None:
    asked = enrol.parse(enrol.ask_join(make(), "n5", KEY))
    assert (asked.node, asked.cluster, asked.public, asked.passed) == ("n5", "paris", PUBLIC, False)
    text = enrol.answer(asked, PARIS, NOW, lambda id: 0).decode()
    chain, made = enrol.check_answer(text, ROOT.cert, KEY, "n5")
    assert chain == text.encode()
    assert (made.cloud, made.cluster, made.node, made.ends) == ("local", "paris", "n5", NOW + LIFE)


def test_a_question_holds_no_secret_and_can_be_passed_on() -> None:
    joined = make()
    text = enrol.ask_join(joined, "n5", KEY)
    assert joined.key not in text
    assert enrol.parse(enrol.PASSED + text).passed


def renewal(now: float = NOW, by: authority.Authority = PARIS) -> enrol.Asked:
    cert = x509.load_pem_x509_certificate(authority.issue(by, "n1", KEY.public_key(), now))
    return enrol.parse(enrol.ask_renewal(cert, KEY))


@pytest.mark.parametrize("later", [86400.0, LIFE + REGAIN - 1])
def test_a_certificate_is_renewed_for_the_same_key(later: float) -> None:
    text = enrol.answer(renewal(), PARIS, NOW + later, lambda id: 9).decode()
    _, made = enrol.check_answer(text, ROOT.cert, KEY, "n1")
    assert made.made == NOW + later


def test_a_certificate_that_ran_out_long_ago_is_not_renewed() -> None:
    with pytest.raises(CloudError, match="ran out 2026-09-24 .* join anew") as caught:
        enrol.answer(renewal(), PARIS, NOW + LIFE + REGAIN + 1, lambda id: 0)
    assert caught.value.kind == "denied"


def test_another_clusters_certificate_is_not_renewed() -> None:
    with pytest.raises(CloudError, match="not by this authority"):
        enrol.answer(renewal(by=ROME), PARIS, NOW, lambda id: 0)


def test_who_has_not_the_key_does_not_get_a_certificate() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    cert = x509.load_pem_x509_certificate(authority.issue(PARIS, "n1", KEY.public_key(), NOW))
    asked = enrol.parse(enrol.ask_renewal(cert, other))
    with pytest.raises(CloudError, match="not by this authority"):
        enrol.answer(asked, PARIS, NOW, lambda id: 0)


def test_an_answer_for_another_is_not_taken(tmp_path: object) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    for text in (
        authority.issue(PARIS, "n6", KEY.public_key(), NOW).decode(),
        authority.issue(PARIS, "n5", other.public_key(), NOW).decode(),
        "no certificate",
    ):
        with pytest.raises(CloudError) as caught:
            enrol.check_answer(text, ROOT.cert, KEY, "n5")
        assert caught.value.kind == "denied"
    foreign = authority.make_root("local", NOW)
    paris = authority.make_cluster(foreign, "paris", NOW)
    with pytest.raises(CloudError, match="no certificate of this cloud"):
        text = authority.issue(paris, "n5", KEY.public_key(), NOW).decode()
        enrol.check_answer(text, ROOT.cert, KEY, "n5")


def test_a_greeting_is_read_back() -> None:
    text = enrol.greeting("local", "paris", "n1", ROOT.cert, NOW)
    assert enrol.read_greeting(text) == ("n1", NOW, ROOT.cert)
    for wrong in ("", "x", text[:80], text.replace("now", "no")):
        with pytest.raises(CloudError) as caught:
            enrol.read_greeting(wrong)
        assert caught.value.kind == "proto"


@pytest.mark.parametrize(
    ("off", "said"),
    [
        (-86400.0, "clock is 24 hours behind that of n1"),
        (86400.0, "clock is 24 hours ahead of that of n1"),
        (-7200.0, "2 hours behind"),
    ],
)
def test_a_wrong_clock_is_told(off: float, said: str) -> None:
    with pytest.raises(CloudError, match=said):
        enrol.check_clock("n1", NOW, NOW + off)
    enrol.check_clock("n1", NOW, NOW + 3000)
    enrol.check_clock("n1", NOW, NOW - 3000)


@given(st.text(max_size=300))
def test_other_text_asks_for_nothing(text: str) -> None:
    for word in ("", "join ", "renew ", enrol.PASSED):
        with pytest.raises(CloudError, match="asks for no certificate"):
            enrol.parse(word + text)


@given(st.data())
def test_a_changed_question_gets_no_certificate(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(TEXT) - 1))
    byte = data.draw(st.sampled_from("0123456789abcdef= ,'z\n"))
    changed = TEXT[:at] + byte + TEXT[at + 1 :]
    if changed == TEXT:
        return
    try:
        asked = enrol.parse(changed)
        enrol.answer(asked, PARIS, NOW, lambda id: 0)
    except CloudError:
        return
    # Blanks between pairs may differ, nothing else.
    assert asked == enrol.parse(TEXT)


TEXT = enrol.ask_join(make(), "n5", KEY)


def test_a_key_that_is_none_is_refused() -> None:
    joined = make()
    other = ec.generate_private_key(ec.SECP384R1())
    asked = enrol.parse(enrol.ask_join(joined, "n5", other))
    assert asked.public == der_public(other.public_key())
    with pytest.raises(CloudError) as caught:
        enrol.answer(asked, PARIS, NOW, lambda id: 0)
    assert caught.value.kind == "bad"
