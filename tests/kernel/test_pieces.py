"""How an image travels: in pieces, also while it is made; and what a peer may send instead."""

import contextlib
import os

import pytest
import trio
import zstandard

from cloudfs.errors import CloudError
from cloudfs.kernel import images, pieces
from cloudfs.kernel.images import Manifest
from cloudfs.kernel.pieces import Fetch
from cloudfs.node.criu import AGAIN

pytestmark = pytest.mark.usefixtures("no_threads")

MEMORY = os.urandom(1000) + bytes(1000) + os.urandom(77)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 100)
    monkeypatch.setattr(pieces, "SMALL", 20)


@pytest.fixture
def there(tmp_path):
    path = tmp_path / "there"
    path.mkdir()
    return path


@pytest.fixture
def here(tmp_path):
    path = tmp_path / "here"
    path.mkdir()
    return path


def finish(folder, memory=MEMORY, **more):
    """What ends a dump."""
    for number in range(9):
        (folder / f"core-{number}.img").write_bytes(b"%d" % number * number)
    (folder / "pages-1.img").write_bytes(memory)
    (folder / "empty").write_bytes(b"")
    for name, data in more.items():
        (folder / name).write_bytes(data)
    images.describe(folder, Manifest(["true"], "process", 1.0, 2.0, {}))


class Way:
    """An image of another node.  told: what was asked; at: called for each name first."""

    def __init__(self, folder):
        self.folder = folder
        self.told = []
        self.at = lambda name: None

    @contextlib.asynccontextmanager
    async def open(self):
        yield self

    async def read(self, names, take):
        for name in names:
            await trio.lowlevel.checkpoint()
            self.told.append(name)
            told = self.at(name)
            take(name, memoryview(self.answer(name) if told is None else told))

    def answer(self, name):
        if name.startswith("growing."):
            return pieces.told(pieces.grown(self.folder))
        if name == pieces.SMALLS:
            return pieces.pack_small(self.folder)
        piece = pieces.parse(name)
        return pieces.pack(self.folder / piece[0], *piece[1:]) if piece else (
            self.folder / name).read_bytes()  # fmt: skip


def same(one, other):
    """Both directories hold the same."""
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (one, other)]
    assert files[0] == files[1]


async def test_an_image_comes_whole(there, here):
    finish(there, stdout=bytes(50))
    way = Way(there)
    await Fetch(here, way.open).run()
    same(there, here)
    assert len([name for name in way.told if "core" in name]) == 0  # small ones come together
    assert way.told[:3] == ["growing.0", "manifest", "small"]


async def test_memory_comes_while_it_is_dumped(there, here):
    (there / "pages-1.img").write_bytes(MEMORY[:250])
    (there / "pages-2.img").write_bytes(b"")
    way, fetch = Way(there), None

    def grow(name):
        if name == "growing.200":
            (there / "pages-1.img").write_bytes(MEMORY[:1000])
        if name == "growing.1000":
            finish(there)

    way.at = grow
    fetch = Fetch(here, way.open)
    await fetch.run()
    same(there, here)
    asked = [name for name in way.told if name.startswith("piece.")]
    assert len(asked) == len(set(asked)) == 21
    assert way.told.index("piece.900.100.pages-1.img") < way.told.index("manifest")


async def test_a_dump_that_began_anew(there, here):
    """What came of the first attempt counts for nothing."""
    (there / "pages-1.img").write_bytes(os.urandom(1000))
    way = Way(there)
    way.at = lambda name: finish(there, **{AGAIN: b""}) if name == "growing.1000" else None
    await Fetch(here, way.open).run()
    same(there, here)


async def test_a_broken_connection_costs_what_was_under_way(there, here, autojump_clock):
    finish(there)
    way, count = Way(there), iter(range(10**6))

    def breaks(name):
        if next(count) % 4 == 3:
            raise CloudError("unreachable", "the connection broke")

    way.at = breaks
    await Fetch(here, way.open).run()
    same(there, here)
    assert len(way.told) < 40


async def test_it_gives_up_in_the_end(there, here, autojump_clock):
    finish(there)
    way = Way(there)

    def breaks(name):
        if name == "small":
            raise CloudError("unreachable", "the connection broke")

    way.at = breaks
    with pytest.raises(CloudError, match="broke"):
        await Fetch(here, way.open).run()
    assert way.told.count("small") == pieces.TRIES


def bomb(size):
    """A small frame that says that it holds so much."""
    return zstandard.ZstdCompressor().compress(bytes(size))


@pytest.mark.parametrize("data", [b"", b"nonsense", bomb(99), bomb(101), bomb(1 << 26)])
async def test_a_piece_that_is_none(there, here, data):
    finish(there)
    way = Way(there)
    way.at = lambda name: data if name.startswith("piece.") else None
    with pytest.raises(CloudError) as caught:
        await Fetch(here, way.open).run()
    assert caught.value.kind == "proto"


async def test_a_damaged_piece(there, here):
    finish(there)
    way, name = Way(there), "piece.500.100.pages-1.img"
    whole = bytearray(way.answer(name))
    whole[50] ^= 1
    way.at = lambda asked: bytes(whole) if asked == name else None
    with pytest.raises(CloudError, match="piece of the image"):
        await Fetch(here, way.open).run()


@pytest.mark.parametrize(
    "text",
    [
        b"made\nmade\n",
        b"../../etc 100\n",
        b"pages-1.img\n",
        b"pages-1.img -100\n",
        b"manifest 100\n",
        b"\xff\n",
    ],
)
async def test_a_list_of_what_grows_that_is_none(there, here, text):
    finish(there)
    way = Way(there)
    way.at = lambda name: text if name.startswith("growing") else None
    with pytest.raises(CloudError) as caught:
        await Fetch(here, way.open).run()
    assert caught.value.kind == "proto"
    assert list(here.iterdir()) == []


async def test_more_than_there_is_space_for(there, here):
    finish(there)
    way = Way(there)
    way.at = lambda name: b"pages-1.img 900000000000000\n" if "growing" in name else None
    with pytest.raises(CloudError) as caught:
        await Fetch(here, way.open).run()
    assert caught.value.kind == "full"


async def test_an_image_that_is_gone(tmp_path):
    with pytest.raises(CloudError) as caught:
        pieces.grown(tmp_path / "nothing")
    assert caught.value.kind == "absent"
