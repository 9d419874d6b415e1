"""Callers with a restricted token: it leaves of their rights what it says, and adds none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cloudfs.errors import CloudError
from cloudfs.factotum.tokens import Limits, Powers
from cloudfs.kernel.object import Object
from cloudfs.tree.api import OREAD, Node, Who
from cloudfs.tree.space import Space
from tests.tree.test_cloud import ANN, Cloud


def who(user: str = "ann", price: float | None = None, **sets: str) -> Who:
    most = None if price is None else round(price * 1e6)
    limits = Limits({name: frozenset(words.split(",")) for name, words in sets.items()}, price=most)
    return Who(user, None, powers=Powers(user, "local", 1, "", limits, ()))


@pytest.fixture
async def cloud(autojump_clock: object, tmp_path: Path, nursery) -> Cloud:
    made = Cloud(tmp_path)
    await nursery.start(made.objects.run)
    return made


async def running(cloud: Cloud, app: str) -> str:
    return await cloud.run("sleep 1000", f"app {app}")


async def test_what_the_token_allows_and_nothing_else(cloud: Cloud) -> None:
    web, db = await running(cloud, "web"), await running(cloud, "db")
    token = who(op="kill,read", app="web")
    assert await cloud.cat(f"/cloud/proc/{web}/env", token) is not None
    for path in (f"/cloud/proc/{db}/env", f"/cloud/proc/{db}/stdout"):
        with pytest.raises(CloudError, match="may not read"):
            await cloud.cat(path, token)
    for line in ("stop", "label a=b", "nice 1"):
        with pytest.raises(CloudError, match="is not allowed by it, only kill read"):
            await cloud.echo(line, f"/cloud/proc/{web}/ctl", token)
    with pytest.raises(CloudError, match="may not write"):
        await cloud.echo("kill", f"/cloud/proc/{db}/ctl", token)
    with pytest.raises(CloudError, match="may not write"):
        await cloud.echo("x", f"/cloud/proc/{web}/note", token)
    with pytest.raises(CloudError, match="op new is not allowed"):
        await cloud.cat("/cloud/proc/clone", token)
    await cloud.echo("kill", f"/cloud/proc/{web}/ctl", token)


async def test_what_everybody_may_the_holder_of_a_token_may_too(cloud: Cloud) -> None:
    id = await running(cloud, "db")
    token = who(op="kill", app="web")
    assert "app=db" in await cloud.cat(f"/cloud/proc/{id}/status", token)
    assert id in cloud.ls("/cloud/proc", token)


async def test_a_token_adds_no_right(cloud: Cloud) -> None:
    id = await running(cloud, "web")
    with pytest.raises(CloudError, match="bob may not write"):
        await cloud.echo("kill", f"/cloud/proc/{id}/ctl", who("bob", op="kill", app="web"))


async def test_a_token_without_an_app_allows_any(cloud: Cloud) -> None:
    id = await running(cloud, "db")
    await cloud.echo("stop", f"/cloud/proc/{id}/ctl", who(op="stop,new"))
    made = (await cloud.cat("/cloud/proc/clone", who(op="new"))).strip()
    with pytest.raises(CloudError, match="op exec is not allowed"):
        await cloud.echo("exec true", f"/cloud/proc/{made}/ctl", who(op="new"))


async def test_the_owner_of_a_node_stays_its_owner(cloud: Cloud) -> None:
    id = await running(cloud, "db")
    boss = who(op="read")
    boss.boss = True
    await cloud.echo("kill", f"/cloud/proc/{id}/ctl", boss)


async def test_no_object_costs_more_than_the_token_allows(cloud: Cloud) -> None:
    cloud.objects.attributes = cloud.machine.attributes
    cloud.machine.set_price(0.4)
    token = who(price=0.5)
    id = (await cloud.cat("/cloud/proc/clone", token)).strip()
    ctl = f"/cloud/proc/{id}/ctl"
    with pytest.raises(CloudError, match="may use any number of cores") as caught:
        await cloud.echo("exec sleep 1000", ctl, token)
    assert "limit cpu=1" in caught.value.fix
    await cloud.echo("limit cpu=2", ctl, token)
    with pytest.raises(CloudError, match=r"price<=0.25 \(it has 0.4\)"):
        await cloud.echo("exec sleep 1000", ctl, token)
    await cloud.echo("limit cpu=1.25", ctl, token)  # to the last cent
    await cloud.echo("exec sleep 1000", ctl, token)
    assert "hour=0.5" in await cloud.cat(f"/cloud/proc/{id}/cost", token)
    for more in ("limit cpu=1.3", "limit cpu=none"):
        with pytest.raises(CloudError, match=r"0.52 an hour|any number of cores"):
            await cloud.echo(more, ctl, token)
    await cloud.echo("limit cpu=1", ctl, token)
    await cloud.echo("limit cpu=1.3", ctl)  # by ann herself


async def test_an_object_starts_again_only_while_it_costs_what_its_token_allows(
    cloud: Cloud,
) -> None:
    cloud.objects.attributes = cloud.machine.attributes
    cloud.machine.set_price(0.4)
    token = who(price=0.5)
    id = await cloud.run("true", "limit cpu=1", who=token)
    await cloud.cat(f"/cloud/.follow/proc/{id}/wait", token)
    made = cloud.objects.all[id]
    assert Object.from_record(id, made.to_record(), 1, made.home).budget == 0.5
    cloud.machine.set_price(0.6)
    ctl = f"/cloud/proc/{id}/ctl"
    with pytest.raises(CloudError, match="0.6 an hour here, and the token allows 0.5"):
        await cloud.echo("start", ctl, token)
    await cloud.echo("start", ctl)  # by ann herself
    await cloud.cat(f"/cloud/.follow/proc/{id}/wait")
    assert made.budget is None
    with pytest.raises(CloudError, match="0.6 an hour here"):
        await cloud.echo("start", ctl, token)
    assert made.budget is None  # what fails changes nothing
    cloud.machine.set_price(0.5)
    await cloud.echo("start", ctl, token)
    assert made.budget == 0.5


async def test_no_way_around_a_highest_price(cloud: Cloud) -> None:
    cloud.objects.attributes = cloud.machine.attributes
    cloud.machine.set_price(0.4)
    token = who(price=0.5)
    id = await cloud.run("true", "limit cpu=1", "restart on-failure")  # ann's own
    await cloud.cat(f"/cloud/.follow/proc/{id}/wait")
    ctl, made = f"/cloud/proc/{id}/ctl", cloud.objects.all[id]
    for line, why in (
        ("limit cpu=64", "25.6 an hour"),
        ("limit cpu=none", "any number of cores"),
        ("group bob", "group is not allowed"),
    ):
        with pytest.raises(CloudError, match=why):
            await cloud.echo(line, ctl, token)
    with pytest.raises(CloudError, match="price is not allowed"):
        await cloud.echo("price 0", "/cloud/nodes/n1/ctl", token)
    await cloud.echo("restart always", ctl, token)
    assert made.budget == 0.5
    await cloud.echo("restart never", ctl)
    assert made.budget is None

    # A stopped one that is too dear does not go on, and a limit that is too small is none.
    id = await cloud.run("sleep 1000", "limit cpu=4")
    ctl, made = f"/cloud/proc/{id}/ctl", cloud.objects.all[id]
    await cloud.echo("stop", ctl)
    with pytest.raises(CloudError, match="1.6 an hour"):
        await cloud.echo("start", ctl, token)
    assert (made.state, made.budget) == ("stopped", None)
    await cloud.echo("limit cpu=1e-309", ctl)
    await cloud.echo("start", ctl, token)
    assert made.required() == ["price<=50"]
    made.wish()


@dataclass
class Proxy(Node):
    """A file of another node, which would act for the whole user."""

    opened: list[str] = field(default_factory=list)
    name = "clone"
    uid = gid = "ann"
    mode, qid = 0o666, 1

    @property
    def remote(self) -> bool:
        return True

    def open(self, mode: int, at: object, cues: object) -> object:  # type: ignore[override]
        self.opened.append(at.who.user)  # type: ignore[attr-defined]
        return object()


def test_other_nodes_are_not_asked_on_behalf_of_a_restricted_token() -> None:
    proxy = Proxy()

    def attempt(who: Who, act: Callable[..., object]) -> object:
        at = Space(proxy).attach(who)
        return act(at, at.root())

    for act in (
        lambda at, ref: at.open(ref, OREAD),
        lambda at, ref: at.wstat(ref, {"length": 0}),
        lambda at, ref: at.wstat(ref, {"mode": 0o777}),
    ):
        with pytest.raises(CloudError):
            attempt(who(op="read"), act)
    assert proxy.opened == []
    attempt(ANN, lambda at, ref: at.open(ref, OREAD))
    assert proxy.opened == ["ann"]


async def test_nobody_has_objects_which_all_who_are_nobody_would_share(cloud: Cloud) -> None:
    nobody = Who("none", 1234)
    with pytest.raises(CloudError, match="nobody has objects") as caught:
        await cloud.cat("/cloud/proc/clone", nobody)
    assert caught.value.fix == "log in: cloudfs login USER"
