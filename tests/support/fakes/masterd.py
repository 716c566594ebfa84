"""Fake masterds that have only the HTTP API: a small cluster in one event loop, with faults on demand.

The masterds share an object in place of the store: the commands that ran, their ids, the leader. Each answers over a
real socket, so connections break as real ones do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from masterd.api import openapi
from masterd.application.scenes import BuiltinApp

Behaviour = Callable[["FakeMasterd", web.Request, list[dict[str, Any]]], Awaitable[web.StreamResponse]]


class FakeCluster:
    """The shared state, in place of etcd, and the masterds that serve it."""

    def __init__(self) -> None:
        self.masters: dict[str, FakeMasterd] = {}
        self.leader: str | None = None
        self.term = {"epoch": 1, "revision": 10}
        self.cause = "first"
        self.index = 0
        self.results: dict[str, dict[str, Any]] = {}
        self.executed: list[dict[str, Any]] = []
        self.closed: dict[str, int] = {}  # index by id
        self.knows_outcomes = True  # False: of a release that cannot be asked what became of a command
        self.floor = 0
        self.refuse: dict[str, tuple[int, str, str]] = {}  # command name: status, code, detail
        self.nodes: dict[str, dict[str, Any]] = {}
        self.documents: dict[str, dict[str, Any]] = {}
        self.config: dict[str, Any] = {"current": None, "adopted": None, "rejected": None}
        self.versions: list[dict[str, Any]] = []  # of the configuration, newest first
        self.searched_in_parts = 0  # how many commands one answer of the history covers; 0: all
        self.adopts = True
        self.paused: dict[str, Any] = {}
        self.problems: list[str] = []
        self.journal: list[dict[str, Any]] = []
        self.terms: list[dict[str, Any]] = []  # newest first
        self.allows_drills = True
        self.log: list[dict[str, Any]] = []  # the pieces of every node's log; a problem has a `code`
        self.outcomes: dict[str, dict[str, Any]] = {}  # result of the next action by node; absent: it never ends

    def lead(self, master: str | None, cause: str = "died") -> None:
        before, self.leader = self.leader, master
        if master is not None:
            self.cause = cause
            self.term = {"epoch": self.term["epoch"], "revision": self.term["revision"] + 10}
            phases = {"heard": 0.0, "sent": 0.1, "won": 0.102, "serving": 0.11} if cause != "first" else {}
            record = {"id": master, "since": time.time(), "cause": cause, "why": f"because: {cause}"}
            self.terms.insert(0, {**record, **self.term, "taken_from": before, "phases": phases})

    @property
    def leading(self) -> FakeMasterd:
        assert self.leader is not None
        return self.masters[self.leader]

    @property
    def urls(self) -> list[str]:
        return [master.url for master in self.masters.values()]

    def execute(self, command: dict[str, Any]) -> dict[str, Any]:
        """Run one command, exactly once for its id, and return its result."""
        if command["id"] in self.results:
            return {**self.results[command["id"]], "repeated": True}
        if command["id"] in self.closed:
            return {"problem": {"code": "id_closed", "status": 409, "detail": "its id is closed"}}
        if command["name"] in self.refuse:
            status, code, detail = self.refuse[command["name"]]
            return {"problem": {"code": code, "status": status, "detail": detail}}
        self.index += 1
        self.executed.append(command)
        result = {"index": self.index, "id": command["id"], "result": self._apply(command), "repeated": False}
        self.results[command["id"]] = result
        self.record(command["name"], command["args"], result["result"], command["actor"], command["id"])
        if command["name"] == "node.act":
            self._end_actions(result["index"], command["args"]["action"], result["result"]["nodes"])
        return result

    def settle(self, command_id: str) -> dict[str, Any]:
        """What became of a command. An unknown id is closed."""
        known = self.results.get(command_id)
        if known is not None:
            kept = {"result": known["result"], "result_kept": True}
            return {"id": command_id, "took_effect": True, "index": known["index"], **kept}
        if command_id not in self.closed:
            self.index += 1
            self.closed[command_id] = self.index
        index = self.closed[command_id]
        return {"id": command_id, "took_effect": False, "index": index, "result": None, "result_kept": False}

    def record(self, name: str, args: dict[str, Any], result: Any, actor: str, known_as: str) -> None:
        """Append a command to the journal and return its record."""
        version = (self.config["adopted"] or {}).get("version", 0)
        self.journal.append(
            {
                "index": self.index, "id": known_as, "actor": actor, "time": 0.0, "name": name, "args": args,
                "result": result, "epoch": self.term["epoch"], "term": self.term["revision"],
                **({"config_version": version} if version else {}),
            }
        )  # fmt: skip

    def _end_actions(self, asked: int, action: str, nodes: list[str]) -> None:
        for node in nodes:
            if node in self.outcomes:
                self.index += 1
                args = {"node": node, "index": asked, "action": action}
                self.record("action.done", args, self.outcomes[node], node, f"action.done-{node}-{asked}")

    def _apply(self, command: dict[str, Any]) -> Any:
        name, args = command["name"], command["args"]
        if name == "node.set":
            view = self.nodes[args["node"]]
            merged = {**view["document"], **args["values"]}
            view["document"] = {key: value for key, value in merged.items() if value is not None}
            return {"node": args["node"], "document": view["document"]}
        if name == "scene.save":
            self.documents[f"scenes/{args['name']}"] = {
                "index": self.index,
                "document": {"nodes": args.get("nodes", {}), "description": args.get("description", "")},
            }
        if name == "scene.apply":
            return {"scene": args["name"], "nodes": list(self.nodes)}
        if name == "node.act":
            return {"action": args["action"], "nodes": [args["node"]] if "node" in args else list(self.nodes)}
        return {}


class FakeMasterd:
    """One masterd. `script`: its behaviours for the next requests with commands, in order."""

    def __init__(self, cluster: FakeCluster, name: str, tls: ssl.SSLContext | None = None) -> None:
        """tls: of the server, from the next `start` on; None: without TLS."""
        self.cluster, self.tls = cluster, tls
        self.name = name
        self.url = ""
        self.script: deque[Behaviour] = deque()
        self.always: Behaviour | None = None
        self.batches: list[list[dict[str, Any]]] = []
        self.asked: list[dict[str, Any]] = []  # the questions for outcomes
        self.requests: list[str] = []
        self.drop_next: set[str] = set()  # "METHOD path" of requests whose answer is lost once, after they took effect
        self.silent = False
        self.break_after: int | None = None
        self._runner: web.AppRunner | None = None
        self._released = asyncio.Event()
        self._listening: Any = None

    @property
    def leads(self) -> bool:
        return self.cluster.leader == self.name

    async def start(self) -> None:
        app = web.Application(middlewares=[self._middleware])
        app.add_routes(
            [
                web.get("/v1/health", self._health),
                web.get("/v1/leader", self._leader),
                web.get("/v1/masters", self._masters),
                web.get("/v1/nodes", self._nodes),
                web.get("/v1/nodes/watch", self._watch),
                web.get("/v1/events", self._events),
                web.get("/v1/nodes/{node}", self._node),
                web.get("/v1/nodes/{node}/log", self._node_log),
                web.get("/v1/documents", self._documents),
                web.get("/v1/documents/{path:.+}", self._document),
                web.get("/v1/history", self._history),
                web.get("/v1/status", self._status),
                web.get("/v1/config", self._config),
                web.put("/v1/config", self._put_config),
                web.get("/v1/config/history", self._config_history),
                web.get("/v1/paused", self._paused),
                web.put("/v1/paused", self._put_paused),
                web.delete("/v1/paused", self._delete_paused),
                web.get("/v1/terms", self._terms),
                web.post("/v1/drill", self._drill),
                web.post("/v1/leader/switchover", self._switchover),
                web.post("/v1/commands", self._commands),
                web.post("/v1/commands/outcome", self._outcome),
                web.get("/v1/commands", self._command_list),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.05)
        await self._runner.setup()
        port = int(self.url.rsplit(":", 1)[1]) if self.url else 0
        site = web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=self.tls)
        await site.start()
        self._listening = site._server.sockets[0]  # type: ignore[union-attr]
        scheme = "http" if self.tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._listening.getsockname()[1]}"

    async def stop(self) -> None:
        """Stop as by SIGKILL: connections break, and new ones are refused."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self._released.set()
        await self._stop_accepting()
        for site in list(runner.sites):
            await site.stop()
        assert runner.server is not None
        for connection in list(runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()
        for _ in range(3):  # an aborted transport closes its socket in a later iteration of the loop
            await asyncio.sleep(0)

    async def _stop_accepting(self) -> None:
        """Stop accepting, and let the loop finish the connections that it has just accepted.

        asyncio leaks a connection whose server is closed between accept and the next iteration of the loop.
        """
        with contextlib.suppress(NotImplementedError):  # the event loop of Windows has no readers
            asyncio.get_running_loop().remove_reader(self._listening.fileno())
        for _ in range(3):
            await asyncio.sleep(0)

    # --- behaviours -------------------------------------------------------------------------------------------------

    async def answer(self, commands: list[dict[str, Any]]) -> web.Response:
        results = [self.cluster.execute(command) for command in commands]
        return web.json_response({"results": results, "index": self.cluster.index})

    async def hang(self) -> web.Response:
        """Do not answer until this masterd is stopped."""
        await self._released.wait()
        return web.Response(status=503)

    def problem(self, status: int, code: str, detail: str = "no", **more: Any) -> web.Response:
        body = {"type": f"urn:nodectl:problem:{code}", "status": status, "code": code, "detail": detail, **more}
        return web.Response(status=status, text=json.dumps(body), content_type="application/problem+json")

    def not_leader(self) -> web.Response:
        leader = self.cluster.leader
        url = self.cluster.masters[leader].url if leader else None
        return self.problem(503, "not_leader", f"{self.name} does not lead", leader_url=url)

    # --- requests ---------------------------------------------------------------------------------------------------

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        if self.silent:
            return await self.hang()
        local = request.query.get("consistency") == "local" or request.path == "/v1/health"
        if not local and not self.leads:
            return self.not_leader()
        response: web.StreamResponse = await handler(request)
        if f"{request.method} {request.path}" in self.drop_next:
            self.drop_next.discard(f"{request.method} {request.path}")
            sever(request)
        return response

    async def _commands(self, request: web.Request) -> web.StreamResponse:
        commands = (await request.json())["commands"]
        self.batches.append(commands)
        behaviour = self.script.popleft() if self.script else self.always
        if behaviour is not None:
            return await behaviour(self, request, commands)
        return await self.answer(commands)

    async def _outcome(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.asked.append(asked)
        if not self.cluster.knows_outcomes:
            return self.problem(404, "not_found", "POST /v1/commands/outcome: there is no such resource")
        if asked["after"] < self.cluster.floor:
            return self.problem(410, "too_old", "ids are remembered only from a later index on")
        return web.json_response(self.cluster.settle(asked["id"]))

    async def _command_list(self, request: web.Request) -> web.Response:
        return web.json_response(openapi.command_list(BuiltinApp()))

    async def _health(self, request: web.Request) -> web.Response:
        role = "leader" if self.leads else "standby"
        return web.json_response({"id": self.name, "role": role, "index": self.cluster.index})

    async def _leader(self, request: web.Request) -> web.Response:
        if self.cluster.leader is None:
            return self.problem(503, "unavailable", "nobody leads")
        leader = self.cluster.leading
        epoch = self.cluster.term["epoch"] if self.leads else None  # a standby may not know it
        return web.json_response(
            {
                "id": leader.name,
                "host": "pc",
                "url": leader.url,
                "urls": [leader.url],
                "term": {**self.cluster.term, "epoch": epoch},
                "since": 0.0,
                "cause": self.cluster.cause,
                "why": f"because: {self.cluster.cause}",
                "index": self.cluster.index,
            }
        )

    async def _masters(self, request: web.Request) -> web.Response:
        masters = [
            {"id": master.name, "host": "pc", "url": master.url, "role": "leader" if master.leads else "standby"}
            for master in self.cluster.masters.values()
        ]
        return web.json_response({"masters": masters})

    async def _nodes(self, request: web.Request) -> web.Response:
        return web.json_response({"nodes": list(self.cluster.nodes.values())})

    async def _node(self, request: web.Request) -> web.Response:
        name = request.match_info["node"]
        if name not in self.cluster.nodes:
            return self.problem(404, "not_found", f"there is no node {name!r}")
        return web.json_response(self.cluster.nodes[name])

    async def _node_log(self, request: web.Request) -> web.StreamResponse:
        """The piece after position `p<number>`. After the last piece: no new lines, or without `wait_s` the end."""
        number = int(request.query.get("after", "p0")[1:])
        if number >= len(self.cluster.log):
            return web.json_response({"node": "n1", "text": "", "position": f"p{number}", "at_end": True, "note": ""})
        piece = self.cluster.log[number]
        if "code" in piece:
            self.cluster.log[number] = {"text": "", "note": ""}
            return self.problem(503, piece["code"], f"node n1: {piece['code']}")
        at_end = number + 1 == len(self.cluster.log)
        return web.json_response({"node": "n1", "position": f"p{number + 1}", "at_end": at_end, "note": "", **piece})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        nodes = list(self.cluster.nodes.values())
        await response.write(b": here\n\nevent: nodes\ndata: " + json.dumps({"nodes": nodes}).encode() + b"\n\n")
        if nodes:
            await response.write(b"event: nodes\ndata: " + json.dumps({"nodes": nodes[:1]}).encode() + b"\n\n")
        return response

    async def _documents(self, request: web.Request) -> web.Response:
        prefix = request.query.get("prefix", "")
        found = {path: view for path, view in self.cluster.documents.items() if path.startswith(prefix)}
        return web.json_response({"index": self.cluster.index, "documents": found})

    async def _document(self, request: web.Request) -> web.Response:
        found = self.cluster.documents.get(request.match_info["path"])
        return web.json_response(found) if found else self.problem(404, "not_found", "there is no such document")

    async def _history(self, request: web.Request) -> web.Response:
        wanted = {field: request.query[key] for key, field in (("actor", "actor"), ("command", "name"))
                  if key in request.query}  # fmt: skip
        backward = "after" not in request.query
        before = int(request.query.get("before", self.cluster.index + 1))
        part = self.cluster.searched_in_parts or self.cluster.index
        first, last = max(1, before - part), before - 1
        if not backward:
            first = int(request.query["after"]) + 1
            last = min(self.cluster.index, first + part - 1)
        entries = [
            told for told in self.cluster.journal
            if first <= told["index"] <= last and all(told[field] == it for field, it in wanted.items())
        ]  # fmt: skip
        found = {"entries": entries[::-1] if backward else entries, "first_retained": 1, "index": self.cluster.index}
        ended = first == 1 if backward else last == self.cluster.index
        return web.json_response({**found, "searched": first if backward else last, "ended": ended})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Stream the journal without end. `break_after`: each stream breaks after this many commands."""
        epoch, _, text = request.query["after"].rpartition(".")
        if epoch and int(epoch) != self.cluster.term["epoch"]:
            return self.problem(410, "too_old", "the store was restored")
        position, told = int(text), 0
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(f": here\nid: {self.cluster.term['epoch']}.{position}\n\n".encode())
        while request.transport is not None and not self._released.is_set():
            for record in [record for record in self.cluster.journal if record["index"] > position]:
                if told == self.break_after:
                    sever(request)
                    return response
                position, told = record["index"], told + 1
                number = f"{self.cluster.term['epoch']}.{position}"
                await response.write(f"id: {number}\nevent: command\ndata: {json.dumps(record)}\n\n".encode())
            await asyncio.sleep(0.01)
        return response

    async def _status(self, request: web.Request) -> web.Response:
        leader = json.loads((await self._leader(request)).text or "{}") if self.cluster.leader else None
        return web.json_response(
            {
                "cluster": "test",
                "leader": leader,
                "masters": json.loads((await self._masters(request)).text or "{}")["masters"],
                "members": [],
                "nodes": list(self.cluster.nodes.values()),
                "config": self.cluster.config,
                "paused": self.cluster.paused or None,
                "problems": self.cluster.problems,
            }
        )

    async def _config(self, request: web.Request) -> web.Response:
        return web.json_response(self.cluster.config)

    async def _config_history(self, request: web.Request) -> web.Response:
        return web.json_response({"versions": self.cluster.versions})

    async def _put_config(self, request: web.Request) -> web.Response:
        body = await request.json()
        current = self.cluster.config["current"]
        version = current["version"] if current else 0
        if body["expect_version"] not in (None, version):
            return self.problem(409, "conflict", f"version {version} is current")
        record = {"version": version + 1, "actor": body["actor"], "time": 0.0}
        self.cluster.config["current"] = {**record, "inventory": body["inventory"], "source": body["source"]}
        self.cluster.versions.insert(0, self.cluster.config["current"])
        if self.cluster.adopts:
            self.cluster.config["adopted"] = {"version": version + 1, "index": self.cluster.index}
        return web.json_response({"version": version + 1})

    async def _paused(self, request: web.Request) -> web.Response:
        return web.json_response(self.cluster.paused)

    async def _put_paused(self, request: web.Request) -> web.Response:
        self.cluster.paused = {**await request.json(), "time": 0.0}
        return web.json_response({})

    async def _delete_paused(self, request: web.Request) -> web.Response:
        self.cluster.paused = {}
        return web.json_response({})

    async def _terms(self, request: web.Request) -> web.Response:
        return web.json_response({"terms": self.cluster.terms})

    async def _drill(self, request: web.Request) -> web.Response:
        if not self.cluster.allows_drills:
            return self.problem(403, "denied", f"drills are not allowed on {self.name}")
        how = (await request.json())["how"]
        self.silent = True
        self.cluster.lead(
            next(name for name in self.cluster.masters if name != self.name), {"kill": "died"}.get(how, "silent")
        )
        return web.json_response({"master": self.name, "how": how})

    async def _switchover(self, request: web.Request) -> web.Response:
        to = (await request.json()).get("to") or next(name for name in self.cluster.masters if name != self.name)
        if to not in self.cluster.masters:
            return self.problem(404, "not_found", f"there is no master {to!r}")
        self.cluster.lead(to, "switchover")
        return web.json_response({"from": self.name, "to": to, "term": self.cluster.term})


def sever(request: web.Request) -> None:
    """Break the connection, so that the answer is lost."""
    assert request.transport is not None
    request.transport.abort()


@asynccontextmanager
async def fake_cluster(*names: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeCluster]:
    """Start masterds (default: m1 and m2); the first one leads."""
    cluster = FakeCluster()
    try:
        for name in names or ("m1", "m2"):
            master = FakeMasterd(cluster, name, tls)
            await master.start()
            cluster.masters[name] = master
        cluster.lead(next(iter(cluster.masters)), "first")
        yield cluster
    finally:
        for master in cluster.masters.values():
            await master.stop()


def node_view(name: str, **more: Any) -> dict[str, Any]:
    """Return the view of a node that has converged."""
    return {
        "name": name,
        "address": "",
        "position": None,
        "groups": ["all"],
        "labels": {},
        "driver": "process",
        "document": {},
        "desired": {"generation": 1, "hash": "0"},
        "status": {"phase": "ready", "observed_generation": 1, "actual": {}, "reason": "", "error": None},
        "alive": {"host": "pc", "pid": 1},
        "waiting": [],
        "converged": True,
        "problem": None,
        **more,
    }
