"""Access control with a real master and etcd, through the client library: tokens, roles, limits and revocation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from nodectl import Client
from nodestore.cluster.grants import Grants
from nodestore.cluster.join_tokens import JoinTokens
from nodestore.errors import Conflict, Denied, Forbidden, NotFound, Unauthenticated
from nodestore.schema.keys import Keys
from nodestore.schema.models import Defaults, DriverConfig, GroupConfig, Inventory, NodeConfig
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masterd, Masters
from tests.support.waiting import eventually

INVENTORY = Inventory(
    nodes={"n1": NodeConfig(), "n2": NodeConfig()},
    groups={"left": GroupConfig(nodes=("n1",))},
    defaults=Defaults(driver=DriverConfig(name="exec")),
)


@pytest.fixture(scope="module", autouse=True)
def _warm_masters_end() -> Iterator[None]:
    yield
    Masterd.discard_warm()


@contextlib.asynccontextmanager
async def _closed(cluster: EtcdCluster, keys: Keys) -> AsyncIterator[Masters]:
    """A master that requires credentials."""
    async with Masters(cluster, keys, arguments=["--require-credentials"]) as masters:
        await masters.configure(INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1")
        yield masters


async def test_from_the_first_token_to_its_end(etcd_one: EtcdCluster, keys: Keys) -> None:
    async with _closed(etcd_one, keys) as masters:
        url = masters.running["m1"].url
        async with Client(etcd_one.endpoints, cluster=keys.cluster) as bootstrap:
            made = await bootstrap.token_create("jo", "admin")
        assert made["token"] is not None
        async with Client(url, read_timeout_s=30.0) as stranger:
            with pytest.raises(Unauthenticated, match="needs a credential"):
                await stranger.nodes()
        async with Client(url, token=made["token"], actor="somebody else") as admin:
            whoami = await admin.whoami()
            assert (whoami["principal"], whoami["role"], whoami["access_control"]) == ("token:jo", "admin", True)
            await admin.node_set("n1", {"x": 1})
            history = await admin.history(limit=1)
            [entry] = history["entries"]
            assert "problem" not in entry
            assert (entry["actor"], entry.get("address"), entry.get("on_behalf_of")) == (
                "token:jo", "127.0.0.1", "somebody else",
            )  # fmt: skip
            await _try_limits(admin, url)
            await _try_join_tokens(admin, JoinTokens(masters.etcd, keys))
            with pytest.raises(Conflict, match="give m1 a certificate first"):
                await admin.access_control(True)
            with pytest.raises(NotFound):
                await admin.token_revoke("0" * 16)
            async with contextlib.aclosing(admin.live()) as stream:
                await anext(stream)
                await admin.token_revoke(made["id"])
                with pytest.raises(Denied):
                    await asyncio.wait_for(_drained(stream), 20.0)
            with pytest.raises(Unauthenticated, match="unknown, has ended or was revoked"):
                await admin.nodes()


async def _drained(stream: AsyncIterator[object]) -> None:
    async for _ in stream:
        pass


async def _try_limits(admin: Client, url: str) -> None:
    """A token that is limited to some commands and nodes changes nothing else."""
    limited = await admin.token_create("panel", "operator", commands=["node.*"], groups=["left"], lasts_s=3600.0)
    assert [item["name"] for item in await admin.tokens()] == ["jo", "panel"]
    async with Client(url, token=limited["token"]) as panel:
        await panel.node_set("n1", {"x": 2})
        with pytest.raises(Forbidden, match="may not change node n2: its credential is limited to nodes of left"):
            await panel.node_set("n2", {"x": 2})
        with pytest.raises(Forbidden, match=r"may not send the command scene\.save: only node"):
            await panel.scene_save("a", {})
        with pytest.raises(Forbidden, match="this needs the role maintainer or admin"):
            await panel.config_apply(INVENTORY.model_dump(mode="json"))
        assert "n2" not in str(await panel.documents())
    unnamed = await admin.token_create("left", "operator", groups=["left"], lasts_s=3600.0)
    async with Client(url, token=unnamed["token"]) as left:
        await left.scene_save("mine", {"n1": {"x": 3}})
        with pytest.raises(Forbidden, match="may not change the document scenes/both, which concerns node n2"):
            await left.scene_save("both", {"n1": {"x": 3}, "n2": {"x": 3}})
    refused = [entry["detail"] for _, entry in await admin.audit() if entry["principal"] == "token:left"]
    assert any("scenes/both" in detail for detail in refused)
    assert (await admin.node("n1"))["document"] == {"x": 2}


async def _try_join_tokens(admin: Client, signer: JoinTokens) -> None:
    """They are made through a master, used up in etcd by whoever signs certificates, and open no request."""
    token, made = await admin.join_token_create("host", uses=2, lasts_s=3600.0)
    assert (made["kind"], made["uses_left"], made["actor"]) == ("host", 2, "token:jo")
    await signer.use(token, by="pc2 key", name="pc2", address="10.0.0.2")
    [listed] = await admin.join_tokens()
    assert [(use["by"], use["address"]) for use in listed["used"]] == [("pc2 key", "10.0.0.2")]
    await admin.join_token_revoke(token.id)
    with pytest.raises(Denied, match="unknown or was revoked"):
        await signer.use(token, by="pc3 key", name="pc3")
    with pytest.raises(NotFound):
        await admin.join_token_revoke(token.id)
    await admin.pause("maintenance")
    await admin.resume()
    done = [entry for _, entry in await admin.audit() if entry["event"] == "maintained"]
    assert [entry["request"] for entry in done] == ["PUT /v1/paused", "DELETE /v1/paused"]
    assert {(entry["principal"], entry["address"]) for entry in done} == {("token:jo", "127.0.0.1")}
    events = [entry["event"] for _, entry in await admin.audit()]
    assert [event for event in events if event.startswith("join")] == ["join token created", "join token revoked"]


async def test_a_revoked_token_is_refused_by_every_master(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Also by one that has not made it, and a moment after it was made."""
    async with _closed(etcd_one, keys) as masters:
        masters.start("m2")
        await masters.wait_candidate("m2")
        urls = [masters.running[name].url for name in ("m1", "m2")]
        async with Client(etcd_one.endpoints, cluster=keys.cluster) as bootstrap:
            made = await bootstrap.token_create("jo", "viewer")
            for url in urls:
                async with Client(url, token=made["token"]) as viewer:
                    assert (await viewer.whoami())["principal"] == "token:jo"
            await bootstrap.token_revoke(made["id"])

        async def refused() -> bool:
            for url in urls:
                async with Client(url, token=made["token"]) as viewer:
                    try:
                        await viewer.whoami()
                    except Unauthenticated:
                        continue
                    return False
            return True

        await eventually(refused, "both masters refuse the token")


async def test_configuration_and_pause_go_through_a_master(etcd_one: EtcdCluster, keys: Keys) -> None:
    """Also of a client with access to etcd, whether the key or the master's own option requires a credential."""
    inventory = INVENTORY.model_dump(mode="json")
    async with _closed(etcd_one, keys) as masters:
        async with Client(etcd_one.endpoints, cluster=keys.cluster) as direct:
            made = await direct.token_create("jo", "maintainer")
            for is_on in (False, True):
                await Grants(masters.etcd, keys).set_access_control(is_on, "test")
                for change in (direct.config_apply(inventory), direct.pause(), direct.resume()):
                    with pytest.raises(Unauthenticated):
                        await change
        async with Client(etcd_one.endpoints, cluster=keys.cluster, token=made["token"]) as jo:
            await jo.pause("by hand")
            assert (paused := await jo.paused()) is not None
            assert paused["actor"] == "token:jo"
            await jo.resume()
            await jo.config_apply(inventory)
            current = (await jo.config())["current"]
            assert current is not None
            assert current["actor"] == "token:jo"
