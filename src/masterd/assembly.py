"""Builds the parts of one masterd. Each part gets exactly what it uses, so this module shows every dependency.

Each part is built from parts that exist already. Two dependencies would be circular. Each of them goes through an
object that depends on no other part: `Leadership`, which `Master` changes and other parts read, and the event
`candidacy_changed`, which the placement of etcd's leader sets and `Candidacy` waits for.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from aiohttp import web

from masterd.api.access.access_routes import AccessRoutes
from masterd.api.access.audit import AuditLog
from masterd.api.access.browser_rules import BrowserRules
from masterd.api.access.credential_uses import CredentialUses
from masterd.api.access.credentials import Credentials, PeerIdentityOf
from masterd.api.access.gate import Gate
from masterd.api.access.join_routes import JoinRoutes
from masterd.api.access.session_routes import SessionRoutes
from masterd.api.access.sessions.browser_sessions import BrowserSessions, SessionLimits
from masterd.api.access.sessions.cookies import SessionCookie
from masterd.api.access.slow_refusals import SlowRefusals
from masterd.api.access.switch import AccessSwitch
from masterd.api.admission import Admission, AdmissionLimits, caller_of
from masterd.api.connections.connection_guard import ConnectionGuard
from masterd.api.connections.guarded_server import peer_identity
from masterd.api.heartbeats import Heartbeats
from masterd.api.leader_routing import LeaderRouter
from masterd.api.node_logs.node_logs import NodeLogs
from masterd.api.read_sources import ReadSources
from masterd.api.routes import Api
from masterd.api.secret_views.hiding import SecretMarks
from masterd.application.contract import Application
from masterd.application.identity import ApplicationIdentity
from masterd.election.campaign import Campaign, MasterIdentity, rank_of
from masterd.election.heartbeat_listener import SessionFactory
from masterd.election.heartbeat_listener import open_session as open_follow_session
from masterd.election.timeline import Timeline
from masterd.replication.claim_changes import ClaimChanges
from masterd.replication.cluster_view import ClusterView
from masterd.replication.pc_clocks import PcClocks
from masterd.replication.replica import NOT_READ, Replica
from masterd.roles.candidacy import Candidacy
from masterd.roles.fitness import MasterFitness
from masterd.roles.health import MasterHealth
from masterd.roles.leadership import Leadership
from masterd.roles.master import Master
from masterd.roles.peers import PeerClient
from masterd.roles.rehearsal import Rehearsal
from masterd.roles.self_report import SelfReport
from masterd.settings import MasterSettings
from masterd.term.derivation.warm_start import WarmStart
from masterd.term.leader import Leader
from masterd.term.parts import build_term_parts
from masterd.upkeep.etcd_leader_placement import EtcdLeaderPlacement
from masterd.upkeep.master_addresses import MasterAddresses
from masterd.upkeep.space_keeper import SpaceKeeper
from masterd.upkeep.store_scan import StoreScan
from nodestore.cluster.configuration import Configuration
from nodestore.cluster.election import TakeoverWon
from nodestore.cluster.grants import Grants
from nodestore.cluster.join_tokens import JoinTokens
from nodestore.cluster.store_identity import StoreIdentity
from nodestore.etcd.session import Etcd
from nodestore.schema.keys import Keys
from nodestore.support.tls_context import FollowingContext


@dataclass(frozen=True, slots=True)
class MasterdParts:
    """The parts of one masterd that others use: the daemon, the API, and tests."""

    me: MasterIdentity
    settings: MasterSettings
    leadership: Leadership
    cluster_view: ClusterView
    replica: Replica
    campaign: Campaign
    health: MasterHealth
    read_sources: ReadSources
    master: Master


def build_parts(
    etcd: Etcd,
    keys: Keys,
    me: MasterIdentity,
    application: Application,
    settings: MasterSettings,
    *,
    maintenance: Etcd | None = None,
    wall_clock: Callable[[], float] = time.time,
    leader_type: type[Leader] = Leader,
    cluster_view: ClusterView | None = None,
    open_session: SessionFactory | None = None,
    peers_tls: ssl.SSLContext | None = None,
    warning: Callable[[], str | None] = lambda: None,
) -> MasterdParts:
    """Build everything but the API. Nothing runs before `master.run` is awaited.

    `maintenance` is a session with root's rights in etcd, for maintenance calls; by default it is `etcd`.
    `leader_type` and `cluster_view` replace those parts in tests; `open_session` replaces the HTTP sessions in which
    the leader's heartbeats are received. `peers_tls`: the context for connections to other masterds. `warning`: returns
    what the candidacy is to warn of, besides the certificates of the sessions with etcd.
    """
    maintenance = maintenance or etcd
    open_session = open_session or partial(open_follow_session, peers_tls)
    leadership = Leadership()
    candidacy_changed = asyncio.Event()

    # replication
    cluster_view = cluster_view or ClusterView(etcd, keys)
    store = StoreIdentity(etcd, keys, settings.store_memory(keys.cluster))
    replica = Replica(etcd, keys, store, me.nonce)
    claim_changes = ClaimChanges(cluster_view.alive)
    pc_clocks = PcClocks(cluster_view, me.host, wall_clock)

    # upkeep
    space_keeper = SpaceKeeper(maintenance, etcd, cluster_view, settings.space, lambda: _own_rank(me, cluster_view))
    placement = EtcdLeaderPlacement(maintenance, settings.find_member, leadership.confirmation, candidacy_changed.set)
    store_scan = StoreScan(etcd, keys)

    # election and term
    warm_start = WarmStart(replica, application, settings.leader.derivation)
    identity = ApplicationIdentity.of(application)
    rehearsal = Rehearsal(replica, application, leadership, settings.leader.derivation.node_s)
    fitness = MasterFitness(
        identity.name, leadership=leadership, cluster_view=cluster_view, replica=replica, rehearsal=rehearsal
    )
    campaign = Campaign(etcd, keys, me, cluster_view, replica, settings.timing, fitness, open_session, store)
    campaign.on_takeover_sent = warm_start.start

    def new_leader(won: TakeoverWon, timeline: Timeline) -> Leader:
        parts = build_term_parts(
            etcd, keys, master=me.id, won=won, timeline=timeline, replica=replica, cluster_view=cluster_view,
            application=application, space_keeper=space_keeper, warm_start=warm_start, settings=settings.leader,
            wall_clock=wall_clock, target_time=pc_clocks.target,
        )  # fmt: skip
        return leader_type(parts)

    # roles
    health = MasterHealth(
        etcd, maintenance, leadership=leadership, cluster_view=cluster_view, replica=replica,
        space_keeper=space_keeper, placement=placement, fitness=fitness, store=store,
    )  # fmt: skip

    def self_report() -> SelfReport:
        if leadership.leader is not None:  # its state is complete, and what it can derive is known in earnest
            return SelfReport(identity, 0.0, health.problem, fitness.barred, None)
        is_starting = replica.problem == NOT_READ and fitness.unfit is None
        age_s, problem = (0.0, None) if is_starting else (replica.age_s, health.problem)
        return SelfReport(identity, age_s, problem, fitness.unfit, rehearsal.report)

    candidacy = Candidacy(
        etcd, keys, me, candidates=cluster_view.candidates, replica=replica,
        hosts_etcd_leader=lambda: placement.hosts_etcd_leader, self_report=self_report, changed=candidacy_changed,
        warning=lambda: joined_warnings(etcd.certificate_warning, maintenance.certificate_warning, warning()),
        wall_clock=wall_clock,
        store=store,
    )  # fmt: skip
    master = Master(
        etcd, keys, me, leadership=leadership, cluster_view=cluster_view, replica=replica, candidacy=candidacy,
        campaign=campaign, fitness=fitness, rehearsal=rehearsal, warm_start=warm_start, new_leader=new_leader,
        store=store, space_keeper=space_keeper, placement=placement, lease_ttl_s=settings.lease_ttl_s,
        give_up_retry_s=settings.give_up_retry_s, peers_tls=peers_tls,
    )  # fmt: skip
    read_sources = ReadSources(
        own_id=me.id, keys=keys, etcd=etcd, maintenance=maintenance, cluster_view=cluster_view, replica=replica,
        snapshots=replica.snapshots, application=application, leadership=leadership, health=health,
        store_scan=store_scan, claim_changes=claim_changes, secret_marks=SecretMarks(application),
    )  # fmt: skip
    return MasterdParts(me, settings, leadership, cluster_view, replica, campaign, health, read_sources, master)


def build_api(
    parts: MasterdParts,
    limits: AdmissionLimits | None = None,
    *,
    peer_identity: PeerIdentityOf = peer_identity,
    peers_tls: ssl.SSLContext | None = None,
    audit: AuditLog | None = None,
) -> Api:
    """Build the HTTP API of a masterd. Closing its web application also ends a running scan of the store.

    limits: of what clients may make it hold; by default a body may be as large as an entry of the journal.
    peer_identity: whom the client certificate of a request's connection names. peers_tls: see `build_parts`.
    audit: the audit log; None: a new one.
    """
    sources, settings = parts.read_sources, parts.settings
    peers = PeerClient(peers_tls)
    router = LeaderRouter(
        parts.me, leadership=parts.leadership, health=parts.health, cluster_view=parts.cluster_view,
        takeovers=parts.campaign, peers=peers,
    )  # fmt: skip
    limits = limits or AdmissionLimits(body_bytes_max=settings.leader.limits.entry_bytes_max)
    view, replica = sources.cluster_view, sources.replica
    switch = AccessSwitch(view, required=settings.require_credentials)

    def cluster_time() -> float:
        """The time at which credentials end: the later one of this PC's and the cluster's."""
        return max(time.time(), replica.state.time)

    audit = audit or AuditLog(settings.audit_file)
    refusals, browsers = SlowRefusals(), _browser_rules(parts.me, settings)
    cookie = SessionCookie(sources.keys.cluster)
    session_limits = SessionLimits(idle_s=settings.session_idle_s, lasts_s=settings.session_lasts_s)
    sessions = BrowserSessions(sources.etcd, sources.keys, view.browser_sessions, cluster_time, session_limits)
    credentials = Credentials(view.grants, sessions, cookie, peer_identity, cluster_time)
    gate = Gate(browsers, switch, credentials, sessions, refusals, audit)
    view.grants.subscribe(gate.credentials_changed)
    view.browser_sessions.subscribe(gate.sessions_changed)
    switch.on_change = gate.end_streams
    grants = Grants(sources.etcd, sources.keys)
    uses = CredentialUses(parts.me.id, grants, lambda: view.grants.items, audit, cluster_time)
    gate.on_admitted = uses.note
    api = Api(
        sources, peers=peers, router=router, takeovers=parts.campaign, drills_allowed=settings.allow_drills,
        heartbeats=Heartbeats(parts.me.id, parts.leadership, parts.replica, settings.timing.beat_s),
        node_logs=NodeLogs(sources), configuration=Configuration(sources.etcd, sources.keys),
        admission=Admission(limits), gate=gate,
        access_routes=AccessRoutes(
            parts.me.id, grants=grants, uses=uses, view=view, switch=switch, audit=audit,
            joins=JoinRoutes(JoinTokens(sources.etcd, sources.keys, cluster_time), audit),
        ),
        session_routes=SessionRoutes(sessions, credentials, cookie, browsers, refusals, audit, view),
    )  # fmt: skip
    api.app.on_cleanup.append(uses.close)
    return api


def _browser_rules(me: MasterIdentity, settings: MasterSettings) -> BrowserRules:
    """The rules for browsers of a masterd that is reached under the names of its URLs and of its PC."""
    names = {host for url in me.urls if (host := urlsplit(url).hostname) is not None}
    return BrowserRules({*names, me.host, *settings.allowed_hosts}, settings.allowed_origins)


def build_guard(
    parts: MasterdParts, api: Api, *, tls: FollowingContext | None = None, plain_port: int | None = None
) -> ConnectionGuard:
    """Build the guard of the connections of `api`. It knows other masterds by the addresses in their candidacies.

    tls, plain_port: see `ConnectionGuard`.
    """
    candidates = parts.cluster_view.candidates
    addresses = MasterAddresses(lambda: [url for item in candidates.items.values() for url in item.urls])

    async def close_addresses(_: web.Application) -> None:
        await addresses.close()

    api.app.on_cleanup.append(close_addresses)
    return ConnectionGuard(
        api.admission, lambda address: caller_of(address, addresses.current()), api.commands_refused,
        tls=tls, plain_port=plain_port,
    )  # fmt: skip


def joined_warnings(*warnings: str | None) -> str | None:
    """The warnings that there are, each once, in one line; None if there is none."""
    return "; ".join(dict.fromkeys(text for text in warnings if text)) or None


def _own_rank(me: MasterIdentity, cluster_view: ClusterView) -> int:
    """The number of candidates that rank before this masterd. The last leader is not counted."""
    last = cluster_view.last_leader.record
    return rank_of(me.id, last.id if last else None, cluster_view.candidates.items)
