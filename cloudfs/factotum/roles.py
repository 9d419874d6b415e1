"""What this factotum's keys can prove and grant.  Pure.

A key of it is   key proto=cap25519 dom=CLOUD user=NAME epoch=N root=HEX !seed=HEX

with the user's own seed, of which a token is minted for each node, for a holder's key that never
leaves this process; or, of what another user granted,   … !seed=HEX token=BASE64   where the token
names the holder whose seed it is.  root is the public key of the cloud's root, by which nodes are
known (factotum/nodeproof.py).

    p9any client        proves to a node whose key it is, with cap25519; with lend=yes in its
                        template the node may act for the user on others (delegation.py)
    cap25519 grant      has one answer, a token for another holder: its template has holder=, and
                        op= app= cluster= node= (names with commas), until= and price= (the
                        most that an object may cost an hour) restrict it
    cap25519 holder     has one answer, by which name others grant something to this key
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloudfs.errors import CloudError
from cloudfs.factotum import cap25519, delegation, nodeproof, p9any, tokens
from cloudfs.factotum.holders import Holder
from cloudfs.factotum.keyring import Key, Template, template
from cloudfs.factotum.p9any import Talk
from cloudfs.factotum.rpc import Info, Role, Roles
from cloudfs.factotum.tokens import LIFE, Limits

Check = Callable[[bytes, bytes, bytes], str]
CAP = "proto=cap25519 dom? user? !seed?"
MINTED = 64  # tokens kept, one for each key and node
MOST_PRICE = 1e11  # of an object for an hour; in millionths it has the 18 digits of a token
GRANTED = 30 * 86400.0  # seconds that what is granted lives at most


def roles(check_of: Callable[[Key], Check], now: Callable[[], float]) -> Roles:
    """The protocols and roles of a factotum.

    check_of(key): whose a node's certificate is (cap25519.Client), for one who has this key.
    now: seconds since 1970.  What a conversation is bound to (cap25519) is its template's
    `binding`, in hexadecimal; nothing where the other end is on this machine.
    """
    holder = Ed25519PrivateKey.generate()
    minted = Minted(holder, now)

    def begin(key: Key, wanted: Template) -> Talk:
        shown, seed = _credential(key, holder, minted)
        if wanted.values.get("lend") == "yes":
            shown = _lent(key, holder, minted)
        check, binding = check_of(key), _binding(wanted)

        def client(dom: str, before: bytes) -> Talk:
            return cap25519.Client(before, binding, seed, check, shown)

        return p9any.Client({(cap25519.NAME, key.attrs["dom"]): client})

    def info(talk: Talk) -> Info:
        proved = cast(cap25519.Client, cast(p9any.Client, talk).talk)
        return Info(proved.user, proved.node)

    def grant(key: Key, wanted: Template) -> Talk:
        return Told(base64.b64encode(granted(key, wanted, now())))

    def held(key: Key, wanted: Template) -> Talk:
        return Told(cap25519.holder(public_of(key)).encode())

    def nobody(talk: Talk) -> Info:
        return Info("", "")

    needs = template(CAP)
    return {
        ("p9any", "client"): Role(needs, begin, info),
        ("cap25519", "grant"): Role(needs, grant, nobody),
        ("cap25519", "holder"): Role(needs, held, nobody),
    }


class Minted:
    """Tokens for nodes, kept so that a node need not check a new one at each attach."""

    def __init__(self, holder: Ed25519PrivateKey, now: Callable[[], float]) -> None:
        self._holder = cap25519.holder(holder.public_key())
        self._now = now
        self._kept: dict[tuple[bytes, str, int, str], tuple[float, bytes]] = {}

    def token(self, seed: bytes, attrs: dict[str, str], epoch: int, node: str) -> bytes:
        """One for that node, or any with "", with half of its life before it at least."""
        name, now = (seed, f"{attrs['user']}@{attrs['dom']}", epoch, node), self._now()
        until, made = self._kept.get(name, (0.0, b""))
        if not now < until <= now + LIFE:  # also where the clock was set back
            if len(self._kept) >= MINTED:
                self._kept.clear()
            public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
            whole = tokens.mint(seed, attrs["user"], attrs["dom"], epoch, self._holder, now)
            only = Limits({"node": frozenset({node})} if node else {})
            made = tokens.narrow(whole, public, only)
            self._kept[name] = now + LIFE / 2, made
        return made

    def ends(self) -> float:
        """When what is lent now ends, in seconds since 1970; its token ends before, or then."""
        return self._now() + LIFE


def _credential(
    key: Key, holder: Ed25519PrivateKey, minted: Minted
) -> tuple[Callable[[str, bytes], bytes], Ed25519PrivateKey]:
    """The token to show a node, and the key of its holder."""
    attrs = key.attrs
    seed, own, epoch = _own(key)
    try:
        given = base64.b64decode(attrs.get("token", ""), validate=True)
    except (ValueError, binascii.Error):
        raise _damaged(key) from None
    if given:
        return lambda node, certificate: given, own
    return lambda node, certificate: minted.token(seed, attrs, epoch, node), holder


def _lent(key: Key, holder: Ed25519PrivateKey, minted: Minted) -> Callable[[str, bytes], bytes]:
    """The same, lent to the node that is shown it."""
    any_node, by = _credential(key, holder, minted)

    def shown(node: str, certificates: bytes) -> bytes:
        to = nodeproof.node_key(certificates)
        return delegation.delegate(any_node("", b""), Holder(by), to, minted.ends())

    return shown


def _own(key: Key) -> tuple[bytes, Ed25519PrivateKey, int]:
    """(seed, the key made of it, epoch)"""
    try:
        seed = bytes.fromhex(key.secrets["seed"])
        return seed, Ed25519PrivateKey.from_private_bytes(seed), int(key.attrs.get("epoch", "0"))
    except ValueError:
        raise _damaged(key) from None


def public_of(key: Key) -> Ed25519PublicKey:
    """The public half of a key's seed.  CloudError("bad")."""
    if "seed" not in key.secrets or "user" not in key.attrs or "dom" not in key.attrs:
        raise CloudError("bad", "that is no key of cap25519")
    return _own(key)[1].public_key()


def _damaged(key: Key) -> CloudError:
    attrs = key.attrs
    return CloudError("bad", f"the key of {attrs['user']} for {attrs['dom']} is damaged")


def _binding(wanted: Template) -> bytes:
    try:
        return bytes.fromhex(wanted.values.get("binding", ""))
    except ValueError:
        raise CloudError("bad", "binding= is no hexadecimal number") from None


# --- granting -------------------------------------------------------------------------------


class Told:
    """A conversation of one message."""

    turn = False

    def __init__(self, message: bytes) -> None:
        self._out = message
        self.state = "told"

    def read(self) -> bytes:
        out, self._out = self._out, b""
        self.state = "done"
        return out

    def write(self, message: bytes) -> None:
        raise CloudError("proto", "this takes no message")


def granted(key: Key, wanted: Template, now: float) -> bytes:
    """A token of this key's user for another holder.  CloudError("bad", "toobig")."""
    seed, own, epoch = _own(key)
    values = wanted.values
    if key.attrs.get("token"):
        raise CloudError("refused", "what was granted to you is not yours to grant")
    life = _number(values, "until", now + LIFE) - now
    if not 0 < life <= GRANTED:
        raise CloudError("bad", f"a grant lives up to {GRANTED / 86400:g} days", "--for 12h")
    made = tokens.mint(
        seed, key.attrs["user"], key.attrs["dom"], epoch, values.get("holder", ""), now, life
    )
    sets = {name: frozenset(values[name].split(",")) for name in tokens.SETS if values.get(name)}
    price = None
    if "price" in values:
        most = _number(values, "price", 0.0)
        if not 0 <= most < MOST_PRICE:
            why = f"price={values['price'][:20]}: wants a number from 0"
            raise CloudError("bad", why, "price=0.5")
        price = round(most * 1e6)
    return tokens.narrow(made, own.public_key().public_bytes_raw(), Limits(sets, price=price))


def _number(values: dict[str, str], name: str, default: float) -> float:
    try:
        return float(values.get(name, default))
    except ValueError:
        raise CloudError("bad", f"{name}= is no number") from None
