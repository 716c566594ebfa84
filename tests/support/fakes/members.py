"""Answers of fake members to the calls of `nodestore.etcd.maintenance`."""

from __future__ import annotations

from typing import Any

from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.types import Member, MemberStatus


def status_response(status: MemberStatus) -> Any:
    """The answer of a member with this status to Maintenance/Status."""
    return pb.StatusResponse(
        header=pb.ResponseHeader(member_id=status.member, revision=status.revision),
        leader=status.leader,
        version=status.version,
        dbSize=status.db_bytes,
        dbSizeInUse=status.db_in_use_bytes,
        raftTerm=status.raft_term,
        raftIndex=status.raft_index,
        errors=status.errors,
        dbSizeQuota=status.quota_bytes,
    )


def member_list_response(*members: Member) -> Any:
    """The answer to Cluster/MemberList."""
    return pb.MemberListResponse(
        members=[
            pb.Member(
                ID=member.id, name=member.name, clientURLs=member.client_urls, peerURLs=member.peer_urls,
                isLearner=member.learner,
            )
            for member in members
        ]
    )  # fmt: skip
