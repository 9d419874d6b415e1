"""What a node says an object has cost on it, signed, so that its user can check it.  Pure.

    id=… user=ana node=n3 cloud=local from=1790000000.25 until=1790003600 cpu=1800 cpus=4 price=2
        total=1 certs=BASE64 sign=HEX

One line is the bill of one stay of an object at a node: from when it came until now, seconds since
1970; cpu, the seconds of processor time that it used there; cpus, how many processors the node has;
price, of a core for an hour.  The node's key signs what stands before `certs`, which are its
certificates (nodeproof.py).  Whoever has the cloud's root checks it, without asking anybody.

A node that writes what is not so may do that within the time that passed, and no bill of the same
stay takes back what an earlier one said.  That a second of work was needed no signature can show.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum.nodeproof import Check, root_key

MOST = 8192  # bytes of a bill
SLACK = 2.0  # seconds by which a clock, or a count of processor time, may be off
AHEAD = 300.0  # seconds by which the node's clock may be before that of who checks
CENT = 2e-6, 1e-9  # by which a total may be off, in all and of itself: it has six digits
_NUMBERS = ("from", "until", "cpu", "cpus", "price", "total")
_FIELDS = ("id", "user", "node", "cloud", *_NUMBERS, "certs", "sign")
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True)
class Bill:
    """begin, end: seconds since 1970.  price: of a core-hour.  certs: DER, one after the other.
    sign: the node's signature of `signed()`."""

    id: str
    user: str
    node: str
    cloud: str
    begin: float
    end: float
    cpu: float
    cpus: float
    price: float
    total: float
    certs: bytes = b""
    sign: bytes = b""

    def signed(self) -> str:
        values = (self.id, self.user, self.node, self.cloud, *self._numbers())
        return ndb.record(zip(_FIELDS, values, strict=False))

    def _numbers(self) -> tuple[float, ...]:
        return (self.begin, self.end, self.cpu, self.cpus, self.price, self.total)

    def text(self) -> str:
        """The bill, one line without its newline."""
        certs = base64.b64encode(self.certs).decode()
        return f"{self.signed()} certs={certs} sign={self.sign.hex()}"

    @property
    def stay(self) -> tuple[str, str, str]:
        """Which of an object's stays at a node it is of."""
        return self.id, self.node, ndb.show(self.begin)


def make(
    id: str,
    user: str,
    node: str,
    cloud: str,
    stay: tuple[float, float],
    cpu: float,
    cpus: float,
    price: float,
    keys: tuple[bytes, Callable[[bytes], bytes]],
) -> Bill:
    """A signed bill.  stay: its begin and end.  keys: a node's (nodeproof.NodeProof.load)."""
    begin, end, cpu, price = (round(value, 6) for value in (*stay, cpu, price))
    bare = (id, user, node, cloud, begin, end, cpu, float(cpus), price, cpu / 3600 * price)
    certs, sign = keys
    return Bill(*bare, certs, sign(_to_sign(Bill(*bare))))


def parse(text: str) -> Bill:
    """A bill from its line, not checked yet; CloudError("bad")."""
    try:
        pairs = ndb.parse(text) if len(text) <= MOST else {}
        if not all(_NUMBER.fullmatch(pairs[name]) for name in _NUMBERS):
            raise ValueError
        begin, end, cpu, cpus, price, total = (float(pairs[name]) for name in _NUMBERS)
        found = Bill(
            *(pairs["id"], pairs["user"], pairs["node"], pairs["cloud"]),
            *(begin, end, cpu, cpus, price, total),
            base64.b64decode(pairs["certs"], validate=True),
            bytes.fromhex(pairs["sign"]),
        )
    except (CloudError, KeyError, ValueError, binascii.Error):
        raise CloudError("bad", "that is no bill") from None
    if found.text() != text:  # there is one way to write it
        raise CloudError("bad", "that is no bill")
    return found


def check(text: str, root: tuple[x509.Certificate, str], before: Bill | None, now: float) -> Bill:
    """The bill, where nothing speaks against it.

    root: the cloud's root, and the cloud's name.  before: an earlier bill of the same stay, checked
    already.  now: seconds since 1970.  Raises CloudError "bad" for what is no bill, "denied" for
    one that its node did not sign, or that cannot be so, with what is wrong in it.
    """
    bill = parse(text)
    cert, cloud = root
    if bill.cloud != cloud:
        raise CloudError("denied", f"the bill is of the cloud {bill.cloud}, not of {cloud}")
    # Certificates are short-lived, bills are kept: it is then that it had to be a node.
    signer = Check(root_key(cert), cloud, lambda: bill.end)(bill.certs, bill.sign, _to_sign(bill))
    if signer != bill.node:
        raise CloudError("denied", f"the bill of node {bill.node} is signed by {signer}")
    _sound(bill, now)
    if before is not None:
        _follows(bill, before)
    return bill


def _sound(bill: Bill, now: float) -> None:
    if bill.end > now + AHEAD:
        raise _wrong(bill, "it is of a time to come; see that both clocks are right")
    if bill.begin > bill.end + SLACK:
        raise _wrong(bill, "it ends before it begins")
    if abs(bill.total - bill.cpu / 3600 * bill.price) > max(CENT[0], CENT[1] * bill.total):
        raise _wrong(bill, f"the total is not {bill.cpu:g} s at {bill.price:g} an hour")
    _fits(bill, bill.cpu, bill.end - bill.begin)


def _follows(bill: Bill, before: Bill) -> None:
    if (bill.stay, bill.user) != (before.stay, before.user):
        raise _wrong(bill, "the earlier bill is not of the same object, user, node and stay")
    if bill.price != before.price:
        raise _wrong(bill, f"the price was {before.price:g} before and is {bill.price:g}")
    if bill.end < before.end or bill.cpu < before.cpu:
        raise _wrong(bill, "it says less than the earlier bill")
    _fits(bill, bill.cpu - before.cpu, bill.end - before.end)


def _fits(bill: Bill, cpu: float, time: float) -> None:
    """No more processor time than passed on all processors."""
    if cpu > (max(0.0, time) + SLACK) * bill.cpus:
        raise _wrong(bill, f"{cpu:g} s of processor time do not fit in {time:g} s on {bill.cpus:g}")


def _wrong(bill: Bill, why: str) -> CloudError:
    return CloudError("denied", f"the bill of {bill.id} at {bill.node} cannot be so: {why}")


def _to_sign(bill: Bill) -> bytes:
    return f"cloudfs bill\0{bill.signed()}".encode()
