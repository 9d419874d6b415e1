"""Listings: whole, without bad names, cheap again, and with what is bound over them."""

from __future__ import annotations

import pytest

from cloudfs.fuse import listing as module
from cloudfs.fuse.inodes import ROOT, Inodes
from cloudfs.fuse.listing import TURN, Listing, listing_of
from cloudfs.tree.api import DMDIR, PLAIN, Entries, Ref
from cloudfs.tree.idmap import who_of
from cloudfs.tree.space import Space
from tests.fuse.serve import Proxy
from tests.synthetic import Dir, Leaf, tree


class Token:
    """A buffer with room for some entries."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.told: list[tuple[bytes, int, int]] = []


@pytest.fixture(autouse=True)
def _reply(monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(token: Token, name: bytes, attributes: object, after: int) -> bool:
        if len(token.told) >= token.room:
            return False
        token.told.append((name, attributes.st_ino, after))  # type: ignore[attr-defined]
        return True

    monkeypatch.setattr(module, "readdir_reply", reply)


def whole(listing: Listing, room: int = 100) -> list[tuple[bytes, int]]:
    """All entries, as a kernel with little room asks for them."""
    entries: list[tuple[bytes, int]] = []
    start = 0
    while True:
        token = Token(room)
        listing.fill(token, start)  # type: ignore[arg-type]
        if not token.told:
            return entries
        entries += [(name, ino) for name, ino, _ in token.told]
        start = token.told[-1][2]


def make(nodes: dict[str, object], inodes: Inodes | None = None) -> tuple[Listing, Inodes]:
    root = Dir("/", [])
    ref = Ref(root, (), PLAIN)
    inodes = inodes or Inodes(ref)
    return listing_of(inodes, ROOT, ref, Space(root), Entries(nodes)), inodes  # type: ignore[arg-type]


@pytest.mark.parametrize("room", [1, 7, 64, 10_000])
def test_every_entry_once_and_counted(room: int) -> None:
    nodes = {f"f{i}": Leaf(f"f{i}") for i in range(TURN + 100)}
    listing, inodes = make(dict(nodes))
    seen = whole(listing, room)
    assert [name.decode() for name, _ in seen] == list(nodes)
    assert len(inodes) == len(nodes) + 1
    for name, ino in seen:
        assert inodes[ino].name == name
        assert inodes[ino].count == 1
    assert whole(listing, room) == seen
    assert all(inode.count == 2 for inode in inodes.files())


def test_a_forgotten_entry_comes_back_under_a_known_number() -> None:
    nodes = {name: Leaf(name) for name in "ab"}
    listing, inodes = make(dict(nodes))
    (_, a), (_, b) = whole(listing)
    inodes.forget(a, 1)
    fresh = inodes.place(ROOT, b"a", Ref(nodes["a"], ("a",), PLAIN))
    inodes.told(fresh)
    assert whole(listing) == [(b"a", fresh.ino), (b"b", b)]
    assert fresh.count == 2


def test_new_entries_with_the_same_nodes_keep_their_numbers() -> None:
    nodes = {name: Leaf(name) for name in "abc"}
    listing, inodes = make(dict(nodes))
    seen = whole(listing)
    again, _ = make(dict(nodes), inodes)
    assert again is not listing
    assert whole(again) == seen
    nodes["b"] = Leaf("b")
    nodes["b"].qid = 1
    changed, _ = make(dict(nodes), inodes)
    assert [ino for _, ino in whole(changed)][::2] == [seen[0][1], seen[2][1]]


def test_names_that_the_kernel_would_refuse_are_left_out() -> None:
    names = ["ok", "", ".", "..", "a/b", "a\0b", "x" * 256, "\ud800", "ä" * 127, "\udcff"]
    listing, _ = make({name: Leaf("x") for name in names})
    seen = [name for name, _ in whole(listing)]
    assert seen == [b"ok", ("ä" * 127).encode(), b"\xff"]


def test_far_files_are_listed_without_asking_for_each() -> None:
    nodes = {name: Proxy(Leaf(name, b"text", 0o640)) for name in "ab"}
    listing, inodes = make(dict(nodes))
    whole(listing)
    item = inodes.known(ROOT, b"a")
    assert item is not None
    assert item.item.attributes.st_size == 0
    assert item.item.attributes.st_mode & 0o777 == 0o640


def test_listings_are_kept_with_their_entries() -> None:
    root = tree()
    ref, space = Ref(root, (), PLAIN), Space(root)
    inodes, entries = Inodes(ref), Entries(dict(root.children))
    listing = listing_of(inodes, ROOT, ref, space, entries)
    assert listing_of(inodes, ROOT, ref, space, entries) is listing
    assert listing_of(inodes, 5, ref, space, entries) is not listing
    assert listing_of(Inodes(ref), ROOT, ref, space, entries) is not listing


def test_what_is_bound_is_listed() -> None:
    root = tree()
    ref, space = Ref(root, (), PLAIN), Space(root)
    inodes, entries = Inodes(ref), Entries(dict(root.children))
    before = dict(whole(listing_of(inodes, ROOT, ref, space, entries)))
    at = space.attach(who_of(0, {0}))
    space.bind(at, "/many", "/open")
    after = dict(whole(listing_of(inodes, ROOT, ref, space, entries)))
    assert {name for name in before if before[name] != after[name]} == {b"open"}
    bound = inodes[after[b"open"]].ref.node
    assert bound is root.children["many"]
    assert bound.mode & DMDIR
    space.unmount(at, None, "/open")
    again = dict(whole(listing_of(inodes, ROOT, ref, space, entries)))
    assert again.keys() == before.keys()
    assert inodes[again[b"open"]].ref.node is root.children["open"]
