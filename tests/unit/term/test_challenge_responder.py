"""The leader's answers to challenges: fenced, and to challenges of its own term only."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from masterd.replication.cluster_view import ClusterView
from masterd.term.challenge_responder import ChallengeResponder
from nodestore.errors import LeadershipLost
from nodestore.schema.models import Answer, Challenge, decode
from tests.support.fakes.first_term import KEYS, Term1, first_term
from tests.support.waiting import eventually


def _responder(term: Term1, **challenges: Challenge) -> ChallengeResponder:
    mirror: Any = SimpleNamespace(items=challenges, subscribe=lambda callback: lambda: None)
    return ChallengeResponder(term.etcd, KEYS, term.fence, cast(ClusterView, SimpleNamespace(challenges=mirror)))


async def test_challenges_of_the_term_are_answered() -> None:
    """With the nonce of the challenge. One of another term gets no answer."""
    async with first_term() as term:
        own = term.fence.term.revision
        responder = _responder(term, m2=Challenge(term=own - 1, nonce="old"), m3=Challenge(term=own, nonce="new"))
        running = asyncio.create_task(responder.run())
        await eventually(lambda: term.keys(KEYS.answers) != [], "an answer is written")
        running.cancel()
        await asyncio.wait((running,))
        assert term.keys(KEYS.answers) == ["m3"]
        raw = term.value(KEYS.answer("m3"))
        assert raw is not None
        assert decode(Answer, raw, "answer") == Answer(term=own, nonce="new")


@pytest.mark.parametrize("key", [KEYS.leader, KEYS.epoch])
async def test_a_deposed_leader_answers_no_challenge(key: str) -> None:
    """An answer would keep the suspicion of the new leader from being raised. Its term ends instead."""
    async with first_term() as term:
        responder = _responder(term, m2=Challenge(term=term.fence.term.revision, nonce="new"))
        term.put(key)
        running = asyncio.create_task(responder.run())
        await eventually(lambda: running.done() or term.keys(KEYS.answers) != [], "it has answered, or has ended")
        running.cancel()
        with pytest.raises(LeadershipLost):
            await running
        assert term.keys(KEYS.answers) == []
