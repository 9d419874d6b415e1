"""Objects over the machine's in-memory twin."""

import itertools

import pytest
import trio
import trio.testing

from cloudfs.config import Bounds
from cloudfs.errors import CloudError
from cloudfs.kernel import verbs
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.records import Records
from cloudfs.node.twin import Twin
from cloudfs.wait import settle
from cloudfs.who import Who

ANN = Who("ann", 1001)
BOB = Who("bob", 1002)
BOSS = Who("root", 0, boss=True)


class Node:
    """Objects of ann's node, that can go down and come up again over the same twin."""

    def __init__(self, path, nursery, **more):
        self.path, self.nursery, self.more = path, nursery, more
        self.twin = Twin()

    async def up(self):
        self.records = Records(self.path / "db")
        self.objects = Objects(self.twin, self.records, self.path, "n1", "ann", **self.more)
        self.scope = await self.nursery.start(self._run)
        return self.objects

    async def _run(self, task_status):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.objects.run)
                task_status.started(scope)

    async def down(self):
        self.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        self.records.close()


@pytest.fixture
async def node(autojump_clock, tmp_path, nursery):
    node = Node(tmp_path, nursery)
    await node.up()
    return node


def new(objects, who=ANN, session=None):
    return objects.get(objects.promise(who, session, []), who)


async def tell(objects, made, *lines, who=ANN):
    for line in lines:
        await settle(verbs.act(objects, made, line, who))


async def begin(objects, program, *lines, who=ANN):
    made = new(objects, who)
    await tell(objects, made, *lines, f"exec {program}", who=who)
    return made


# --- coming to be


async def test_reading_clone_makes_nothing_until_its_owner_walks_there(autojump_clock, node):
    id = node.objects.promise(ANN, None, [])
    assert len(id) == 16
    assert node.objects.all == {}
    with pytest.raises(CloudError, match="no object"):
        node.objects.get(id, BOB)
    made = node.objects.get(id, ANN)
    assert (made.state, made.user) == ("new", "ann")
    assert node.objects.get(id, BOB) is made


async def test_what_is_never_used_goes_after_a_minute(autojump_clock, node):
    promised = node.objects.promise(ANN, None, [])
    made = new(node.objects)
    used = await begin(node.objects, "sleep 500")
    await trio.sleep(59)
    assert made.id in node.objects.all
    await trio.sleep(2)
    assert set(node.objects.all) == {used.id}
    node.objects.promise(ANN, None, [])
    with pytest.raises(CloudError):
        node.objects.get(promised, ANN)


async def test_what_a_session_never_used_goes_with_it(autojump_clock, node):
    session, other = object(), object()
    mine, theirs = new(node.objects, session=session), new(node.objects, session=other)
    promised = node.objects.promise(ANN, session, [])
    running = new(node.objects, session=session)
    await tell(node.objects, running, "exec sleep 9")
    node.objects.session_closed(session)
    assert set(node.objects.all) == {theirs.id, running.id}
    assert mine.state == "gone"
    with pytest.raises(CloudError):
        node.objects.get(promised, ANN)


async def test_one_user_cannot_fill_the_node(autojump_clock, tmp_path, nursery):
    node = Node(tmp_path, nursery, bounds=Bounds(objects=4, fresh=3))
    objects = await node.up()
    for _ in range(3):
        new(objects)
    with pytest.raises(CloudError, match="3 new objects") as caught:
        new(objects)
    assert "wait 60 s" in caught.value.fix
    new(objects, BOB)
    await trio.sleep(61)
    assert objects.promises.fresh == {}
    for _ in range(4):
        await begin(objects, "true")
    assert objects.promises.fresh == {}
    with pytest.raises(CloudError, match="has 4 objects") as caught:
        new(objects)
    assert "wipe" in caught.value.fix


# --- verbs


@pytest.mark.parametrize(
    ("line", "said", "fix"),
    [
        ("explode", "no verb 'explode'", "verbs: exec"),
        ("exec", "exec: takes not 0 arguments", "write: exec CMD"),
        ("dir a b", "2 arguments", "dir PATH"),
        ("dir tmp", "not an absolute path", "begin it with /"),
        ("exec 'true", "no closing quote", "add a '"),
        ("limit cpu=-1", "a number above 0", ""),
        ("limit mem=lots", "a number above 0", ""),
        ("limit pids=1.5", "a whole number", ""),
        ("limit mem=\u0661\u0662", "a number above 0", ""),
        ("limit cpu=1_0", "a number above 0", ""),
        ("limit time=nan", "a number above 0", ""),
        ("limit disk=1", "no limit 'disk'", "limits: cpu"),
        ("limit cpu", "'cpu' is no", "write it as"),
        ("env A", "'A' is no NAME=VALUE", "write it as"),
        ("label =x", "is no NAME=VALUE", ""),
        ("label a=b/c", "cannot be a name", ""),
        ("app ../x", "cannot be a name", ""),
        (f"app {chr(0x10000) * 31}", "cannot be a name", ""),  # 124 bytes
        (f"label a={chr(0x10000) * 31}", "cannot be a name", ""),
        ("runtime docker", "no runtime 'docker'", "runtimes: process sandbox"),
        ("runtime process net=none", "net=none", "sandbox takes"),
        ("restart sometimes", "restart", "never|on-failure|always"),
        ("on paris-7", "no node 'paris-7'", "ls /cloud/nodes"),
        ("require mem.free", "is no expression", "write it as"),
        ("nice 20", "nice", "-20 to 19"),
        ("nice -5", "node's owner", ""),
        ("stop", "stop: object .* is new", "it works while running"),
        ("signal TERM", "is new", "running or stopped"),
        ("app help", "cannot be a name", ""),
        ("exec nosuchprogram", "no program nosuchprogram", ""),
        ("close stdout", "is new", ""),
    ],
)
async def test_bad_lines_do_nothing_and_say_what_to_type(autojump_clock, node, line, said, fix):
    made = new(node.objects)
    before = made.to_record()
    with pytest.raises(CloudError, match=said) as caught:
        await tell(node.objects, made, line)
    assert fix in caught.value.fix
    after = made.to_record()
    for changing in ("changed", "runtime", "why"):
        before.pop(changing), after.pop(changing)
    assert after == before


async def test_a_directory_that_is_not_there(autojump_clock, node):
    made = new(node.objects)
    with pytest.raises(CloudError, match="no directory /nowhere"):
        await tell(node.objects, made, "dir /nowhere", "exec true")
    assert made.state == "new"
    await tell(node.objects, made, "dir /", "exec true")


async def test_what_is_set_up_is_what_runs(autojump_clock, node):
    made = await begin(
        node.objects,
        "echo 'a b' c",
        "env A=1 'B=x y'",
        "app web",
        "label tier=front zone=a",
        "label zone=",
        "limit mem=1e6 time=50",
        "nice 5",
    )
    await made.bell.wait()
    assert made.state == "exited"
    launch = node.twin.played[made.id].launch
    assert launch.argv == ["echo", "a b", "c"]
    assert launch.env["A"] == "1"
    assert launch.env["B"] == "x y"
    assert launch.env["CLOUDFS_ID"] == made.id
    assert (launch.limits.mem, launch.limits.time, launch.nice) == (1000000, 50, 5)
    assert made.labels == {"tier": "front"}
    assert made.exit.code == 0


async def test_require_is_checked_where_it_would_run(autojump_clock, tmp_path, nursery):
    node = Node(tmp_path, nursery, attributes=lambda: {"cpus": 2, "label.gpu": "a100"})
    objects = await node.up()
    with pytest.raises(CloudError, match=r"cpus>=4 \(it has 2\)"):
        await begin(objects, "true", "require cpus>=4 label.gpu=a100")
    await begin(objects, "true", "require cpus>=2 label.gpu=a100", "prefer sort=load", "on n1")


async def test_stop_start_kill(autojump_clock, node):
    made = await begin(node.objects, "tick 1 1000")
    await trio.sleep(2.5)
    await tell(node.objects, made, "stop")
    size = (made.home / "stdout").stat().st_size
    await trio.sleep(50)
    assert (made.state, (made.home / "stdout").stat().st_size) == ("stopped", size)
    await tell(node.objects, made, "start")
    await trio.sleep(5)
    assert (made.home / "stdout").stat().st_size > size
    await tell(node.objects, made, "kill")
    assert (made.state, made.exit.signal, made.why) == ("exited", 9, "killed by ann")
    with pytest.raises(CloudError, match="has no processes"):
        await tell(node.objects, made, "kill")


async def test_limits_may_change_while_it_runs(autojump_clock, node):
    made = await begin(node.objects, "sleep 1000")
    await tell(node.objects, made, "limit time=20")
    await trio.sleep(21)
    assert (made.state, made.why) == ("exited", "time limit")


async def test_limits_that_the_node_cannot_give(autojump_clock, node):
    node.twin.word = "no control groups; run it as root"
    made = new(node.objects)
    with pytest.raises(CloudError, match="no control groups"):
        await tell(node.objects, made, "limit mem=1e6")
    await tell(node.objects, made, "limit time=5")


async def test_notes_and_signals(autojump_clock, node):
    made = await begin(node.objects, "sleep 1000")
    await tell(node.objects, made, "note checkpoint soon")
    assert "'checkpoint soon'" in made.notes.since(0)[0]
    assert made.state == "running"
    await tell(node.objects, made, "note hangup")
    await made.bell.wait()
    assert made.exit.signal == 1
    made = await begin(node.objects, "sleep 1000")
    for bad in ("signal FOO", "signal 999"):
        with pytest.raises(CloudError, match="no signal"):
            await tell(node.objects, made, bad)
    await tell(node.objects, made, "signal term")
    await made.bell.wait()
    assert made.exit.signal == 15


@pytest.mark.parametrize("word", ["WINK", "99", "-1", "9" * 5000, "\u0669"])
async def test_a_signal_that_is_none(autojump_clock, node, word):
    made = await begin(node.objects, "sleep 100")
    with pytest.raises(CloudError, match="no signal") as caught:
        await tell(node.objects, made, f"signal {word}")
    assert caught.value.kind == "bad"
    assert made.state == "running"


async def test_stdin(autojump_clock, node):
    made = await begin(node.objects, "cat")
    assert made.running.write_stdin(b"hello") == 5
    await tell(node.objects, made, "close stdin")
    await made.bell.wait()
    assert (made.home / "stdout").read_bytes() == b"hello"


async def test_process_is_for_the_nodes_owner_only(autojump_clock, node):
    with pytest.raises(CloudError, match="node's owner ann, not for bob"):
        await begin(node.objects, "true", who=BOB)
    made = await begin(node.objects, "true", "runtime sandbox", who=BOB)
    assert made.runtime == "sandbox"


async def test_wipe_removes_what_has_ended_and_only_that(autojump_clock, node):
    made = await begin(node.objects, "sleep 5")
    with pytest.raises(CloudError, match="is running"):
        await tell(node.objects, made, "wipe")
    await trio.sleep(6)
    await tell(node.objects, made, "wipe")
    assert node.objects.all == {}
    assert not made.home.exists()
    assert list(node.records.all()) == []


# --- views


async def test_views_follow_every_change(autojump_clock, node):
    index = node.objects.index
    made = new(node.objects)
    await tell(node.objects, made, "app web", "label tier=front", "exec sleep 5")
    assert list(index["app"]) == ["web"]
    assert list(index["label"]) == ["tier=front"]
    assert list(index["state"]) == ["running"]
    assert index["user"]["ann"] == {made.id: made}
    await tell(node.objects, made, "app db", "label tier=")
    assert (list(index["app"]), list(index["label"])) == (["db"], [])
    await trio.sleep(6)
    assert list(index["state"]) == ["exited"]
    await tell(node.objects, made, "wipe")
    assert all(not groups for groups in index.values())


# --- restarts


async def test_restart_on_failure_with_pauses(autojump_clock, node):
    made = await begin(node.objects, "exit 3", "restart on-failure")
    await trio.sleep(8)
    starts = made.events.since(0)[0].count("event=began")
    assert starts == 4  # at 0, 1, 3 and 7 seconds
    assert made.why == "starts again in 8 s"
    await tell(node.objects, made, "kill")
    await trio.sleep(100)
    assert made.events.since(0)[0].count("event=began") == starts
    assert (made.state, made.why) == ("exited", "killed by ann")


async def test_a_policy_taken_back_before_the_restart(autojump_clock, node):
    made = await begin(node.objects, "exit 3", "restart always")
    await trio.sleep(0.5)
    await tell(node.objects, made, "restart never")
    await trio.sleep(10)
    assert (made.state, made.why) == ("exited", "")


@pytest.mark.parametrize("line", ["kill", "note kill"])
async def test_what_was_killed_is_not_started_by_the_next_daemon(autojump_clock, node, line):
    made = await begin(node.objects, "sleep 100", "restart always")
    await tell(node.objects, made, line)
    await trio.sleep(1)
    ended = await begin(node.objects, "exit 3", "restart always")
    await trio.sleep(0.5)
    await tell(node.objects, ended, "kill")
    await node.down()
    objects = await node.up()
    await trio.sleep(100)
    assert {objects.all[id].state for id in (made.id, ended.id)} == {"exited"}


@pytest.mark.parametrize("program", ["sleep 100", "true", "nosuch"])
async def test_kill_reaches_one_that_is_starting(autojump_clock, node, program):
    made = new(node.objects)
    await tell(node.objects, made, "restart always")
    start = verbs.act(node.objects, made, f"exec {program}", ANN)
    assert made.state == "starting"
    await tell(node.objects, made, "kill")
    if program != "nosuch":
        await start.run()
    await trio.sleep(100)
    assert made.state == ("gone" if program == "nosuch" else "exited")
    assert made.events.since(0)[0].count("event=began") == (program != "nosuch")


async def test_restart_always_until_killed(autojump_clock, node):
    made = await begin(node.objects, "sleep 100", "restart always")
    await trio.sleep(305)
    assert made.events.since(0)[0].count("event=began") == 4
    await tell(node.objects, made, "kill")
    await trio.sleep(300)
    assert made.state == "exited"


async def test_output_goes_on_over_a_restart_by_hand(autojump_clock, node):
    made = await begin(node.objects, "echo again")
    await trio.sleep(1)
    await tell(node.objects, made, "start")
    await trio.sleep(1)
    assert (made.home / "stdout").read_bytes() == b"again\nagain\n"


# --- the daemon's own life


async def test_objects_outlive_the_daemon(autojump_clock, node):
    running = await begin(node.objects, "tick 1 100", "app web", "label a=b")
    stopped = await begin(node.objects, "sleep 5")
    await tell(node.objects, stopped, "stop")
    short = await begin(node.objects, "exit 7")
    fresh = new(node.objects)
    ended = await begin(node.objects, "true")
    await trio.sleep(1)
    late = await begin(node.objects, "exit 9")
    await node.down()
    await trio.sleep(10)  # late ends while nobody looks
    objects = await node.up()
    await trio.testing.wait_all_tasks_blocked()
    assert fresh.id not in objects.all
    states = {id: made.state for id, made in objects.all.items()}
    assert states == {
        running.id: "running",
        stopped.id: "stopped",
        short.id: "exited",
        ended.id: "exited",
        late.id: "exited",
    }
    assert objects.all[short.id].exit.code == 7
    assert objects.all[late.id].exit.code == 9
    again = objects.all[running.id]
    assert (again.app, again.labels, again.argv) == ("web", {"a": "b"}, ["tick", "1", "100"])
    assert list(objects.index["app"]) == ["web"]
    await trio.sleep(100)
    assert again.exit.code == 0
    assert (again.home / "stdout").read_bytes() == b"".join(b"%d\n" % n for n in range(100))


async def test_what_nothing_is_known_of_is_lost_and_comes_back_if_it_should(autojump_clock, node):
    gone = await begin(node.objects, "sleep 1000")
    again = await begin(node.objects, "sleep 1000", "restart always")
    await node.down()
    node.twin.played.clear()
    objects = await node.up()
    await trio.testing.wait_all_tasks_blocked()
    assert objects.all[gone.id].state == "lost"
    assert "restarted" in objects.all[gone.id].why
    assert objects.all[again.id].state == "running"
    await tell(objects, objects.all[gone.id], "start")
    assert objects.all[gone.id].state == "running"


async def test_leftovers_without_a_record_are_swept(autojump_clock, node, tmp_path):
    left = tmp_path / "objects" / "aaaaaaaaaaaaaaaa"
    await node.down()
    left.mkdir()
    (left / "stdout").write_text("x")
    await node.up()
    assert not left.exists()


async def test_any_number_may_wait_for_the_end(autojump_clock, node):
    made = await begin(node.objects, "sleep 30")
    ended = []

    async def waiter(number):
        await node.objects.until_end(made)
        ended.append(number)

    async with trio.open_nursery() as waiters:
        for number in range(5):
            waiters.start_soon(waiter, number)
    assert sorted(ended) == list(range(5))


async def test_ids_are_random_and_well_formed(autojump_clock, node):
    ids = {node.objects.promise(ANN, None, []) for _ in range(200)}
    assert len(ids) == 200
    assert set(itertools.chain(*ids)) <= set("abcdefghijklmnopqrstuvwxyz234567")


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("exec sh -c date; sleep 600", ["sh", "-c", "date; sleep 600"]),
        ("exec /bin/bash -c echo a  b", ["/bin/bash", "-c", "echo a b"]),
        ("exec sh -c 'echo $1' x y", ["sh", "-c", "echo $1", "x", "y"]),
        ("exec 'sh' -c date x", ["sh", "-c", "date", "x"]),
        ("exec sh -c date", ["sh", "-c", "date"]),
        ("exec echo -c a b", ["echo", "-c", "a", "b"]),
    ],
)
async def test_what_a_shell_took_the_quotes_from(autojump_clock, node, line, argv):
    for shell in ("sh", "bash"):
        node.twin.programs[shell] = node.twin.programs["true"]
    made = new(node.objects)
    await tell(node.objects, made, line)
    assert made.argv == argv


async def test_a_change_does_not_shorten_the_pause_before_a_restart(autojump_clock, node):
    made = await begin(node.objects, "exit 3", "restart on-failure")
    await trio.sleep(3.5)  # started at 0, 1 and 3; the next one comes at 7
    await tell(node.objects, made, "label a=b")
    await trio.sleep(1)
    assert made.events.since(0)[0].count("event=began") == 3


async def test_a_start_that_breaks_is_told_and_leaves_the_object_as_it_was(autojump_clock, node):
    async def start(launch):
        raise OSError(28, "No space left on device")

    node.twin.start = start
    made = new(node.objects)
    with pytest.raises(CloudError, match="No space left"):
        await tell(node.objects, made, "exec true")
    assert made.state == "new"
