"""The tree of /cloud over the machine's twin, as adapters call it."""

import re

import pytest
import trio
import trio.testing

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import cloud as kernel
from cloudfs.kernel import lifecycle
from cloudfs.kernel.bell import Log
from cloudfs.kernel.machine import Machine
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.records import Records
from cloudfs.node.api import Limits
from cloudfs.node.metrics import Metrics
from cloudfs.node.twin import Twin
from cloudfs.tree.api import DMDIR, OREAD, OWRITE, DirHandle, Wait, Who
from cloudfs.tree.build import build
from cloudfs.tree.space import ErrLog, Space, settle, split
from cloudfs.wire.trace import Trace

ANN, BOB = Who("ann", 1001), Who("bob", 1002)


class Cloud:
    """The tree of ann's node, with a shell's verbs."""

    def __init__(self, path):
        self.twin = Twin()
        self.records = Records(":memory:")
        events = Log(100)
        self.machine = Machine("n1", "paris", "ann", Metrics(path), self.records, events)
        self.objects = Objects(self.twin, self.records, path, "n1", "ann", events=events)
        self.errors = ErrLog(clock=lambda: 0.0)
        self.cloud = kernel.Cloud(self.machine, self.objects)
        self.root = build(
            self.cloud,
            events,
            self.errors,
            Trace(),
            self,
            lambda made: {made.user: "#7"},
        ).root
        self.spaces = {}

    def reach(self, node, path=()):
        raise CloudError("unreachable", f"{node} is far")

    def at(self, who):
        if who not in self.spaces:
            self.spaces[who] = Space(self.root, self.errors)
        return self.spaces[who].attach(who)

    def open(self, path, mode=OREAD, who=ANN):
        at = self.at(who)
        names = [name for name in path.split("/") if name][1:]
        _, ref, error = at.walk_all(at.root(), names)
        if error:
            raise at.note(error, names)
        try:
            return at.open(ref, mode)
        except CloudError as error:
            raise at.note(error, names)

    async def cat(self, path, who=ANN):
        handle, text = self.open(path, OREAD, who), b""
        while data := await settle(handle.read(len(text), 4096)):
            text += data
        await settle(handle.close())
        return text.decode()

    async def echo(self, text, path, who=ANN):
        handle = self.open(path, OWRITE, who)
        try:
            await settle(handle.write(0, text.encode() + b"\n"))
            await settle(handle.close())
        except CloudError as error:
            raise self.at(who).note(error, split(path))

    def ls(self, path, who=ANN):
        handle = self.open(path, OREAD, who)
        assert isinstance(handle, DirHandle)
        # Of a view's directory the objects only.
        own = {"help", "ctl", "progress"} if "progress" in handle.entries.nodes else {"help"}
        return [name for name in handle.entries.nodes if name not in own]

    async def run(self, program, *lines, who=ANN):
        id = (await self.cat("/cloud/proc/clone", who)).strip()
        for line in (*lines, f"exec {program}"):
            await self.echo(line, f"/cloud/proc/{id}/ctl", who)
        return id


@pytest.fixture
async def cloud(autojump_clock, tmp_path, nursery):
    cloud = Cloud(tmp_path)
    await nursery.start(cloud.objects.run)
    return cloud


async def test_the_first_session(autojump_clock, cloud):
    id = await cloud.run("tick 1 3")
    assert id in cloud.ls("/cloud/proc")
    status = ndb.parse(await cloud.cat(f"/cloud/proc/{id}/status"))
    assert list(status) == (
        "id state node user app runtime addr pid started cpu mem exit why".split()
    )
    assert (status["state"], status["node"], status["user"]) == ("running", "n1", "ann")
    assert await cloud.cat(f"/cloud/proc/{id}/wait") == ""
    assert await cloud.cat(f"/cloud/.follow/proc/{id}/stdout") == "0\n1\n2\n"
    end = ndb.parse(await cloud.cat(f"/cloud/.follow/proc/{id}/wait"))
    assert list(end) == "pid code signal user sys real why".split()
    assert (end["code"], end["signal"], end["real"]) == ("0", "", "3")
    assert await cloud.cat(f"/cloud/proc/{id}/args") == "tick 1 3\n"
    assert await cloud.cat(f"/cloud/nodes/n1/proc/{id}/args") == "tick 1 3\n"


async def test_spec_tells_what_was_asked_for(autojump_clock, cloud):
    id = (await cloud.cat("/cloud/proc/clone")).strip()
    spec = f"/cloud/proc/{id}/spec"
    assert set(ndb.parse(await cloud.cat(spec)).values()) == {"", "never", "0"}
    for line in (
        *("runtime sandbox net=none", "restart on-failure", "nice 5", "dir /tmp", "on n1"),
        *("require cpus>=1 'label.rack=a b'", "prefer arch=x86_64 sort=load", "spread cluster"),
        f"after app=db {id}",
        "availability replicas=3",
    ):
        await cloud.echo(line, f"/cloud/proc/{id}/ctl")
    assert ndb.parse(await cloud.cat(spec)) == {
        **{"runtime": "sandbox", "net": "none", "restart": "on-failure", "nice": "5"},
        **{"dir": "/tmp", "on": "n1", "spread": "cluster", "after": f"app=db {id}"},
        **{"require": "cpus>=1 'label.rack=a b'", "prefer": "arch=x86_64 sort=load"},
        "availability": "checkpoint=10 replicas=3 patience=9",
    }
    await cloud.echo("nice 7", f"/cloud/proc/{id}/ctl")
    assert ndb.parse(await cloud.cat(spec))["nice"] == "7"
    assert "spread, require and prefer" in await cloud.cat(f"/cloud/proc/{id}/help")


async def walk(cloud, path="/cloud", depth=0):
    """Every file and directory, read to its end without ever waiting."""
    assert depth < 12
    found = []
    handle = cloud.open(path)
    for name, node in handle.entries.nodes.items():
        here = f"{path}/{name}"
        found.append(here)
        stat = cloud.at(ANN).stat(cloud.at(ANN).find(split(here)))
        assert stat.qid == node.qid
        if node.mode & DMDIR:
            found += await walk(cloud, here, depth + 1)
        elif node.mode & 0o400:
            data = cloud.open(here).read(0, 1 << 16)
            assert not isinstance(data, Wait), here
    return found


async def test_looking_is_safe(autojump_clock, cloud):
    id = await cloud.run("sleep 100", "app web", "label tier=front")
    await cloud.run("true")
    before = set(cloud.objects.all)
    found = await walk(cloud)
    assert f"/cloud/view/by-label/tier=front/{id}/status" in found
    assert set(cloud.objects.all) == before
    assert sorted(await walk(cloud)) == sorted(found)


async def test_every_file_has_a_line_of_help(autojump_clock, cloud):
    await cloud.run("true", "app web")
    for path in await walk(cloud):
        if path.endswith("/help"):
            continue
        text = await cloud.cat(f"{path.rpartition('/')[0]}/help")
        assert len(text) > 20
    lines = (await cloud.cat(f"/cloud/proc/{next(iter(cloud.objects.all))}/help")).splitlines()
    table = [line for line in lines if re.match(r"\w+ +[r-][w-][x-]", line)]
    assert len(table) == 23
    assert all(len(line.split(None, 2)) == 3 for line in table)


@pytest.mark.parametrize(
    ("file", "may"),
    [("status", True), ("args", True), ("stdout", False), ("env", False), ("note", False)],
)
async def test_others_see_that_it_is_there_and_not_what_it_says(autojump_clock, cloud, file, may):
    id = await cloud.run("sleep 9")
    if may:
        assert await cloud.cat(f"/cloud/proc/{id}/{file}", BOB)
    else:
        with pytest.raises(CloudError, match="bob may not read it"):
            await cloud.cat(f"/cloud/proc/{id}/{file}", BOB)


async def test_others_cannot_act_on_it(autojump_clock, cloud):
    id = await cloud.run("sleep 9")
    for file in ("ctl", "stdin", "note"):
        with pytest.raises(CloudError, match="bob may not write it"):
            await cloud.echo("kill", f"/cloud/proc/{id}/{file}", BOB)
    with pytest.raises(CloudError, match="bob may not write it"):
        await cloud.echo("price 0", "/cloud/nodes/n1/ctl", BOB)
    with pytest.raises(CloudError, match="bob may not read it"):
        await cloud.cat("/cloud/.follow/nodes/n1/trace", BOB)
    assert cloud.objects.all[id].state == "running"


async def test_why_is_kept_for_whom_it_concerns(autojump_clock, cloud):
    id = await cloud.run("sleep 9")
    with pytest.raises(CloudError) as caught:
        await cloud.echo("explode", f"/cloud/proc/{id}/ctl")
    assert caught.value.errno == 22
    err = await cloud.cat("/cloud/err")
    assert f"/proc/{id}/ctl: no verb 'explode'; verbs: exec" in err
    assert await cloud.cat("/cloud/err", BOB) == ""
    with pytest.raises(CloudError, match="no object nosuchid"):
        await cloud.cat("/cloud/proc/nosuchid/status", BOB)
    assert "ls /cloud/proc" in await cloud.cat("/cloud/err", BOB)


async def test_each_directory_has_its_own_help(autojump_clock, cloud):
    id = await cloud.run("true", "app 'my app'")
    places = ("nodes", "view", "view/by-app", "view/by-user", "view/by-app/my app", "nodes/n1/proc")
    texts = [await cloud.cat(f"/cloud/{place}/help") for place in places]
    assert len(set(texts)) == len(places)
    assert "Every machine" in texts[0]
    await cloud.echo("bind '/cloud/view/by-app/my app' /cloud/proc", "/cloud/ctl")
    line = (await cloud.cat("/cloud/ns")).strip()
    await cloud.echo("unmount /cloud/proc", "/cloud/ctl")
    await cloud.echo(line, "/cloud/ctl")
    assert cloud.ls("/cloud/proc") == [id]


async def test_the_manual_shows_the_life_of_an_object(autojump_clock, cloud):
    text = await cloud.cat("/cloud/proc/help")
    for (state, event), into in lifecycle.TRANSITIONS.items():
        assert re.search(rf"^  {state} +{event} +{into}$", text, re.M)


async def test_views_and_bind(autojump_clock, cloud):
    web = await cloud.run("sleep 9", "app web")
    other = await cloud.run("sleep 9")
    assert cloud.ls("/cloud/view") == [
        *("by-app", "by-cluster", "by-label", "by-node", "by-state", "by-user")
    ]
    assert cloud.ls("/cloud/view/by-app") == ["web"]
    assert cloud.ls("/cloud/view/by-app/web") == [web]
    assert sorted(cloud.ls("/cloud/view/by-state/running")) == sorted([web, other])
    await cloud.echo("bind /cloud/view/by-app /cloud/proc", "/cloud/ctl")
    assert cloud.ls("/cloud/proc") == ["web"]
    assert (await cloud.cat(f"/cloud/proc/web/{web}/app")) == "web\n"
    assert await cloud.cat("/cloud/ns") == "bind /cloud/view/by-app /cloud/proc\n"
    assert cloud.ls("/cloud/proc", BOB) == ["clone", *cloud.objects.all]
    await cloud.echo("unmount /cloud/proc", "/cloud/ctl")
    assert "clone" in cloud.ls("/cloud/proc")
    with pytest.raises(CloudError, match="no object has app nope"):
        cloud.ls("/cloud/view/by-app/nope")


async def test_one_object_is_one_file_wherever_it_is_seen(autojump_clock, cloud):
    id = await cloud.run("sleep 9", "app web")
    at = cloud.at(ANN)
    qids = {
        at.stat(at.find(split(f"{place}/{id}/status"))).qid
        for place in ("/proc", "/nodes/n1/proc", "/view/by-app/web", "/view/by-user/ann")
    }
    assert len(qids) == 1


async def test_the_node(autojump_clock, cloud):
    await cloud.echo("price 0.5", "/cloud/nodes/n1/ctl")
    await cloud.echo("gpu=a100 rack=4", "/cloud/nodes/n1/labels")
    await cloud.echo("label rack=", "/cloud/nodes/n1/ctl")
    assert await cloud.cat("/cloud/nodes/n1/price") == "0.5\n"
    assert await cloud.cat("/cloud/nodes/n1/labels") == "gpu=a100\n"
    assert cloud.records.get("price", None) == 0.5
    for bad in ("price -1", "price free", "price nan", "label a", "label a=b/c"):
        with pytest.raises(CloudError):
            await cloud.echo(bad, "/cloud/nodes/n1/ctl")
    assert cloud.machine.attributes()["label.gpu"] == "a100"
    assert ndb.parse(await cloud.cat("/cloud/nodes/n1/status"))["cluster"] == "paris"
    for file in ("load", "cpu", "mem", "disk", "net/interfaces", "uptime", "arch", "os", "cpus"):
        assert (await cloud.cat(f"/cloud/nodes/n1/{file}")).endswith("\n")
    id = await cloud.run("sleep 9", "limit cpu=4")
    assert await cloud.cat(f"/cloud/proc/{id}/cost") == "total=0 hour=2\n"


async def test_nobody_raises_what_the_node_lets_its_users_have(autojump_clock, cloud):
    most = "/cloud/nodes/n1/most"
    await cloud.echo("most cpu=2 pids=64 running=1", "/cloud/nodes/n1/ctl")
    assert await cloud.cat(most) == "cpu=2 mem= pids=64 time= running=1\n"
    cloud.objects.most_for = cloud.machine.most_for
    id = await cloud.run("sleep 9", "runtime sandbox", "limit cpu=2", who=BOB)
    assert cloud.objects.all[id].running.limits.pids == 64
    for asked in ("limit cpu=3", "limit pids=65"):
        with pytest.raises(CloudError, match="at most"):
            await cloud.echo(asked, f"/cloud/proc/{id}/ctl", BOB)
    await cloud.echo("limit cpu=none pids=9", f"/cloud/proc/{id}/ctl", BOB)
    assert cloud.objects.all[id].running.limits == Limits(cpu=2, pids=9)
    with pytest.raises(CloudError, match="the most one may have"):
        await cloud.run("sleep 9", "runtime sandbox", who=BOB)
    await cloud.run("sleep 9", "limit cpu=3")  # its owner's
    with pytest.raises(CloudError):
        await cloud.echo("most cpu=99", "/cloud/nodes/n1/ctl", BOB)


async def test_events_are_followed(autojump_clock, cloud):
    seen = []

    async def follow():
        handle = cloud.open("/cloud/.follow/events")
        while data := await settle(handle.read(0, 4096)):
            seen.extend(ndb.parse(line) for line in data.decode().splitlines())
            if seen[-1]["event"] == "ended":
                break

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        id = await cloud.run("exit 3")
    assert [event["event"] for event in seen] == ["exec", "began", "ended"]
    assert seen[-1]["id"] == id
    assert seen[-1]["code"] == "3"


async def test_notes_reach_who_follows_them(autojump_clock, cloud):
    id = await cloud.run("sleep 100")
    handle = cloud.open(f"/cloud/.follow/proc/{id}/note")
    got = []

    async def reader():
        got.append(await settle(handle.read(0, 4096)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        await cloud.echo("save now", f"/cloud/proc/{id}/note")
    assert ndb.parse(got[0].decode())["text"] == "save now"


async def test_an_object_that_went_away_is_gone_from_open_files(autojump_clock, cloud):
    id = await cloud.run("true")
    await trio.sleep(1)
    at = cloud.at(ANN)
    kept = at.find(split(f"/proc/{id}/status"))
    await cloud.echo("wipe", f"/cloud/proc/{id}/ctl")
    with pytest.raises(CloudError):
        await cloud.cat(f"/cloud/proc/{id}/status")
    assert "state=gone" in at.open(kept, OREAD).read(0, 200).decode()


async def test_the_tree_as_an_object_sees_it(autojump_clock, cloud):
    await cloud.echo("bind /cloud/view/by-app /cloud/proc", "/cloud/ctl")
    at = cloud.at(ANN)
    id = cloud.objects.promise(ANN, at.space, at.space.lines())
    cloud.objects.get(id, ANN).app = "web"
    cloud.objects.keep(cloud.objects.all[id])
    inside = f"/cloud/.ns/{id}"
    assert ".ns" not in cloud.ls("/cloud")
    with pytest.raises(CloudError, match="may not read"):
        cloud.ls("/cloud/.ns")
    assert cloud.ls(f"{inside}/proc") == ["web"]
    assert at.stat(at.find(split(f"{inside}/proc/web/{id}/ctl"))).uid == "#7"
    assert await cloud.cat(f"{inside}/ns") == "bind /cloud/view/by-app /cloud/proc\n"
    await cloud.echo("unmount /cloud/proc", f"{inside}/ctl")
    assert "clone" in cloud.ls(f"{inside}/proc")
    assert cloud.ls("/cloud/proc") == ["web"]  # the session's own is as it was
    assert await cloud.cat(f"{inside}/proc/{id}/ns") == ""
    for path in (inside, f"{inside}/proc"):
        with pytest.raises(CloudError, match="bob may not"):
            cloud.ls(path, BOB)
    with pytest.raises(CloudError, match="no object"):
        cloud.ls("/cloud/.ns/nosuchid")


# --- where other nodes offer objects


async def test_place_is_walked_to_and_not_listed(autojump_clock, cloud):
    assert "place" not in cloud.ls("/cloud/nodes/n1/proc")
    with pytest.raises(CloudError, match="no object place"):
        cloud.open("/cloud/proc/place")
    assert "object ID" in await cloud.cat("/cloud/nodes/n1/proc/place")
    id = "a" * 16
    token = "b" * 16
    lines = f"object {id} {token}\nlimit cpu=1\nruntime sandbox\nhold"
    await cloud.echo(lines, "/cloud/nodes/n1/proc/place", BOB)
    assert f"id={id} state=new node=n1 user=bob" in await cloud.cat(f"/cloud/proc/{id}/status")
    with pytest.raises(CloudError, match=r"nodes/n1/proc/place: there is an object a*"):
        await cloud.echo(f"object {id} {token}", "/cloud/nodes/n1/proc/place", BOB)
    with pytest.raises(CloudError, match="is bob's"):
        await cloud.echo(f"withdraw {id} {token}", "/cloud/nodes/n1/proc/place", Who("eve", 1003))
    await cloud.echo(f"withdraw {id} {token}", "/cloud/nodes/n1/proc/place", BOB)
    assert cloud.objects.all == {}


async def test_an_offer_that_is_not_finished_is_nothing(autojump_clock, cloud):
    await cloud.echo(
        f"object {'a' * 16} {'b' * 16}\nlimit cpu=1", "/cloud/nodes/n1/proc/place", BOB
    )
    assert cloud.objects.all == {}
    with pytest.raises(CloudError, match="no object yet"):
        await cloud.echo("hold", "/cloud/nodes/n1/proc/place", BOB)


async def test_drain_and_undrain(autojump_clock, cloud):
    ctl, status = "/cloud/nodes/n1/ctl", "/cloud/nodes/n1/status"
    with pytest.raises(CloudError):
        await cloud.echo("drain", ctl, BOB)
    await cloud.echo("drain", ctl)
    told = ndb.parse(await cloud.cat(status))
    assert (told["state"], told["why"]) == ("drained", "by ann")
    await cloud.echo("undrain", ctl)
    told = ndb.parse(await cloud.cat(status))
    assert (told["state"], told["why"]) == ("alive", "")
    with pytest.raises(CloudError, match="at most 200"):
        await cloud.echo("drain " + "x" * 201, ctl)
