"""The inode table, against a kernel that counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cloudfs.errors import CloudError
from cloudfs.fuse.inodes import ROOT, Inodes
from cloudfs.tree.api import PLAIN, Ref
from tests.synthetic import Dir, Leaf

NAMES = st.sampled_from([b"a", b"b", b"c"])
PARENTS = st.sampled_from([ROOT, 90, 91])


def ref(qid: int = 1, directory: bool = False) -> Ref:
    node = Dir("x", []) if directory else Leaf("x")
    node.qid = qid
    return Ref(node, ("x",), PLAIN)


class Kernel(RuleBasedStateMachine):
    """What the kernel was told and has not given back must be known, and no more."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Inodes(ref(directory=True))
        self.counts: dict[int, int] = {}
        self.names: dict[tuple[int, bytes], int] = {}
        self.given: set[int] = set()

    @rule(parent=PARENTS, name=NAMES, qid=st.integers(1, 2), directory=st.booleans())
    def look(self, parent: int, name: bytes, qid: int, directory: bool) -> None:
        found = ref(qid, directory)
        inode = self.table.place(parent, name, found)
        self.table.told(inode)
        assert inode.ref is found
        self.counts[inode.ino] = self.counts.get(inode.ino, 0) + 1
        self.names[parent, name] = inode.ino
        self.given.add(inode.ino)

    @rule(parent=PARENTS, name=NAMES)
    def place_without_telling(self, parent: int, name: bytes) -> None:
        self.table.place(parent, name, ref(77))

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        if not self.counts:
            return
        ino = data.draw(st.sampled_from(sorted(self.counts)))
        times = data.draw(st.integers(1, self.counts[ino]))
        self.table.forget(ino, times)
        self.counts[ino] -= times
        if not self.counts[ino]:
            del self.counts[ino]

    @rule(parent=PARENTS, name=NAMES, new=NAMES)
    def rename(self, parent: int, name: bytes, new: bytes) -> None:
        self.table.renamed(parent, name, parent, new)
        if (parent, name) in self.names:
            self.names[parent, new] = self.names.pop((parent, name))

    @rule(parent=PARENTS, name=NAMES)
    def remove(self, parent: int, name: bytes) -> None:
        self.table.removed(parent, name)
        self.names.pop((parent, name), None)

    @invariant()
    def the_table_holds_what_the_kernel_knows(self) -> None:
        assert len(self.table) == len(self.counts) + 1
        for ino, count in self.counts.items():
            assert self.table[ino].count == count
        assert {inode.ino for inode in self.table.files()} == set(self.counts)

    @invariant()
    def names_lead_to_what_was_found_there_last(self) -> None:
        for (parent, name), ino in self.names.items():
            known = self.table.known(parent, name)
            if known is None:
                assert ino not in self.counts
            else:
                assert known.ino in self.counts


TestKernel = Kernel.TestCase


def test_the_same_file_keeps_its_number_and_another_gets_one() -> None:
    table = Inodes(ref())
    first = table.place(ROOT, b"a", ref(1))
    table.told(first)
    assert table.place(ROOT, b"a", ref(1)) is first
    assert table.place(ROOT, b"a", ref(2)).ino != first.ino
    assert table.place(ROOT, b"a", ref(1, True)).ino != first.ino
    assert table.place(ROOT, b"b", ref(1)).ino != first.ino  # another path
    assert table.path(first.ino) == ("x",)
    assert table.path(12345) == ()


@given(st.integers(0, 5))
def test_the_root_is_never_forgotten(times: int) -> None:
    table = Inodes(ref())
    table.forget(ROOT, times)
    assert table[ROOT].ino == ROOT
    with pytest.raises(CloudError):
        table[2]


def test_numbers_are_never_used_again() -> None:
    table = Inodes(ref())
    seen = set()
    for _ in range(50):
        inode = table.place(ROOT, b"a", ref())
        table.told(inode)
        assert inode.ino not in seen
        seen.add(inode.ino)
        table.forget(inode.ino, 1)
    assert len(table) == 1
