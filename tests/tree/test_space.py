"""Name spaces, unions, cues and the permission check."""

import itertools

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from cloudfs.errors import CloudError
from cloudfs.tree.api import ORDWR, OREAD, OTRUNC, OWRITE, DirHandle, Handle, R, W, Wait, Who, X
from cloudfs.tree.permission import allowed
from cloudfs.tree.space import Space, settle, split
from tests.synthetic import Dir, Leaf, tree

ROOT = Who("root", 0, boss=True)
ANN = Who("ann", 1001, frozenset({"staff"}))


@pytest.fixture
def space():
    return Space(tree())


def read(at, path):
    handle = at.open(at.find(split(path)), OREAD)
    assert isinstance(handle, Handle)
    return handle.read(0, 100)


def names(at, path):
    handle = at.open(at.find(split(path)), OREAD)
    assert isinstance(handle, DirHandle)
    return list(handle.entries.nodes)


def test_walk_open_read(space):
    assert read(space.attach(ANN), "/hello") == b"hello, world\n"


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "x" * 256, "ö" * 128])
def test_names_that_cannot_be(space, name):
    at = space.attach(ANN)
    with pytest.raises(CloudError) as caught:
        at.walk(at.root(), name)
    assert caught.value.kind in ("bad", "toolong")


def test_dotdot_goes_up_and_stays_at_the_root(space):
    at = space.attach(ANN)
    inner = at.find(("dir",))
    assert at.walk(inner, "..").path == ()
    assert at.walk(at.root(), "..").path == ()
    with pytest.raises(CloudError):
        at.walk(at.walk(inner, "a"), "..")  # a file is no directory


def test_cues_hold_for_the_rest_of_the_path(space):
    at = space.attach(ANN)
    nodes, ref, error = at.walk_all(at.root(), [".follow", ".MaxTime=0.5", "dir", ".fresh", "a"])
    assert error is None
    assert len(nodes) == 5
    assert ref.path == ("dir", "a")
    assert ref.cues.follow
    assert ref.cues.fresh
    assert ref.cues.max_time == 0.5
    assert not at.root().cues.follow


@pytest.mark.parametrize("word", ["", "x", "nan", "inf", "-1", "0", "1e99"])
def test_bad_deadlines_are_refused(space, word):
    at = space.attach(ANN)
    with pytest.raises(CloudError, match="seconds"):
        at.walk(at.root(), f".MaxTime={word}")


def test_partial_walk_tells_how_far(space):
    at = space.attach(ANN)
    nodes, _, error = at.walk_all(at.root(), ["dir", "nope", "x"])
    assert [node.name for node in nodes] == ["dir"]
    assert error.kind == "absent"


async def test_slow_walks_are_waited_for(space):
    at = space.attach(ANN)
    walk = at.walk_all(at.root(), ["slow", "x"])
    assert isinstance(walk, Wait)
    nodes, ref, error = await walk.run()
    assert error is None
    assert len(nodes) == 2
    assert ref.path == ("slow", "x")
    missing = at.walk_all(at.root(), ["slow", "y"])
    nodes, _, error = await missing.run()
    assert (len(nodes), error.kind) == (1, "absent")


PLAIN = "dir a many f0001 slow x private inside hello nope open".split()
ODD = [".", "..", ".follow", ".MaxTime=1", ".MaxTime=x", "", "a/b", "ö" * 128, "y" * 300]


@given(
    st.lists(st.sampled_from(PLAIN + ODD), max_size=6), st.sampled_from([ANN, ROOT]), st.booleans()
)
def test_a_walk_is_its_steps(names, who, bound):
    """However many are taken at a time, and whatever is bound."""
    space = Space(tree())
    at = space.attach(who)
    if bound:
        space.bind(at, "/many", "/dir")

    async def by_steps():
        nodes, ref = [], at.root()
        for name in names:
            try:
                ref = await settle(at.walk(ref, name))
            except CloudError as error:
                return nodes, None, (error.kind, error.why)
            nodes.append(ref.node)
        return nodes, ref, None

    async def at_once():
        nodes, ref, error = await settle(at.walk_all(at.root(), names))
        return nodes, None if error else ref, error and (error.kind, error.why)

    async def both():
        assert await at_once() == await by_steps()

    trio.run(both, clock=trio.testing.MockClock(autojump_threshold=0))


# --- permissions


@given(st.integers(0, 0o777), st.sampled_from([R, W, X, R | W, R | X]), st.integers(0, 2))
def test_permission_is_plan_9s(mode, bits, who):
    node = Leaf("f", b"", mode, uid="ann")
    node.gid = "staff"
    caller = [ANN, Who("bob", 1002, frozenset({"staff"})), Who("eve", 1003)][who]
    classes = [[6, 3, 0], [3, 0], [0]][who]
    granted = 0
    for shift in classes:
        granted |= mode >> shift & 7
    assert allowed(caller, node, bits) == (granted & bits == bits)
    assert allowed(ROOT, node, bits)


def test_secret_is_refused_with_a_reason(space):
    at = space.attach(ANN)
    with pytest.raises(CloudError, match="ann may not read it") as caught:
        at.open(at.find(("secret",)), OREAD)
    at.note(caught.value, ("secret",))
    assert "/secret" in space.errors.of("ann")[0][1]
    assert space.errors.of("bob") == []
    assert isinstance(space.attach(ROOT).open(at.find(("secret",)), OREAD), Handle)


def test_what_another_node_is_refused_does_not_hide_what_its_user_is_refused_here(space):
    here, there = space.attach(ANN), space.attach(ANN.by("n2"))
    here.note(CloudError("denied", "ann may not"), ("secret",))
    error = there.note(CloudError("absent", "the image is gone"), ("image",))
    assert str(error) == "/image: the image is gone"
    assert [line for _, line in space.errors.of("ann")] == ["/secret: ann may not"]


def test_a_closed_directory_lets_nobody_in(space):
    with pytest.raises(CloudError, match="search"):
        space.attach(ANN).find(("private", "inside"))
    assert read(space.attach(ROOT), "/private/inside") == b"in\n"


@pytest.mark.parametrize("mode", [OWRITE, ORDWR, OREAD | OTRUNC])
def test_writing_needs_the_bit(space, mode):
    at = space.attach(ANN)
    with pytest.raises(CloudError) as caught:
        at.open(at.find(("hello",)), mode)
    assert caught.value.kind == "denied"


def test_directories_are_not_written(space):
    at = space.attach(ROOT)
    with pytest.raises(CloudError) as caught:
        at.open(at.find(("dir",)), OWRITE)
    assert caught.value.kind == "isdir"


def test_create_and_remove_need_the_directory(space):
    at = space.attach(ANN)
    ref, _ = at.create(at.find(("open",)), "new", 0o644, OWRITE)
    assert ref.path == ("open", "new")
    with pytest.raises(CloudError) as caught:
        at.create(at.find(("dir",)), "new", 0o644, OWRITE)
    assert caught.value.kind == "denied"
    for name in ("..", ".follow"):
        with pytest.raises(CloudError):
            at.create(at.find(("open",)), name, 0o644, OWRITE)
    with pytest.raises(CloudError):
        at.remove(at.find(("dir", "a")))
    with pytest.raises(CloudError, match="root cannot"):
        at.remove(at.root())


# --- binds


def test_bind_replaces_and_unmount_restores(space):
    at = space.attach(ANN)
    space.bind(at, "/cloud/dir", "/cloud/open")
    assert names(at, "/open") == ["a", "b"]
    assert space.lines() == ["bind /cloud/dir /cloud/open"]
    space.unmount(at, None, "/cloud/open")
    assert names(at, "/open") == []
    assert space.lines() == []


def test_unions_first_match_wins(space):
    at = space.attach(ANN)
    space.root.children["other"] = Dir("other", [Leaf("b", b"other\n"), Leaf("c", b"C\n")])
    space.bind(at, "/other", "/dir", "a")
    assert names(at, "/dir") == ["a", "b", "c"]
    assert read(at, "/dir/b") == b"B\n"
    space.bind(at, "/other", "/dir", "b")
    assert read(at, "/dir/b") == b"other\n"
    space.unmount(at, "/other", "/dir")
    assert names(at, "/dir") == ["a", "b"]


def test_a_union_takes_creates_where_c_says(space):
    at = space.attach(ANN)
    space.bind(at, "/open", "/dir", "a")
    ref = at.find(("dir",))
    root = space.attach(ROOT)
    with pytest.raises(CloudError, match="no part of this union"):
        root.create(ref, "new", 0o644, OWRITE)
    space.unmount(at, None, "/dir")
    space.bind(at, "/open", "/dir", "ac")
    made, _ = root.create(root.find(("dir",)), "new", 0o644, OWRITE)
    assert names(at, "/open") == ["new"]
    assert made.path == ("dir", "new")


def test_lines_rebuild_the_name_space(space):
    at = space.attach(ANN)
    space.bind(at, "/dir", "/open", "b")
    space.bind(at, "/many", "/open", "ac")
    space.bind(at, "/hello", "/empty")
    other = Space(space.root)
    there = other.attach(ANN)
    for line in space.lines():
        words = line.split()[1:]
        flags = words.pop(0)[1:] if words[0][0] == "-" else ""
        other.bind(there, *words, flags)
    assert other.lines() == space.lines()
    assert names(there, "/open") == names(at, "/open")
    assert read(there, "/empty") == b"hello, world\n"


def test_a_tree_bound_into_itself_stays_finite(space):
    at = space.attach(ANN)
    space.bind(at, "/", "/open")
    assert "hello" in names(at, "/open")
    assert names(at, "/open/open") == []


@pytest.mark.parametrize(
    ("new", "old", "flags", "kind"),
    [
        ("/nope", "/dir", "", "absent"),
        ("/dir", "/nope", "", "absent"),
        ("/dir", "/hello", "", "bad"),
        ("/hello", "/empty", "a", "bad"),
        ("/dir", "/open", "ab", "bad"),
        ("/dir", "/open", "z", "bad"),
        ("dir", "/open", "", "bad"),
        ("/dir/../dir", "/open", "", "bad"),
        ("/private/inside", "/empty", "", "denied"),
    ],
)
def test_bad_binds(space, new, old, flags, kind):
    at = space.attach(ANN)
    with pytest.raises(CloudError) as caught:
        space.bind(at, new, old, flags)
    assert caught.value.kind == kind
    assert space.lines() == []


def test_another_owners_name_space_is_left_alone():
    space = Space(tree(), owner="root")
    with pytest.raises(CloudError, match="cloudfs shell"):
        space.bind(space.attach(ANN), "/dir", "/open")
    space.bind(space.attach(ROOT), "/dir", "/open")


async def test_unions_with_slow_parts(space):
    at = space.attach(ANN)
    bound = space.bind(at, "/slow", "/dir", "b")
    assert bound is None
    ref = await settle(at.find(("dir", "x")))
    assert ref.path == ("dir", "x")
    ref = await settle(at.find(("dir", "a")))
    assert ref.path == ("dir", "a")
    with pytest.raises(CloudError):
        await settle(at.find(("dir", "nope")))


@given(st.lists(st.sampled_from(["/dir", "/open", "/many", "/slow"]), min_size=2, max_size=8))
def test_unmounting_everything_restores_everything(paths):
    space = Space(tree())
    at = space.attach(ROOT)
    before = {path: names(at, path) for path in set(paths)}
    for new, old in itertools.pairwise(paths):
        space.bind(at, new, old, "a")
    for path in set(paths[1:]):
        space.unmount(at, None, path)
    assert space.mounts == {}
    assert {path: names(at, path) for path in set(paths)} == before
