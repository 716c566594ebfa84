"""The HTTP API: routes, consistency of reads, and forwarding of requests that only the leader can serve.

A standby answers local reads and forwards the rest to the leader: one hop, never two (`Nodectl-Hop`).
The hot route is POST /v1/commands. pydantic-core parses the JSON of its body and encodes its answer, both
without a pydantic model per command.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import ClientConnectionResetError, HttpVersion10, StreamReader, web

from masterd.api import event_streams, fault_injection, history, openapi, reads
from masterd.api.access.access_routes import AccessRoutes
from masterd.api.access.gate import Gate
from masterd.api.access.rights import missing_rights
from masterd.api.access.session_routes import SessionRoutes
from masterd.api.admission import Admission
from masterd.api.body_reader import deadline_of, raise_if_too_late, read_body, receive_body, release, set_deadline
from masterd.api.connections.guarded_server import GuardedConnection
from masterd.api.heartbeats import Heartbeats
from masterd.api.leader_routing import LeaderRouter, disconnected
from masterd.api.node_logs.node_logs import NodeLogs, send_within
from masterd.api.pages.login_page import redirect_to_login, serve_login
from masterd.api.probes import Probes
from masterd.api.problems import http_problem, problem_of, problem_response
from masterd.api.read_sources import ReadSources
from masterd.api.request_bodies import actor_of, parse_command, parse_outcome_question, text_field
from masterd.api.secret_views import hiding
from masterd.api.secret_views.hiding import Hide, check_no_mask, shows_secrets
from masterd.roles.handover import hand_over
from masterd.roles.peers import PeerClient
from masterd.roles.request_principal import principal_of
from masterd.state_machine.batch import CommandOutcome
from masterd.term.leader import Leader
from nodestore.cluster.configuration import Configuration
from nodestore.cluster.election import TakeoverWon
from nodestore.errors import (
    Conflict,
    DefinitionError,
    Denied,
    Invalid,
    LeadershipLost,
    NodectlError,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    ResultForgotten,
    Unavailable,
)
from nodestore.schema import api_types
from nodestore.schema.api_types import COMMANDS_MAX
from nodestore.schema.models import Term
from nodestore.support.jsonio import dumps
from nodestore.support.time_slices import dumps_in_slices

log = logging.getLogger(__name__)

_COMMIT_S = 10.0
_ANSWER_S = 30.0
"""The longest time for which a request says that its sender waits."""
_TAKEOVER_ORDER_TIMEOUT_S = 2.0
"""Time limit of a takeover that the leader requests in a handover. If this masterd is still becoming a standby, it
first waits until it is one; the limit does not include that wait. The leader waits for longer than both together."""

_SERVE_S = 5.0
"""How long the answer to a switchover waits until the new leader serves. Until then it may still give the term up."""
_SERVE_POLL_S = 0.005

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Read = Callable[[ReadSources, web.Request], Awaitable[Any]]

HIDING: Mapping[Read, Hide] = {
    reads.nodes: hiding.hide_nodes,
    reads.node: hiding.hide_node,
    reads.documents: hiding.hide_documents,
    reads.document: hiding.hide_document,
    reads.snapshot: hiding.hide_snapshot,
    reads.config: hiding.hide_config,
    reads.config_history: hiding.hide_config_history,
    history.history: hiding.hide_history,
}
"""How the answer of a read is shown to those who may not see secrets. A status never shows secrets."""
WITHOUT_SECRETS: frozenset[Read] = frozenset(
    {reads.leader, reads.masters, reads.members, reads.terms, reads.snapshots, reads.application, reads.status}
)
"""Reads whose answers hold no documents, settings or arguments, or never show secrets."""


class TakeoverRequests(Protocol):
    """Takes over a term at the request of its leader. Implemented by this masterd's campaign."""

    async def take_over_from(self, revision: int, actor: str, timeout_s: float) -> TakeoverWon: ...


class Api:
    """The web application with all routes of one masterd."""

    def __init__(
        self,
        sources: ReadSources,
        *,
        peers: PeerClient,
        router: LeaderRouter,
        heartbeats: Heartbeats,
        node_logs: NodeLogs,
        takeovers: TakeoverRequests,
        configuration: Configuration,
        admission: Admission,
        gate: Gate,
        access_routes: AccessRoutes,
        session_routes: SessionRoutes,
        drills_allowed: bool,
    ) -> None:
        self._sources, self._peers, self._leader_router, self._heartbeats = sources, peers, router, heartbeats
        self._takeovers, self._configuration, self._drills_allowed = takeovers, configuration, drills_allowed
        self._node_logs = node_logs
        self._own_id, self._leadership, self._health = sources.own_id, sources.leadership, sources.health
        self._cluster_view, self._replica = sources.cluster_view, sources.replica
        self._openapi_document: dict[str, Any] | None = None
        self._described_commands: api_types.CommandList | None = None
        self.admission, self._gate = admission, gate
        self.app = web.Application(
            middlewares=[self._note_progress, self._errors_to_problems, self._admit],
            client_max_size=admission.limits.body_bytes_max,
        )
        add = self.app.router.add_route
        routes = [
            (method, add(method, path, handler, expect_handler=_expect_later))
            for method, path, handler in [
                *self._routes(),
                *Probes(self._leadership, self._health).routes(),
                *access_routes.routes(),
                *session_routes.routes(),
            ]
        ]
        if problems := missing_rights((method, _path_of(route)) for method, route in routes):
            raise DefinitionError(f"the table of rights does not fit the routes: {'; '.join(problems)}")
        for method, route in routes:
            gate.add_route(route, method, _path_of(route))
        self._gate.install(self.app)
        self.app.on_cleanup.append(self._close)

    def _routes(self) -> list[tuple[str, str, Handler]]:
        return [
            ("GET", "/", redirect_to_login),
            ("GET", "/login", serve_login),
            ("GET", "/v1/health", self._get_health),
            ("GET", "/v1/leader", self._read_handler(reads.leader, uses_view=True, from_state=False)),
            ("GET", "/v1/masters", self._read_handler(reads.masters, uses_view=True, from_state=False)),
            ("GET", "/v1/members", self._read_handler(reads.members, from_state=False)),
            ("GET", "/v1/nodes", self._read_handler(reads.nodes, uses_view=True)),
            ("GET", "/v1/nodes/watch", self._stream_handler(event_streams.stream_nodes)),
            ("GET", "/v1/events", self._stream_handler(event_streams.stream_journal)),
            ("GET", "/v1/cluster/watch", self._stream_handler(event_streams.stream_cluster)),
            ("GET", "/v1/live", self._stream_handler(event_streams.stream_cluster)),  # its name for old clients
            ("GET", "/v1/nodes/{node}", self._read_handler(reads.node, uses_view=True)),
            ("GET", "/v1/nodes/{node}/log", self._get_node_log),
            ("GET", "/v1/nodes/{node}/log-link", self._connect_node_log),
            ("GET", "/v1/documents", self._read_handler(reads.documents)),
            ("GET", "/v1/documents/{path:.+}", self._read_handler(reads.document)),
            ("GET", "/v1/commands", self._command_list),
            ("POST", "/v1/commands", self._commands),
            ("POST", "/v1/commands/outcome", self._command_outcome),
            ("GET", "/v1/history", self._read_handler(history.history)),
            ("GET", "/v1/terms", self._read_handler(reads.terms, from_state=False)),
            ("GET", "/v1/snapshots", self._read_handler(reads.snapshots, from_state=False)),
            ("GET", "/v1/snapshots/{name}", self._read_handler(reads.snapshot, from_state=False)),
            ("POST", "/v1/snapshots", self._save_snapshot),
            ("DELETE", "/v1/snapshots/{name}", self._delete_snapshot),
            ("GET", "/v1/config/history", self._read_handler(reads.config_history, from_state=False)),
            ("GET", "/v1/config", self._read_handler(reads.config, uses_view=True)),
            ("PUT", "/v1/config", self._put_config),
            ("GET", "/v1/status", self._read_handler(reads.status, uses_view=True, from_state=False)),
            ("POST", "/v1/leader/switchover", self._switchover),
            ("POST", "/v1/campaign", self._campaign),
            ("POST", "/v1/drill", self._drill),
            ("GET", "/v1/application", self._read_handler(reads.application)),
            ("PUT", "/v1/application", self._put_application),
            ("GET", "/v1/paused", self._get_paused),
            ("PUT", "/v1/paused", self._put_paused),
            ("DELETE", "/v1/paused", self._delete_paused),
            ("GET", "/v1/follow", self._follow),
            ("GET", "/openapi.json", self._openapi),
        ]

    async def _close(self, _: web.Application) -> None:
        await self._gate.close()
        await self._peers.close()
        await self._sources.store_scan.close()

    # --- every request ---

    @web.middleware
    async def _note_progress(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note when a request begins and ends. If its body was not read, the connection ends with it."""
        connection = request.protocol
        if isinstance(connection, GuardedConnection):
            connection.request_begun()
        try:
            response = await handler(request)
            if _unread(request) is not None:
                response.force_close()
            return response
        finally:
            release(request, self.admission)
            if isinstance(connection, GuardedConnection):
                connection.request_ended(_unread(request))

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what may not be served, and what this masterd has no time or memory for, before the body is received;
        then receive it."""
        if request.version < HttpVersion10:
            raise Invalid(f"HTTP/{request.version.major}.{request.version.minor} is too old: use HTTP/1.1")
        if (answer := self._gate.preflight(request)) is not None:
            return answer
        is_stream = await self._gate.admit(request)
        set_deadline(request, _ANSWER_S)
        if request.path == "/v1/commands" and (refusal := self.commands_refused()) is not None:
            raise refusal
        if request.body_exists:
            await receive_body(request, self.admission)
        raise_if_too_late(request)
        if not is_stream:
            response = await handler(request)
            self._gate.record_done(request, response.status)
            return response
        with self._gate.stream(request):
            return await handler(request)

    def commands_refused(self) -> NodectlError | None:
        """Why this masterd, as the leader, can accept no command now; None if it can, or if it does not lead."""
        leader = self._leadership.leader
        return None if leader is None or leader.has_ended else leader.overload

    @web.middleware
    async def _errors_to_problems(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turn every error into a problem document. A traceback goes to the log only."""
        try:
            return await handler(request)
        except NodectlError as error:
            # A stranger does not learn where the leader is, nor does a web page of another site.
            may_know = self._gate.knows_sender(request) and not isinstance(error, Denied)
            return problem_response(error, self._leader_router.leader_url if may_know else None)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            return http_problem(request, error)
        except web.RequestPayloadError as error:
            return problem_response(Invalid(f"{request.method} {request.path}: the body cannot be read: {error}"))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if isinstance(error, ClientConnectionResetError) or (
                isinstance(error, ConnectionError) and disconnected(request)
            ):
                log.debug("%s %s: the client disconnected", request.method, request.path)
                return web.Response()  # aiohttp drops it, as the connection is closed
            log.exception("%s %s failed", request.method, request.path)
            return problem_response(NodectlError(f"{request.method} {request.path} failed; see this master's log"))

    def _headers(self, local: bool) -> dict[str, str]:
        """Headers with this masterd's index, name and known term. For a local read also the age of its state in ms."""
        term, current = self._leadership.term, self._cluster_view.leader
        headers = {"Nodectl-Index": str(self._replica.index), "Nodectl-Master": self._own_id}
        if term is not None:
            headers["Nodectl-Term"] = str(term)
        elif current.record is not None:
            headers["Nodectl-Term"] = f"{self._cluster_view.epoch or '?'}.{current.revision}"
        if local:
            headers["Nodectl-Age-Ms"] = str(round(self._replica.age_s * 1000))
        return headers

    async def _leader_or_response(self, request: web.Request) -> Leader | web.StreamResponse:
        """This masterd's leader role, or the answer of the leader elsewhere."""
        return await self._leader_router.leader_or_response(request)

    def _read_handler(
        self,
        read: Read,
        *,
        uses_view: bool = False,
        from_state: bool = True,
    ) -> Handler:
        """The HTTP handler that serves `read`.

        A local read is answered at once. A linearizable read is served by the leader, after it has confirmed its term
        with a request to etcd that was sent after the read had arrived. uses_view: the answer also holds values of the
        cluster view; then that must have reached the revision of the confirmation as well. from_state: the answer
        holds values of the replica, so a replica that has never been complete answers no local read.
        """

        async def answer(request: web.Request) -> Any:
            found = await read(self._sources, request)
            hide = HIDING.get(read)
            return found if hide is None or shows_secrets(request) else await hide(await self._sources.secrets(), found)

        async def handle(request: web.Request) -> web.StreamResponse:
            if _is_local(request):
                if from_state:
                    self._replica.raise_if_unread()
                return await self._json_in_slices(await answer(request), True)

            async def confirm_and_read(leader: Leader) -> web.StreamResponse:
                await leader.confirm_read(include_view=uses_view)
                return await self._json_in_slices(await answer(request))

            return await self._leader_router.run_on_leader(request, confirm_and_read)

        return handle

    def _stream_handler(self, stream: Callable[[ReadSources, web.Request], Awaitable[web.StreamResponse]]) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await stream(self._sources, request)

        return handle

    def _json(self, value: Any, local: bool = False) -> web.Response:
        return web.Response(body=dumps(value), content_type="application/json", headers=self._headers(local))

    async def _json_in_slices(self, value: Any, local: bool = False) -> web.Response:
        """A JSON response that may be long, encoded in time slices. Its index header may be above the index of `value`,
        never below it."""
        headers = self._headers(local)  # before the encoding: commands applied meanwhile are not in `value`
        return web.Response(body=await dumps_in_slices(value), content_type="application/json", headers=headers)

    # --- leadership ---

    async def _get_health(self, request: web.Request) -> web.StreamResponse:
        """It needs no credential: it names no other PC and shows no data."""
        health: api_types.Health = {
            "id": self._own_id, "role": self._leadership.role, "index": self._replica.index,
            "problem": self._health.problem,
            "store": None if (mark := self._health.store_mark) is None else mark.model_dump(mode="json"),
        }  # fmt: skip
        if not self._gate.knows_sender(request):
            health["store"] = None
            health["problem"] = None if health["problem"] is None else "there is one; a credential is needed to see it"
        return self._json(health, True)

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        """Heartbeats of this leader's term, for standbys."""
        return await self._heartbeats.stream(request, self._leader_router.leader_url)

    async def _switchover(self, request: web.Request) -> web.StreamResponse:
        """Hand leadership over to a standby: pending commands are finished, then the standby takes over this term."""
        leader = await self._leader_or_response(request)
        if isinstance(leader, web.StreamResponse):
            return leader
        body = await read_body(request)
        target = self._successor(text_field(body, "to") or None)
        if self._cluster_view.paused is not None:
            raise Conflict("takeovers are paused: resume them first (nodectl master resume)")
        actor = principal_of(request).author(text_field(body, "actor") or "somebody")  # recorded, so never empty
        answer = await hand_over(leader, self._replica.index, target["url"], actor, self._peers)
        switched: api_types.Switchover = {"from": self._own_id, "to": target["id"], "term": answer["term"]}
        return self._json(switched)

    def _successor(self, wanted: str | None) -> api_types.MasterView:
        """The standby named `wanted`, or the best one. Raises Conflict, NotFound or Unavailable."""
        views = reads.standbys(self._sources)
        if wanted is not None and wanted == self._own_id:
            raise Conflict(f"{wanted} is the leader already")
        for view in views:
            unfit = view.get("unfit")
            if wanted == view["id"] and unfit is not None:
                raise Conflict(f"standby {wanted} is not fit to lead: {unfit}")
            if wanted in (None, view["id"]) and unfit is None:
                return view
        if wanted is None and views:
            reasons = "; ".join(f"{view['id']}: {view.get('unfit')}" for view in views)
            raise Unavailable(f"no standby is fit to lead: {reasons}")
        if wanted is not None:
            raise NotFound(f"there is no standby {wanted!r}; there are: {', '.join(v['id'] for v in views) or 'none'}")
        raise Unavailable("there is no standby to hand over to")

    async def _campaign(self, request: web.Request) -> web.StreamResponse:
        """Take over the leader's term. The leader sends this request to the standby to which it hands over."""
        body = await read_body(request)
        if self._leadership.leader is not None:
            raise Conflict(f"{self._own_id} is the leader already")
        revision = body.get("revision")
        if isinstance(revision, bool) or not isinstance(revision, int) or not 0 < revision < 1 << 63:
            raise Invalid("revision: expected the revision of the leader's term")
        won = await self._takeovers.take_over_from(revision, _author(request, body), _TAKEOVER_ORDER_TIMEOUT_S)
        await self._wait_serving(won.fence.term)
        epoch, revision = won.fence.term
        return self._json(api_types.Campaign(term={"epoch": epoch, "revision": revision}))

    async def _wait_serving(self, term: Term) -> None:
        """Wait until this masterd serves in `term`, which it has won.

        Raises Unavailable if it gave the term up or was deposed, and OutcomeUnknown after 5 s: it may serve later.
        """
        deadline = time.monotonic() + _SERVE_S
        while time.monotonic() < deadline:
            leader = self._leadership.leader
            if leader is not None and leader.fence.term == term and leader.serving.is_set():
                return
            if self._leadership.given_up_term == term:
                raise Unavailable(f"{self._own_id} took over and could not lead: {self._leadership.give_up_reason}")
            if self._cluster_view.leader.revision > term.revision:
                raise Unavailable(f"{self._own_id} took over and was replaced before it served")
            await asyncio.sleep(_SERVE_POLL_S)
        raise OutcomeUnknown(f"{self._own_id} took over, and does not serve after {_SERVE_S:g} s: see `nodectl status`")

    async def _drill(self, request: web.Request) -> web.StreamResponse:
        """Kill or freeze this leader, if drills are allowed."""
        leader = await self._leader_or_response(request)
        if isinstance(leader, web.StreamResponse):
            return leader
        return self._json(
            fault_injection.start_drill(
                self._sources,
                leader,
                fault_injection.parse_drill_request(await read_body(request), principal_of(request)),
                allowed=self._drills_allowed,
            )
        )

    # --- logs of nodes ---

    async def _get_node_log(self, request: web.Request) -> web.StreamResponse:
        """A piece of the log of a node's program, which the leader asks from the node's noded."""
        answer = await self._leader_router.run_on_leader(request, lambda _: self._node_logs.read(request))
        return await send_within(request, answer)

    async def _connect_node_log(self, request: web.Request) -> web.StreamResponse:
        """The connection over which noded sends pieces of its program's log."""
        return await self._node_logs.serve_link(request, self._leader_router.leader_url)

    # --- commands ---

    async def _commands(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request)
        batch_items = body.get("commands")
        if batch_items is not None and (not isinstance(batch_items, list) or not 0 < len(batch_items) <= COMMANDS_MAX):
            raise Invalid(f"commands: expected a list of 1 to {COMMANDS_MAX} commands")
        is_single, principal = batch_items is None, principal_of(request)
        requests = [
            parse_command(item, "" if is_single else f"commands[{position}].", principal)
            for position, item in enumerate([body] if batch_items is None else batch_items)
        ]

        self._gate.check_commands(request, requests)
        if not principal.sees_secrets:
            fields = (await self._sources.secrets()).fields
            for command in requests:
                check_no_mask(command.name, command.args, fields)

        async def run(leader: Leader) -> web.StreamResponse:
            outcomes = await leader.submit(
                requests, deadline=min(deadline_of(request), time.monotonic() + _COMMIT_S),
                is_wanted=lambda: not disconnected(request),
            )  # fmt: skip
            self._gate.record_refusals(request, [outcome.error for outcome in outcomes])
            lost = [outcome.error for outcome in outcomes if isinstance(outcome.error, LeadershipLost)]
            if len(lost) == len(outcomes):
                raise lost[0]  # no command was run, so the router may send all of them to the next leader
            if not is_single:
                return self._answer(self._outcomes(outcomes))
            if outcomes[0].error is not None:
                raise outcomes[0].error
            return self._answer(_outcome(outcomes[0]))

        return await self._leader_router.run_on_leader(request, run)

    async def _command_outcome(self, request: web.Request) -> web.StreamResponse:
        """What became of a command. If it has not taken effect, its id is closed; see state_machine/closed_ids.py."""
        question = parse_outcome_question(await read_body(request), principal_of(request))

        async def ask(leader: Leader) -> web.StreamResponse:
            (outcome,) = await leader.submit(
                [question], deadline=min(deadline_of(request), time.monotonic() + _COMMIT_S),
                is_wanted=lambda: not disconnected(request),
            )  # fmt: skip
            if outcome.error is not None and not isinstance(outcome.error, ResultForgotten):
                raise outcome.error
            settled = _settled(outcome)
            if not shows_secrets(request):  # who asks need not be the one who sent the command
                settled["result"] = (await self._sources.secrets()).content(settled["result"])
            return self._json(settled)

        return await self._leader_router.run_on_leader(request, ask)

    def _outcomes(self, outcomes: list[CommandOutcome]) -> api_types.Outcomes:
        results = [_outcome(item) if item.error is None else _not_committed(item.id, item.error) for item in outcomes]
        return {"results": results, "index": self._replica.index}

    def _answer(self, value: api_types.Outcome | api_types.Outcomes) -> web.Response:
        return web.Response(body=dumps(value), content_type="application/json")

    # --- snapshots ---

    async def _save_snapshot(self, request: web.Request) -> web.StreamResponse:
        """Save the present state as a named snapshot, which is kept until it is deleted."""
        leader = await self._leader_or_response(request)
        if isinstance(leader, web.StreamResponse):
            return leader
        name = (await read_body(request)).get("name")
        if not isinstance(name, str):
            raise Invalid("name: expected the snapshot's name")
        await leader.confirm_read()
        return self._json(reads.manifest_json(await leader.archive.save(name)))

    async def _delete_snapshot(self, request: web.Request) -> web.StreamResponse:
        leader = await self._leader_or_response(request)
        if isinstance(leader, web.StreamResponse):
            return leader
        await leader.archive.delete(request.match_info["name"])
        return self._json(api_types.Deleted(deleted=request.match_info["name"]))

    # --- configuration, pause ---

    async def _put_config(self, request: web.Request) -> web.StreamResponse:
        """Write a configuration, fenced by this leader's term. The commit loop adopts it later."""

        async def apply(leader: Leader) -> web.StreamResponse:
            body = await read_body(request)
            version = await self._configuration.apply(
                body.get("inventory"), source=text_field(body, "source", bytes_max=None),
                expect_version=body.get("expect_version"),
                actor=_author(request, body), compares=leader.fence.compares(self._sources.keys),
            )  # fmt: skip
            return self._json(api_types.ConfigVersion(version=version))

        return await self._leader_router.run_on_leader(request, apply)

    async def _get_paused(self, request: web.Request) -> web.StreamResponse:
        """The pause, from memory or by a linearizable read of etcd. It needs no leader: a pause may be why there is
        none."""
        local = _is_local(request)
        paused = self._cluster_view.paused if local else await self._configuration.paused()
        return self._json(paused.model_dump(mode="json") if paused else {}, local)

    async def _put_paused(self, request: web.Request) -> web.StreamResponse:
        body = await read_body(request)
        paused = await self._configuration.pause(_author(request, body), text_field(body, "reason"))
        return self._json(paused.model_dump(mode="json"))

    async def _delete_paused(self, _: web.Request) -> web.StreamResponse:
        await self._configuration.resume()
        return self._json({})

    async def _command_list(self, _: web.Request) -> web.StreamResponse:
        """The commands of this masterd's application, described once."""
        if self._described_commands is None:
            self._described_commands = await asyncio.to_thread(openapi.command_list, self._sources.application)
        return self._json(self._described_commands, True)

    async def _put_application(self, request: web.Request) -> web.StreamResponse:
        """Order that another application may lead. Any masterd does this if there is no leader, because with another
        application than the recorded one there can be none."""
        try:
            leader = await self._leader_or_response(request)
        except NotLeader:
            log.info("adopting an application without a leader")
        else:
            if isinstance(leader, web.StreamResponse):
                return leader
            await leader.confirm_read()
        body = await read_body(request)
        name = text_field(body, "name")
        running = {item.application for item in self._cluster_view.candidates.items.values() if item.application}
        if name not in running:
            raise Conflict(
                f"no running masterd has application {name!r}, so it could not lead; "
                f"there are: {', '.join(sorted(running)) or 'none'}"
            )
        if self._replica.problem is not None:
            raise Unavailable(f"{self._own_id} does not know the recorded application: {self._replica.problem}")
        recorded = self._replica.state.application
        order = await self._configuration.adopt_application(name, recorded, _author(request, body))
        return self._json(order.model_dump(mode="json"))

    async def _openapi(self, _: web.Request) -> web.StreamResponse:
        """The OpenAPI document, generated once."""
        if self._openapi_document is None:
            # In a thread: on a slow PC it takes longer than standbys wait for a heartbeat.
            self._openapi_document = await asyncio.to_thread(openapi.document, self._sources.application)
        return self._json(self._openapi_document, True)


def _author(request: web.Request, body: dict[str, Any]) -> str:
    """The author of this request: its principal, or without access control the one that it names."""
    return principal_of(request).author(actor_of(body))


def _path_of(route: web.AbstractRoute) -> str:
    """The path of a route, with `{name}` for each variable part."""
    return "" if route.resource is None else route.resource.canonical


def _unread(request: web.Request) -> StreamReader | None:
    """The body, if the client has not sent all of it or this masterd has not read it."""
    return request.content if request.body_exists and not request.content.is_eof() else None


async def _expect_later(_: web.Request) -> None:
    """Do not ask for the body yet: `receive_body` does, once it is admitted."""


def _is_local(request: web.Request) -> bool:
    consistency = request.query.get("consistency", "linearizable")
    if consistency not in ("local", "linearizable"):
        raise Invalid(f"consistency: expected local or linearizable, got {consistency!r}")
    return consistency == "local"


def _not_committed(id: str, error: NodectlError) -> api_types.NotCommitted:
    return {"id": id, "problem": problem_of(error)}


def _outcome(outcome: CommandOutcome) -> api_types.Outcome:
    return {"id": outcome.id, "index": outcome.index, "result": outcome.result, "repeated": outcome.repeated}


def _settled(outcome: CommandOutcome) -> api_types.SettledOutcome:
    kept = outcome.error is None and not outcome.closed
    return {
        "id": outcome.id, "took_effect": not outcome.closed, "index": outcome.index,
        "result": outcome.result if kept else None, "result_kept": kept,
    }  # fmt: skip
