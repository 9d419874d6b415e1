"""What this factotum's keys can prove: p9any with cap25519, as a client.  Pure.

A key of it is   key proto=cap25519 dom=CLOUD user=NAME epoch=N !seed=HEX

with the user's own seed, of which a token is minted for each conversation, for a holder's key that
never leaves this process; or, of what another user granted,   … !seed=HEX token=BASE64   where the
token names the holder whose seed it is.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloudfs.errors import CloudError
from cloudfs.factotum import cap25519, p9any, tokens
from cloudfs.factotum.keyring import Key, Template, template
from cloudfs.factotum.p9any import Talk
from cloudfs.factotum.rpc import Info, Role, Roles
from cloudfs.factotum.tokens import Limits

Check = Callable[[bytes, bytes, bytes], str]
CAP = "proto=cap25519 dom? user? !seed?"


def roles(check: Check, now: Callable[[], float], binding: bytes = b"") -> Roles:
    """The protocols and roles of a factotum.

    check: whose a node's certificate is (cap25519.Client).  now: seconds since 1970.
    binding: of the connection that conversations go over (cap25519); nothing where the other
    end is on this machine.
    """
    holder = Ed25519PrivateKey.generate()

    def begin(key: Key, wanted: Template) -> Talk:
        shown, seed = _credential(key, holder, now)

        def client(dom: str, before: bytes) -> Talk:
            return cap25519.Client(before, binding, seed, check, shown)

        return p9any.Client({(cap25519.NAME, key.attrs["dom"]): client})

    def info(talk: Talk) -> Info:
        proved = cast(cap25519.Client, cast(p9any.Client, talk).talk)
        return Info(proved.user, proved.node)

    role = Role(template(CAP), begin, info)
    return {("p9any", "client"): role}


def _credential(
    key: Key, holder: Ed25519PrivateKey, now: Callable[[], float]
) -> tuple[Callable[[str], bytes], Ed25519PrivateKey]:
    """The token to show a node, and the key of its holder."""
    attrs = key.attrs
    try:
        seed = bytes.fromhex(key.secrets["seed"])
        epoch = int(attrs.get("epoch", "0"))
        given = base64.b64decode(attrs.get("token", ""), validate=True)
        own = Ed25519PrivateKey.from_private_bytes(seed)
    except (ValueError, binascii.Error):
        raise CloudError(
            "bad", f"the key of {attrs['user']} for {attrs['dom']} is damaged"
        ) from None
    if given:
        return lambda node: given, own
    name = cap25519.holder(holder.public_key())
    public = own.public_key().public_bytes_raw()

    def shown(node: str) -> bytes:
        made = tokens.mint(seed, attrs["user"], attrs["dom"], epoch, name, now())
        return tokens.narrow(made, public, Limits({"node": frozenset({node})}))

    return shown, holder
