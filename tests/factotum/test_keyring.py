"""Keys as lines: matched by templates, replaced, and never shown with their secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import keyring
from cloudfs.factotum.keyring import Keyring

ANA = "proto=cap25519 dom=local user=ana !seed=abcd"


def test_a_key_shows_that_it_has_a_secret_and_not_which() -> None:
    made = keyring.key(ANA)
    assert str(made) == "key proto=cap25519 dom=local user=ana !seed?"
    assert "abcd" not in f"{made!r} {made}"
    assert made.secrets == {"seed": "abcd"}


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ("proto=cap25519", True),
        ("proto=cap25519 user=ana dom=local", True),
        ("proto=cap25519 user? !seed?", True),
        ("", True),
        ("proto=pass", False),
        ("user=bob", False),
        ("confirm?", False),
        ("proto=cap25519 !password?", False),
        ("seed?", False),
    ],
)
def test_templates(wanted: str, fits: bool) -> None:
    assert keyring.key(ANA).matches(keyring.template(wanted)) == fits


@pytest.mark.parametrize(
    "line",
    [
        "user=ana",
        "proto=x !seed",
        "proto=x a=1 a=2",
        "proto=x =y",
        "proto=x !=y",
        "proto=x role=client",
        "proto=x !a=1 a=2",
        "proto=x 'a",
    ],
)
def test_lines_that_are_no_key(line: str) -> None:
    with pytest.raises(CloudError) as caught:
        keyring.key(line)
    assert caught.value.kind == "bad"


def test_no_error_shows_a_secret() -> None:
    with pytest.raises(CloudError) as caught:
        keyring.key("user=ana !seed=sesame !seed=sesame")
    assert "sesame" not in str(caught.value)


def test_a_template_has_no_secret() -> None:
    with pytest.raises(CloudError, match="attr=value or attr"):
        keyring.template("proto=x !seed=guess")


def test_the_last_one_added_comes_first_and_the_same_one_is_replaced() -> None:
    ring = Keyring()
    ring.add(keyring.key(ANA))
    ring.add(keyring.key("proto=cap25519 dom=local user=bob !seed=1"))
    ring.add(keyring.key(ANA.replace("abcd", "ef")))
    assert [one.attrs["user"] for one in ring.find(keyring.template("proto=cap25519"))] == [
        "ana",
        "bob",
    ]
    assert ring.find(keyring.template("user=ana"))[0].secrets == {"seed": "ef"}
    assert ring.remove(keyring.template("user=ana")) == 1
    assert [str(one) for one in ring] == ["key proto=cap25519 dom=local user=bob !seed?"]


def test_bounds() -> None:
    ring = Keyring()
    for number in range(keyring.MOST):
        ring.add(keyring.key(f"proto=x n={number}"))
    ring.add(keyring.key("proto=x n=0 !secret=1"))
    with pytest.raises(CloudError, match="at most 256 keys"):
        ring.add(keyring.key("proto=x n=new"))
    with pytest.raises(CloudError, match="at most 32 attributes"):
        keyring.key("proto=x " + " ".join(f"a{n}=1" for n in range(40)))
    with pytest.raises(CloudError, match="at most 4096"):
        keyring.key("proto=x a=" + "b" * 5000)


@given(st.text(max_size=80))
def test_any_line_is_a_key_or_an_error(line: str) -> None:
    try:
        made = keyring.key(line)
    except CloudError:
        return
    again = keyring.template(str(made).removeprefix("key "))
    assert made.matches(again)


@pytest.mark.parametrize(
    "line",
    [
        "proto=x !seed='sesame",  # where the quote is not closed
        "proto=x !password=open sesame",  # where it was to be quoted
        "proto=x !sesame",
    ],
)
def test_no_error_shows_what_may_be_a_secret(line: str) -> None:
    for read in (keyring.key, keyring.template):
        with pytest.raises(CloudError) as caught:
            read(line)
        assert "sesame" not in str(caught.value)


def test_what_others_granted_comes_last() -> None:
    ring = Keyring()
    for user in ("ana", "bob token=x", "eve"):
        ring.add(keyring.key(f"proto=cap25519 dom=local user={user} !seed=1"))
    found = ring.find(keyring.template("proto=cap25519"))
    assert [one.attrs["user"] for one in found] == ["eve", "ana", "bob"]
