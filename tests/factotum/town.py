"""A cloud's keys in a folder, its users in memory, and a factotum's rpc that has their keys."""

from __future__ import annotations

import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloudfs.factotum import accounts, authority, keyring
from cloudfs.factotum.accounts import User
from cloudfs.factotum.certificates import pem, pem_key
from cloudfs.factotum.keyring import Key, Keyring
from cloudfs.factotum.nodekeys import KeyFiles
from cloudfs.factotum.nodeproof import Check, NodeProof, root_key
from cloudfs.factotum.proofs import Proofs
from cloudfs.factotum.roles import roles
from cloudfs.factotum.rpc import Rpc


class InMemory:
    """Checked records, as a test makes them."""

    def __init__(self) -> None:
        self.users: dict[str, User] = {}
        self.groups: dict[str, frozenset[str]] = {}  # of each user
        self.taken_back: dict[str, set[str]] = {}  # ids of blocks, by user

    def some(self) -> bool:
        return bool(self.users)

    def user(self, name: str) -> User | None:
        return self.users.get(name)

    def groups_of(self, name: str) -> frozenset[str]:
        return self.groups.get(name, frozenset())

    def revoked(self, name: str, id: str) -> bool:
        return id in self.taken_back.get(name, ())

    def epoch(self, name: str) -> int:
        return self.users[name].epoch if name in self.users else 0


class Town:
    """The cloud `local` with its cluster `paris`, and its users' secret keys."""

    def __init__(self, folder: Path, cloud: str = "local") -> None:
        self.folder = folder
        self.now = time.time()
        self.root = authority.make_root(cloud, self.now)
        self.paris = authority.make_cluster(self.root, "paris", self.now)
        self.people = InMemory()
        self.seeds: dict[str, Ed25519PrivateKey] = {}

    def clock(self) -> float:
        return self.now

    def node(self, name: str, life: float = authority.LIFE) -> KeyFiles:
        """The files of a node."""
        here = self.folder / name
        here.mkdir(exist_ok=True)
        files = KeyFiles(here / "ca.crt", here / "node.crt", here / "node.key")
        key = ec.generate_private_key(ec.SECP256R1())
        files.ca.write_bytes(pem(self.root.cert))
        files.cert.write_bytes(authority.issue(self.paris, name, key.public_key(), self.now, life))
        files.key.write_bytes(pem_key(key))
        return files

    def user(self, name: str) -> User:
        key = self.seeds[name] = Ed25519PrivateKey.generate()
        made = self.people.users[name] = accounts.make_user(self.paris, name, key)
        accounts.check_user(made, self.root.cert, self.root.cloud)
        return made

    def new_epoch(self, name: str) -> None:
        last = self.people.users[name]
        self.people.users[name] = accounts.change_user([last], self.seeds[name], epoch=True)

    def line(self, name: str, more: str = "") -> str:
        """The key of a user, as it is written to a factotum after the word key."""
        seed = self.seeds[name].private_bytes_raw().hex()
        about = f"proto=cap25519 dom={self.root.cloud} user={name}"
        about += f" epoch={self.people.epoch(name)} root={root_key(self.root.cert)}"
        return f"{about} {more}!seed={seed}"

    def proofs(self, node: str, files: KeyFiles | None = None, **more: object) -> Proofs:
        """What a node checks users by.  files: its own, made unless given."""
        proof = NodeProof(files or self.node(node))
        proof.load()
        return Proofs(self.people, lambda: proof, self.clock, **more)  # type: ignore[arg-type]

    def check_of(self, key: Key) -> Check:
        return Check(key.attrs["root"], key.attrs["dom"], self.clock)

    def rpc(self, *users: str) -> Rpc:
        """An rpc of a factotum with the keys of these users."""
        ring = Keyring()
        for user in users:
            ring.add(keyring.key(self.line(user)))
        return Rpc(ring, roles(self.check_of, self.clock))


class Prover:
    """What auth_proxy(2) does between a factotum and an afid, a step at a time: `say` is what
    to write to the afid next, b"" where it is to be read and given to `hear`, and None at the
    end."""

    def __init__(self, rpc: Rpc, start: str = "") -> None:
        self.rpc = rpc
        self.said: list[bytes] = []
        self.end = b""
        assert self.ask(f"start proto=p9any role=client {start}".encode()) == b"ok"

    def ask(self, request: bytes) -> bytes:
        self.rpc.write(request)
        return self.rpc.read()

    def say(self) -> bytes | None:
        self.end = self.ask(b"read")
        word, _, message = self.end.partition(b" ")
        if word == b"ok":
            self.said.append(message)
            return message
        return b"" if word == b"phase" else None

    def hear(self, message: bytes) -> None:
        self.end = self.ask(b"write " + message)


def certificate(files: KeyFiles) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.cert.read_bytes())
