"""`spec=true`: the desired state of each node, for every application, with secrets masked."""

from __future__ import annotations

import contextlib

import pytest

from nodectl import Client
from nodestore.errors import Invalid, NodectlError
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory
from tests.support.etcd_cluster import EtcdCluster
from tests.support.masters import Masters
from tests.support.waiting import eventually

INVENTORY = Inventory.model_validate(
    {
        "nodes": {"n1": {"document": {"colour": "red"}}, "n2": {}, "n3": {"driver": {"name": "other"}}},
        "defaults": {
            "driver": {"name": "x", "settings": {"env": {"API_TOKEN": "t0p"}, "argv": ["show", "--password", "p"]}},
            "document": {"text": "hello"},
        },
    }
)


async def test_nodes_show_their_desired_state(etcd_one: EtcdCluster, keys: Keys) -> None:
    """The leader and a standby, of one node and of all; only if they are asked to."""
    async with Masters(etcd_one, keys) as masters, Client(etcd_one.endpoints, cluster=keys.cluster) as client:
        await masters.configure(INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1")
        await masters.command("node.set", node="n1", values={"secret": "s", "size": 5})
        settings = {"env": {"API_TOKEN": "***"}, "argv": ["show", "--password", "***"]}
        document = {"text": "hello", "colour": "red", "secret": "***", "size": 5}
        expected = {"driver": "x", "settings": settings, "document": document}
        assert (await client.node("n1", specs=True))["spec"] == expected
        views = {view["name"]: view for view in await client.nodes(specs=True)}
        assert views["n1"]["spec"] == expected
        assert views["n2"]["spec"] == {"driver": "x", "settings": settings, "document": {"text": "hello"}}
        assert views["n3"]["spec"] == {"driver": "other", "settings": {}, "document": {"text": "hello"}}
        assert [view["spec"] for view in await client.nodes()] == [None, None, None]
        assert (await client.node("n1"))["spec"] is None
        with pytest.raises(Invalid, match="spec: expected true or false"):
            await client.get("/v1/nodes", {"spec": "yes"})
        masters.start("m2")

        path = "/v1/nodes/n1?spec=true&consistency=local"

        async def standby_shows_it() -> bool:
            with contextlib.suppress(NodectlError):  # it has just been started
                return bool((await masters.ask("m2", "GET", path)).get("spec") == expected)
            return False

        await eventually(standby_shows_it)
