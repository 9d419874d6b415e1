"""Shares of a user's key: held by some nodes, dealt anew when those are lost, never in one place."""

from dataclasses import replace

import pytest
import trio

from cloudfs import ndb
from cloudfs.cli.secstore import told
from cloudfs.errors import CloudError
from cloudfs.factotum import accounts, dealings, oprf, ristretto, sealed, shares
from cloudfs.factotum.dealings import Dealing, Notes
from cloudfs.kernel import holder, redealing
from cloudfs.kernel.holder import to_confirm
from cloudfs.kernel.redealing import Plan
from tests.factotum.people import TRUST, key
from tests.factotum.test_authority import PARIS
from tests.kernel.town import Town

LOOK, LOST, PROMISE = 5.0, 30.0, 15.0  # seconds, a tenth of what they are, to be done sooner
MENDED = 15 + LOST + 4 * LOOK  # seconds after which a lost holder has been replaced
PASSWORD = b"sesame"
CODE = sealed.new_code()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sealed, "MEMORY", 64)
    for name, seconds in (("LOOK", LOOK), ("LOST", LOST), ("PROMISE", PROMISE)):
        monkeypatch.setattr(redealing, name, seconds)
    monkeypatch.setattr(holder, "LATE", 10.0)


@pytest.fixture
async def town(autojump_clock, tmp_path, nursery):
    made = Town(tmp_path, nursery)
    made.trust = TRUST
    return made


async def enroll(node, name="ana", secret=None):
    """Make a user by the files of a node; the value that hardens the password to."""
    secret = secret or key(1)
    first, _, rest = (await node.store.choose(name)).partition("\n")
    good, bad = told(rest)
    assert not bad
    holders = tuple(good)
    keys = tuple(bytes.fromhex(ndb.parse(good[h][0])["key"]) for h in holders)
    number = ristretto.scalar()
    dealt = shares.deal(number, int(ndb.parse(first)["need"]), range(1, len(holders) + 1))
    made = Dealing(name, 1, len(dealt.commitments), holders, keys, dealt.commitments)
    blob = sealed.seal(b"key x\n", name, bytes(64), CODE, secret)
    more = Notes(made.digest, made.public, blob.digest).text()
    record = accounts.make_user(PARIS, name, secret, more)
    lines = [record.text(), made.text(), blob.text()]
    lines += [f"holder={h} share={dealt.shares[n]:x}\n" for n, h in enumerate(holders, 1)]
    good, bad = told(await node.store.give("".join(lines)))
    assert not bad
    node.people.take(record.text())
    node.people.take(made.text())
    asked = oprf.blind(PASSWORD)
    return oprf.finish(asked, ristretto.times(number, asked.point))


async def hardened(node, name="ana"):
    """The password, hardened through a node; each answer is proved."""
    asked = oprf.blind(PASSWORD)
    good, bad = told(await node.store.harden(name, f"point={asked.point.hex()}"))
    answers, need = {}, 99
    for at, lines in good.items():
        pairs, made = ndb.parse(lines[0]), dealings.parse(lines[1])
        if made.digest != node.people.dealing(name).digest:
            continue
        answer = bytes.fromhex(pairs["answer"])
        point = made.point_of(made.share_of(at))
        oprf.check(point, asked.point, answer, bytes.fromhex(pairs["proof"]))
        answers[made.share_of(at)] = answer
        need = made.need
    if len(answers) < need:
        raise CloudError("unreachable", f"{len(answers)} of {need}: {sorted(bad)}")
    sign = key(1).sign(to_confirm(name, asked.point)).hex()
    await node.store.harden(name, f"right={asked.point.hex()} sign={sign}")  # it is no guess
    return oprf.finish(asked, oprf.combine(dict(sorted(answers.items())[:need])))


def tips(nodes, name="ana"):
    return {node.people.dealing(name).digest for node in nodes}


def living(town):
    return [node for node in town.nodes.values() if node.up]


async def kill(town, *names):
    for name in names:
        town.nodes[name].scope.cancel()
    await trio.sleep(1)


async def test_who_holds_is_spread_over_clusters_and_any_node_asks_them(town, autojump_clock):
    paris = await town.add("p1", "p2", "p3", "p4", "p5", cluster="paris")
    tokyo = await town.add("t1", "t2", "t3", cluster="tokyo")
    await town.until(lambda: all(n.cloud.ask is not None for n in [*paris, *tokyo]), 60)
    wanted = await enroll(tokyo[1])
    await trio.sleep(2)
    made = paris[0].people.dealing("ana")
    assert (made.need, len(made.holders)) == (3, 5)
    assert 2 <= sum(node.startswith("t") for node in made.holders) <= 3
    for node in (*paris, *tokyo):
        assert await hardened(node) == wanted
    await kill(town, *made.holders[:2])
    node = living(town)[0]
    assert await hardened(node) == wanted
    await kill(town, made.holders[2])
    with pytest.raises(CloudError, match="2 of 3"):
        await hardened(living(town)[0])


async def test_a_lost_holder_is_replaced_and_what_it_had_is_worthless(town, autojump_clock):
    nodes = await town.add(*(f"n{n}" for n in range(1, 8)))
    await town.settle()
    wanted = await enroll(nodes[0])
    await trio.sleep(2)
    first = nodes[0].people.dealing("ana")
    lost = town.nodes[first.holders[1]]
    old = lost.holder.share("ana")
    await kill(town, lost.name)
    await trio.sleep(LOST / 2)
    assert tips(living(town)) == {first.digest}  # it may yet come back
    await trio.sleep(MENDED - LOST / 2)
    (tip,) = tips(living(town))
    second = living(town)[0].people.dealing("ana")
    assert (tip, second.number, second.public) == (second.digest, 2, first.public)
    assert lost.name not in second.holders
    assert set(first.holders) - {lost.name} < set(second.holders)
    for node in living(town):
        assert await hardened(node) == wanted
    held = {n.name: n.holder for n in living(town) if "ana" in n.holder.shares}
    assert set(held) == set(second.holders)
    assert all(one.records.sealed_of("ana") for one in held.values())
    await trio.sleep(2 * LOOK)
    assert all(list(one.shares["ana"]) == [tip] for one in held.values())
    some = {held[n].share("ana").number: held[n].share("ana").value for n in second.holders[:2]}
    mixed = {**some, old.number + 90: old.value}
    assert ristretto.base(shares.restore(mixed)) != second.public
    assert "event=dealt" in await living(town)[0].cat("/cloud/events")


async def test_who_comes_back_forgets_its_share(town, autojump_clock):
    nodes = await town.add(*(f"n{n}" for n in range(1, 8)))
    await town.settle()
    wanted = await enroll(nodes[0])
    await trio.sleep(2)
    first = nodes[0].people.dealing("ana")
    lost = first.holders[2]
    others = [node.name for node in nodes if node.name != lost]
    town.partition([town.nodes[lost]], [town.nodes[name] for name in others])
    await trio.sleep(MENDED + 60)
    assert town.nodes[lost].people.dealing("ana").number == 1
    town.heal()
    await town.until(lambda: tips(nodes) == tips([nodes[0]]) != {first.digest}, 120)
    await town.until(lambda: "ana" not in town.nodes[lost].holder.shares, 4 * LOOK + 120)
    assert await hardened(town.nodes[lost]) == wanted


async def test_the_cloud_grows(town, autojump_clock):
    one = await town.add("n1")
    wanted = await enroll(one)
    assert (one.people.dealing("ana").need, one.people.dealing("ana").holders) == (1, ("n1",))
    await town.add("n2", "n3")
    await town.settle()
    await town.until(lambda: one.people.dealing("ana").need == 2, 4 * LOOK)
    await town.add("n4", "n5")
    await town.settle()
    await town.until(lambda: one.people.dealing("ana").need == 3, 4 * LOOK)
    made = one.people.dealing("ana")
    assert (made.number, len(made.holders)) == (3, 5)
    await trio.sleep(5)
    for node in living(town):
        assert await hardened(node) == wanted
    await kill(town, "n1", "n3")
    assert await hardened(town.nodes["n5"]) == wanted


async def test_losses_one_after_another_down_to_three(town, autojump_clock):
    nodes = await town.add(*(f"n{n}" for n in range(1, 6)))
    await town.settle()
    wanted = await enroll(nodes[0])
    await trio.sleep(2)
    for name in ("n2", "n4"):
        await kill(town, name)
        await trio.sleep(MENDED)
        for node in living(town):
            assert await hardened(node) == wanted
    made = nodes[0].people.dealing("ana")
    assert (made.need, len(made.holders)) == (2, 3)  # of five, three left are all there are
    await kill(town, "n1")
    assert await hardened(nodes[2]) == wanted


async def test_of_a_partition_one_side_deals_and_all_agree_after(town, autojump_clock):
    nodes = await town.add(*(f"n{n}" for n in range(1, 10)))
    await town.settle()
    wanted = await enroll(nodes[0])
    await trio.sleep(2)
    first = nodes[0].people.dealing("ana")
    spare = [node.name for node in nodes if node.name not in first.holders]
    many, few = [*first.holders[:3], *spare[:2]], [*first.holders[3:], *spare[2:]]
    town.partition([town.nodes[name] for name in many], [town.nodes[name] for name in few])
    await trio.sleep(MENDED + 60)
    assert {town.nodes[name].people.dealing("ana").number for name in few} == {1}
    assert {town.nodes[name].people.dealing("ana").number for name in many} == {2}
    with pytest.raises(CloudError, match="2 of 3"):
        await hardened(town.nodes[few[0]])
    assert await hardened(town.nodes[many[0]]) == wanted
    town.heal()
    await town.until(lambda: len(tips(nodes)) == 1, 180)
    for node in nodes:
        assert await hardened(node) == wanted


@pytest.mark.parametrize("step", [1, 5, 9, 13, 17, 21, 24])
async def test_whatever_step_fails_the_next_look_mends_it(town, autojump_clock, step):
    nodes = await town.add(*(f"n{n}" for n in range(1, 7)))
    await town.settle()
    wanted = await enroll(nodes[0])
    await trio.sleep(2)
    first = nodes[0].people.dealing("ana")
    await kill(town, first.holders[0])
    town.asked.clear()
    town.fails_at = step
    await town.until(lambda: tips(living(town)) != {first.digest}, MENDED + 8 * LOOK)
    await trio.sleep(5)
    assert len(tips(living(town))) == 1
    assert len(town.asked) >= step
    town.fails_at = 0
    for node in living(town):
        assert await hardened(node) == wanted


async def test_who_is_no_holder_moves_no_share_and_a_holder_only_where_all_would(
    town, autojump_clock
):
    nodes = await town.add(*(f"n{n}" for n in range(1, 8)))
    await town.settle()
    await enroll(nodes[0])
    await trio.sleep(2)
    last = nodes[0].people.dealing("ana")
    stranger = next(node for node in nodes if node.name not in last.holders)
    liar, honest = (town.nodes[name] for name in last.holders[:2])
    keys = {node.name: node.holder.public.hex() for node in nodes}

    def plan(*holders):
        text = tuple(keys[name] for name in holders)
        return Plan("ana", last.digest, 3, holders, text, (1, 2, 3))

    swapped = plan(*last.holders[:4], stranger.name)
    for verb in ("deal", "part", "join", "sign"):
        for by in ("", "by=1", "by=1 sign=00", "by=99 sign=" + "00" * 64, "by=x sign=y"):
            with pytest.raises(CloudError) as caught:
                await stranger.store.ask(honest.name, f"{verb} {by}\n{swapped.text()}\n")
            assert caught.value.kind in ("denied", "bad")
    with pytest.raises(CloudError, match="not gone"):
        await liar.redealing._ask(last, honest.name, "deal", f"{swapped.text()}\n")
    await kill(town, last.holders[4])
    await trio.sleep(LOST / 2 + 3 * LOOK)
    spare = [node.name for node in nodes if node.name not in last.holders]
    _, right = dealings.choose("ana", dict.fromkeys([*last.holders[:4], *spare], "paris"),
                               last.holders[:4])  # fmt: skip
    wrong = [name for name in spare if name not in right]
    for bad in (
        plan(*last.holders[:4], wrong[0]),
        replace(plan(*right), need=1),
        plan(*right[:3], *spare[:2]),
    ):
        with pytest.raises(CloudError, match="would choose other|not gone"):
            await liar.redealing._ask(last, honest.name, "deal", f"{bad.text()}\n")
    alone = Dealing("ana", 2, 3, (liar.name, *wrong, *spare[:1], "x"), last.keys[:4],
                    last.points, last.digest)  # fmt: skip
    with pytest.raises(CloudError):
        await liar.redealing._ask(last, honest.name, "sign", alone.text())
    assert tips(living(town)) == {last.digest}


async def test_sealed_keys_that_were_missed_are_fetched(town, autojump_clock):
    nodes = await town.add("n1", "n2", "n3")
    await town.settle()
    await enroll(nodes[0])
    await trio.sleep(2)
    line = nodes[0].holder.records.sealed_of("ana")[0]
    newer = sealed.seal(b"key y\n", "ana", bytes(64), CODE, key(1), [sealed.parse(line)])
    town.partition([nodes[2]], nodes[:2])
    good, bad = told(await nodes[0].store.keep("ana", newer.text()))
    assert (sorted(good), sorted(bad)) == (["n1", "n2"], ["n3"])
    record = nodes[0].people.user("ana")
    said = replace(dealings.notes(record), blob=newer.digest)
    nodes[1].people.take(accounts.change_user([record], key(1), more=said.text()).text())
    await trio.sleep(30)
    town.heal()
    await town.until(
        lambda: nodes[2].holder.records.sealed_of("ana") == [newer.text()], 120 + 4 * LOOK
    )


async def test_a_holder_that_deals_what_was_not_its_share_is_left_out(town, autojump_clock):
    nodes = await town.add(*(f"n{n}" for n in range(1, 7)))
    await town.settle()
    wanted = await enroll(nodes[0])
    await trio.sleep(2)
    first = nodes[0].people.dealing("ana")
    liar = town.nodes[first.holders[4]].holder
    liar.shares["ana"][first.digest].value += 1
    await kill(town, first.holders[0])
    await town.until(lambda: tips(living(town)) != {first.digest}, MENDED + 60 * LOOK)
    await trio.sleep(5)
    for node in living(town):
        assert await hardened(node) == wanted
