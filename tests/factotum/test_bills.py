from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.factotum import bills
from cloudfs.factotum.bills import Bill, check, make, parse
from cloudfs.factotum.nodeproof import NodeProof
from tests.factotum.town import Town

SAFE = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Issuer:
    """The node n1, which signs what it likes."""

    def __init__(self, town: Town, node: str = "n1") -> None:
        self.town = town
        self.proof = NodeProof(town.node(node))
        self.proof.load()
        self.root = (town.root.cert, town.root.cloud)

    def bill(self, **more: Any) -> Bill:
        now = self.town.now
        said: dict[str, Any] = {"cpu": 1800.0, "cpus": 4, "price": 2.0}
        said |= {"stay": (now - 3600, now), "node": "n1"} | more
        return make("abc", "ana", cloud="local", keys=self.proof.load(), **said)

    def sign(self, bill: Bill) -> Bill:
        """Signed as it stands, whatever it says."""
        certs, sign = self.proof.load()
        return replace(bill, certs=certs, sign=sign(bills._to_sign(bill)))

    def check(self, bill: Bill | str, before: Bill | None = None, later: float = 0.0) -> Bill:
        text = bill if isinstance(bill, str) else bill.text()
        return check(text, self.root, before, self.town.now + later)


@pytest.fixture
def n1(tmp_path: Path) -> Issuer:
    return Issuer(Town(tmp_path))


def test_bills_can_be_checked(n1: Issuer) -> None:
    first = n1.check(n1.bill())
    assert (first.user, first.node, first.total) == ("ana", "n1", 1.0)
    assert first == parse(first.text())
    n1.town.now += 1000
    # Long after the node's certificate has ended a bill is what it was.
    second = n1.bill(stay=(first.begin, n1.town.now), cpu=1900)
    assert n1.check(second, first, later=400 * 86400.0).cpu == 1900


@given(data=st.data())
@SAFE
def test_any_changed_field_is_seen(n1: Issuer, data: st.DataObject) -> None:
    bill = n1.bill()
    name = data.draw(st.sampled_from([each.name for each in fields(Bill)]))
    was = getattr(bill, name)
    kinds: dict[type, st.SearchStrategy[Any]] = {
        str: st.from_regex(r"[a-z0-9]{1,12}", fullmatch=True),
        float: st.floats(0, 1e9).map(lambda x: round(x, 6)),
        bytes: st.binary(min_size=1, max_size=900),
    }
    new = data.draw(kinds[type(was)].filter(lambda x: x != was))
    changed = replace(bill, **{name: new})
    if changed.text() == bill.text():
        return  # a difference that six digits do not show
    with pytest.raises(CloudError):
        n1.check(changed)


@given(st.integers(0, 5000), st.integers(1, 255))
@SAFE
def test_any_changed_byte_is_seen(n1: Issuer, at: int, bit: int) -> None:
    data = bytearray(n1.bill().text().encode())
    data[at % len(data)] ^= bit
    with pytest.raises(CloudError):
        n1.check(data.decode(errors="replace"))


@given(st.text(max_size=300))
@SAFE
def test_other_text_is_no_bill(n1: Issuer, text: str) -> None:
    with pytest.raises(CloudError, match="no bill"):
        n1.check(text)


def test_who_may_sign_it(n1: Issuer, tmp_path: Path) -> None:
    other = Issuer(n1.town, "n2")
    with pytest.raises(CloudError, match="bill of node n1 is signed by n2"):
        n1.check(other.sign(n1.bill()))
    (tmp_path / "far").mkdir()
    stranger = Issuer(Town(tmp_path / "far"))
    with pytest.raises(CloudError, match="no node of the cloud"):
        n1.check(stranger.sign(n1.bill()))
    with pytest.raises(CloudError, match="of the cloud other"):
        n1.check(n1.sign(replace(n1.bill(), cloud="other")))
    late = n1.sign(replace(n1.bill(), begin=n1.town.now, end=n1.town.now + 100 * 3600))
    with pytest.raises(CloudError, match="good from"):
        n1.check(late, later=1000 * 3600.0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"total": 1.5}, "the total is not 1800 s at 2 an hour"),
        ({"cpu": 14500.0, "total": 14500 / 1800}, "do not fit in 3600 s on 4"),
        ({"begin": 4e9}, "ends before it begins"),
    ],
)
def test_a_signed_bill_that_cannot_be_so(n1: Issuer, change: dict[str, Any], why: str) -> None:
    with pytest.raises(CloudError, match=why):
        n1.check(n1.sign(replace(n1.bill(), **change)))


def test_a_bill_of_a_time_to_come(n1: Issuer) -> None:
    with pytest.raises(CloudError, match="time to come"):
        n1.check(n1.bill(), later=-3600.0)


def test_a_later_bill_follows_the_earlier_one(n1: Issuer) -> None:
    now = n1.town.now
    first = n1.check(n1.bill())

    def refused(why: str, end: float = 100, **more: Any) -> None:
        later = n1.bill(**{"stay": (first.begin, now + end), "cpu": 1810.0} | more)
        with pytest.raises(CloudError, match=why):
            n1.check(later, first, later=200.0)

    n1.check(n1.bill(stay=(first.begin, now + 100), cpu=1810.0), first, later=200.0)
    refused("says less", cpu=1700.0)
    refused("says less", end=-5)
    refused("the price was 2 before and is 3", price=3.0)
    refused("do not fit in 100 s on 4", cpu=1800.0 + 500)
    refused("not of the same", stay=(first.begin + 10, now + 100))


@pytest.mark.parametrize("number", ["nan", "inf", "-1", "1e3", "", "0x1", "1.0000000", "01"])
def test_numbers_that_are_none(n1: Issuer, number: str) -> None:
    text = n1.bill().text().replace("cpus=4", f"cpus={number}")
    with pytest.raises(CloudError, match="no bill"):
        n1.check(text)
