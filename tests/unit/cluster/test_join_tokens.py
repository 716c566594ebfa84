"""Join tokens: each use is counted once, whoever dies when, and no use is counted beyond the limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from nodestore.cluster.join_tokens import JOIN_TOKENS_MAX, JoinTokens
from nodestore.errors import Conflict, Denied, Invalid, OutcomeUnknown
from nodestore.schema.keys import Keys
from nodestore.schema.models import JoinToken, decode
from nodestore.support.tokens import (
    JoinTokenText,
    Token,
    TokenHash,
    hash_of,
    hide_token_secrets,
    new_token,
    parse_join_token,
    parse_token,
)
from tests.support.fakes.unsure_store import UnsureStore

KEYS = Keys("test")
TOKEN = Token("00" * 8, "s" * 43)
MADE = TokenHash(TOKEN.id, hash_of(TOKEN.secret))
DAY_S = 86_400.0


class Case(UnsureStore):
    """A store with faults, and a clock."""

    now = 1_000.0

    @asynccontextmanager
    async def tokens(self, **more: Any) -> AsyncIterator[JoinTokens]:
        """The join tokens of a store that holds TOKEN."""
        async with self.sessions() as (etcd, _):
            tokens = JoinTokens(etcd, KEYS, lambda: self.now)
            await create(tokens, **more)
            yield tokens

    def stored(self) -> JoinToken:
        return decode(JoinToken, self.value(KEYS.join(TOKEN.id)), "the token")


async def create(tokens: JoinTokens, made: TokenHash = MADE, **more: Any) -> JoinToken:
    options = {"uses": 2, "lasts_s": DAY_S, "actor": "ann", **more}
    return await tokens.create(made, options.pop("kind", "host"), **options)


async def test_each_use_is_counted_until_none_is_left() -> None:
    async with Case().tokens() as tokens:
        first = await tokens.use(TOKEN, by="pc1 key1", name="pc1", address="10.0.0.1")
        assert (first.kind, first.uses_left) == ("host", 1)
        assert (await tokens.use(TOKEN, by="pc2 key2", name="pc2")).uses_left == 0
        with pytest.raises(Denied, match="was used 2 times, which is its limit: make a new one"):
            await tokens.use(TOKEN, by="pc3 key3", name="pc3")
        [found] = (await tokens.list()).values()
        assert [(use.by, use.address) for use in found.used] == [("pc1 key1", "10.0.0.1"), ("pc2 key2", "")]


async def test_a_repeat_is_no_further_use() -> None:
    """A joiner that was interrupted asks again, also after the last use."""
    async with Case().tokens(uses=1) as tokens:
        for _ in range(3):
            assert (await tokens.use(TOKEN, by="pc1 key1", name="pc1")).uses_left == 0


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_lost_answer_counts_no_second_use(arrives: bool) -> None:
    case = Case()
    async with case.tokens() as tokens:
        case.fates = [case.broken(arrives=arrives)]
        assert (await tokens.use(TOKEN, by="pc1", name="pc1")).uses_left == 1
        assert (await tokens.use(TOKEN, by="pc1", name="pc1")).uses_left == 1


async def test_a_use_that_another_one_follows_before_the_answer_is_counted_once() -> None:
    """The transaction took effect, its answer is lost, and another signer writes before it is sent again."""
    case = Case()
    async with case.tokens(uses=3) as tokens:

        def other_use() -> None:
            found = case.stored()
            both = found.model_copy(update={"used": (*found.used, found.used[0].model_copy(update={"by": "pc2"}))})
            case.writes(KEYS.join(TOKEN.id), both.encode())()

        case.fates = [case.broken(arrives=True, meanwhile=other_use)]
        found = await tokens.use(TOKEN, by="pc1", name="pc1")
        assert [use.by for use in found.used] == ["pc1", "pc2"]


async def test_etcd_that_does_not_answer_leaves_the_use_unknown_and_a_repeat_settles_it() -> None:
    case = Case()
    async with case.tokens(uses=1) as tokens:
        case.fates = [case.broken(arrives=True), *(case.broken(arrives=False) for _ in range(4))]
        with pytest.raises(OutcomeUnknown):
            await tokens.use(TOKEN, by="pc1", name="pc1")
        assert (await tokens.use(TOKEN, by="pc1", name="pc1")).uses_left == 0


async def test_of_many_at_the_same_time_no_more_succeed_than_the_limit_allows() -> None:
    case = Case()
    async with case.tokens(uses=3) as tokens:
        used = [tokens.use(TOKEN, by=f"pc{number}", name=f"pc{number}") for number in range(8)]
        results = await asyncio.gather(*used, return_exceptions=True)
        assert sum(isinstance(result, JoinToken) for result in results) == 3
        assert sum(isinstance(result, Denied) for result in results) == 5
        assert len(case.stored().used) == 3


async def test_a_token_that_is_revoked_or_ended_or_for_another_name_is_refused() -> None:
    case = Case()
    async with case.tokens(kind="operator", name="jo") as tokens:
        with pytest.raises(Denied, match="is for the name 'jo' only"):
            await tokens.use(TOKEN, by="bo", name="bo")
        case.now += DAY_S
        with pytest.raises(Denied, match="has ended: make a new one"):
            await tokens.use(TOKEN, by="jo", name="jo")
        case.now = 0.0
        assert await tokens.revoke(TOKEN.id)
        assert not await tokens.revoke(TOKEN.id)
        with pytest.raises(Denied, match="not valid: it is unknown or was revoked"):
            await tokens.use(TOKEN, by="jo", name="jo")


async def test_without_the_secret_the_answer_does_not_show_whether_a_token_exists() -> None:
    case = Case()
    async with case.tokens(uses=1) as tokens:
        answers = set()
        for token in (TOKEN._replace(secret="x" * 43), Token("11" * 8, "x" * 43)):
            with pytest.raises(Denied) as caught:
                await tokens.use(token, by="pc1", name="pc1")
            answers.add(str(caught.value))
        assert len(answers) == 1
        assert case.stored().used == ()


async def test_a_token_that_was_revoked_during_a_use_is_refused() -> None:
    """The transaction compares the token, so a use is never written after the revocation."""
    case = Case()
    async with case.tokens() as tokens, case.sessions() as (_, witness):
        case.fates = [case.broken(arrives=False, meanwhile=case.deletes(KEYS.join(TOKEN.id)))]
        with pytest.raises(Denied):
            await tokens.use(TOKEN, by="pc1", name="pc1")
        assert await witness.get(KEYS.join(TOKEN.id)) is None


async def test_creating_again_changes_nothing_and_a_taken_id_is_a_conflict() -> None:
    async with Case().tokens() as tokens:
        await tokens.use(TOKEN, by="pc1", name="pc1")
        assert (await create(tokens)).uses_left == 1
        with pytest.raises(Conflict, match="is taken by another join token"):
            await create(tokens, MADE._replace(hash="0" * 64))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "boss"}, "kind: 'boss' is not one of node, host, operator"),
        ({"kind": "operator"}, "a join token of the kind operator needs the name of the person"),
        ({"name": "a/b"}, "host name 'a/b' is not allowed"),
        ({"uses": 0}, "uses: 0 is not between 1 and 100"),
        ({"uses": 101}, "uses: 101 is not between 1 and 100"),
        ({"lasts_s": 0}, "lasts for more than no time, and for at most a year"),
        ({"actor": "x" * 257}, "actor: 257 bytes of text"),
    ],
)
async def test_a_token_that_cannot_be_is_invalid(change: dict[str, Any], says: str) -> None:
    async with Case().tokens() as tokens:
        with pytest.raises(Invalid, match=says):
            await create(tokens, TokenHash("11" * 8, "1" * 64), **change)


async def test_tokens_that_ended_long_ago_make_room() -> None:
    case = Case()
    async with case.tokens() as tokens:
        for number in range(1, JOIN_TOKENS_MAX):
            case.writes(KEYS.join(f"{number:016x}"), case.stored().encode())()
        another = TokenHash("ff" * 8, "f" * 64)
        with pytest.raises(Conflict, match="there are 1000 join tokens already: revoke some"):
            await create(tokens, another)
        case.now += 32 * DAY_S
        await create(tokens, another)
        assert list(await tokens.list()) == [another.id]


def test_a_join_token_is_read_as_it_was_written() -> None:
    text = JoinTokenText("a" * 64, new_token())
    assert parse_join_token(str(text)) == text
    assert parse_join_token(str(text.token)) is None
    assert parse_token(str(text)) is None


def test_the_secret_of_a_join_token_is_left_out_of_texts() -> None:
    text = JoinTokenText("a" * 64, TOKEN)
    assert hide_token_secrets(f"--token {text}: no") == f"--token NCT1.{'a' * 64}.{TOKEN.id}.***: no"
    assert hide_token_secrets(f"--token {TOKEN}: no") == f"--token NCT1.{TOKEN.id}.***: no"
