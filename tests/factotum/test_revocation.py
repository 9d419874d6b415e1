"""Records of nodes that lost their place."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import authority, revocation
from cloudfs.factotum.authority import LIFE
from cloudfs.factotum.revocation import LIVES, MANY, Revoked
from tests.factotum.test_authority import NOW, PARIS, ROME, ROOT, rename


@pytest.mark.parametrize("by", [ROOT, PARIS])
def test_a_record_by_who_may_make_it_is_believed(by: authority.Authority) -> None:
    made = revocation.revoke(by, "paris", "n3", NOW)
    again = revocation.parse(made.text())
    assert again == made
    revocation.check(again, ROOT.cert, "local")
    assert again.why == "node n3 was revoked 2026-09-21 14:13 (UTC)"


def test_an_authority_revokes_nodes_of_its_cluster_alone() -> None:
    with pytest.raises(CloudError, match="on an issuer of paris, or where root.key is"):
        revocation.revoke(ROME, "paris", "n3", NOW)
    for forged in (
        revocation.revoke(rename(ROME, "paris"), "paris", "n3", NOW),
        revocation.revoke(authority.make_root("local", NOW), "paris", "n3", NOW),
    ):
        with pytest.raises(CloudError, match="not made by who may"):
            revocation.check(forged, ROOT.cert, "local")


@pytest.mark.parametrize(
    "change",
    [{"node": "n4"}, {"cluster": "rome"}, {"at": NOW + 1}, {"by": b""}, {"cloud": "other"}],
)
def test_a_changed_record_is_not_believed(change: dict[str, object]) -> None:
    made = replace(revocation.revoke(PARIS, "paris", "n3", NOW), **change)  # type: ignore[arg-type]
    with pytest.raises(CloudError) as caught:
        revocation.check(made, ROOT.cert, "local")
    assert caught.value.kind == "denied"


@given(st.text(max_size=200))
def test_other_text_is_no_record(text: str) -> None:
    with pytest.raises(CloudError, match="no record of a revocation"):
        revocation.parse(text)


def test_a_record_lives_as_long_as_a_certificate_could_come_back() -> None:
    revoked = Revoked()
    made = revocation.revoke(PARIS, "paris", "n3", NOW)
    assert revoked.add(made, NOW)
    assert not revoked.add(made, NOW)
    assert revoked.of("paris", "n3") == made
    assert revoked.of("rome", "n3") is None
    assert revoked.shut_out(NOW) == {"n3.paris"}
    assert revoked.shut_out(NOW + LIFE + 7200) == frozenset()
    revoked.tidy(NOW + LIVES - 1)
    assert revoked.all
    revoked.tidy(NOW + LIVES)
    assert not revoked.all
    assert not revoked.add(made, NOW + LIVES)
    assert not revoked.add(made, NOW - 3 * 86400)  # from the future


def test_a_cluster_cannot_fill_what_others_remember() -> None:
    revoked = Revoked()
    other = revocation.revoke(ROME, "rome", "r1", NOW)
    revoked.add(other, NOW)
    bare = revocation.revoke(PARIS, "paris", "n", NOW)
    for number in range(MANY + 5):
        revoked.add(replace(bare, node=f"n{number}", at=NOW + number), NOW)
    assert len(revoked.all) == MANY + 1
    assert revoked.of("rome", "r1") == other
    assert revoked.of("paris", "n0") is None  # the oldest went
    assert revoked.of("paris", f"n{MANY + 4}") is not None


def test_a_file_with_broken_lines_is_read_as_far_as_it_goes() -> None:
    good = revocation.revoke(PARIS, "paris", "n3", NOW)
    forged = replace(good, node="n4")
    found = revocation.known(["", "x", forged.text(), good.text()], ROOT.cert, "local", NOW)
    assert set(found.all) == {("paris", "n3")}
