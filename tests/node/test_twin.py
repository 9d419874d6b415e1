"""The machine in memory keeps the promises of the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from cloudfs.errors import CloudError
from cloudfs.node.api import Image, Launch, Limits
from cloudfs.node.twin import Twin
from cloudfs.wait import settle


def launch(home: Path, *argv: str, **more: object) -> Launch:
    return Launch("a", home / "a", argv, {}, "", "process", **more)  # type: ignore[arg-type]


async def test_programs_end_as_they_should(tmp_path, autojump_clock):
    twin = Twin()
    for argv, code in ((["true"], 0), (["false"], 1), (["exit", "7"], 7), (["sleep", "5"], 0)):
        running = await twin.start(launch(tmp_path, *argv))
        assert (await running.ended()).code == code
    assert trio.current_time() >= 5


async def test_output_and_stdin(tmp_path, autojump_clock):
    twin = Twin()
    running = await twin.start(launch(tmp_path, "cat"))
    sent = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(twin.grown, tmp_path / "a/stdout", 0)
        sent += await settle(running.write_stdin(b"x" * 100000))
        sent += await settle(running.write_stdin(b"y" * 100000))
    running.close_stdin()
    assert (await running.ended()).code == 0
    assert len((tmp_path / "a/stdout").read_bytes()) == sent
    with pytest.raises(CloudError):
        running.write_stdin(b"z")


async def test_kill_signal_and_time_limit(tmp_path, autojump_clock):
    twin = Twin()
    running = await twin.start(launch(tmp_path, "sleep", "60"))
    running.kill("enough")
    end = await running.ended()
    assert (end.code, end.signal, end.why) == (None, 9, "enough")
    running = await twin.start(launch(tmp_path, "sleep", "60"))
    running.signal(15)
    assert (await running.ended()).signal == 15
    running = await twin.start(launch(tmp_path, "sleep", "60", limits=Limits(time=2)))
    end = await running.ended()
    assert (end.why, end.real) == ("time limit", pytest.approx(2))


async def test_frozen_time_does_not_count(tmp_path, autojump_clock):
    twin = Twin()
    running = await twin.start(launch(tmp_path, "sleep", "5"))
    await trio.sleep(2)
    running.freeze()
    await trio.sleep(100)
    running.thaw()
    assert (await running.ended()).real == pytest.approx(105)


async def test_a_rest_that_the_clock_cannot_tell_is_none(tmp_path, autojump_clock):
    autojump_clock.jump(1024.0584 - trio.current_time())
    twin = Twin()
    with trio.fail_after(1):
        for _ in range(5):
            running = await twin.start(launch(tmp_path, "sleep", "0.1"))
            await running.ended()


async def test_it_adopts_and_discards(tmp_path, autojump_clock):
    twin = Twin()
    assert twin.adopt("a", tmp_path / "a") is None
    running = await twin.start(launch(tmp_path, "sleep", "5"))
    assert twin.adopt("a", tmp_path / "a") is running
    for act in (lambda: twin.discard("a", tmp_path / "a"),):
        with pytest.raises(CloudError):
            act()
    end = await running.ended()
    assert twin.adopt("a", tmp_path / "a") == end
    twin.discard("a", tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []


async def test_old_output_is_forgotten(tmp_path, autojump_clock):
    twin = Twin()
    await (await twin.start(launch(tmp_path, "zero", "1000", stdio_limit=300))).ended()
    assert twin.dropped(tmp_path / "a", "stdout") == 700
    assert twin.dropped(tmp_path / "a", "stderr") == 0


@pytest.mark.parametrize(("argv", "kind"), [([], "bad"), (["nosuch"], "absent")])
async def test_bad_starts_are_refused(tmp_path, argv, kind):
    with pytest.raises(CloudError) as caught:
        await Twin().start(launch(tmp_path, *argv))
    assert caught.value.kind == kind
    assert not (tmp_path / "a").exists()


async def test_what_was_dumped_goes_on_elsewhere(tmp_path, autojump_clock):
    one, two = Twin(), Twin()
    running = await one.start(launch(tmp_path, "tick", "0.1", "30"))
    await trio.sleep(1.05)
    images = tmp_path / "images"
    images.mkdir()
    await running.dump(images)
    before = (tmp_path / "a/stdout").read_bytes()
    await trio.sleep(5)
    assert (tmp_path / "a/stdout").read_bytes() == before  # frozen
    running.kill("moved")
    assert (await running.ended()).signal == 9
    again = await two.restore(launch(tmp_path, "x"), Image(images, 100.0))
    assert (await again.ended()).code == 0
    assert (tmp_path / "a/stdout").read_text().split() == [str(n) for n in range(30)]
    assert again.usage().mem_seconds > 100 * again.usage().mem_peak
    (images / "twin.json").write_text("[")
    with pytest.raises(CloudError, match="cannot be restored"):
        await two.restore(launch(tmp_path, "x"), Image(images, 0.0))
