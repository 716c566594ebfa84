"""`BlockingClient`: the methods of `Client` as blocking calls on its own thread, interrupted and closed at any
moment."""

from __future__ import annotations

import _thread
import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from nodectl import BlockingClient, Client, CommandOutcomeUnknown, State
from nodectl.client.blocking.background_loop import BackgroundLoop, LoopStopped
from nodestore.errors import Invalid, NotFound, OutcomeUnknown, Unavailable
from tests.support.fakes.masterd import FakeCluster, FakeMasterd, fake_cluster, node_view

T = TypeVar("T")
WAIT_S = 20.0
NEVER = "http://127.0.0.1:1"

METHODS = sorted(name for name, member in vars(BlockingClient).items() if callable(member) and name[0] != "_")
ONLY_BLOCKING = {"run", "iterate"}


def open_client(cluster: FakeCluster, **more: Any) -> BlockingClient:
    return BlockingClient(cluster.urls, actor="test", read_timeout_s=WAIT_S, command_timeout_s=WAIT_S, **more)


async def in_thread(script: Callable[[], T]) -> T:
    """Run a script without asyncio, while this event loop serves the masters."""
    async with asyncio.timeout(2 * WAIT_S):
        return await asyncio.to_thread(script)


# --- the same methods -------------------------------------------------------------------------------------------------


def test_every_public_name_of_the_client_is_there() -> None:
    """A new method of Client fails this test until it has its blocking form."""
    with_attributes = {name for name in {*dir(Client), *vars(Client(NEVER))} if not name.startswith("_")}
    blocking = {name for name in dir(BlockingClient) if not name.startswith("_")}
    assert blocking - ONLY_BLOCKING == with_attributes


@pytest.mark.parametrize("name", ["__init__", *sorted(set(METHODS) - ONLY_BLOCKING)])
def test_parameters_are_those_of_the_client(name: str) -> None:
    ours, theirs = inspect.signature(getattr(BlockingClient, name)), inspect.signature(getattr(Client, name))
    assert ours.parameters == theirs.parameters


@pytest.mark.parametrize("name", sorted(set(METHODS) - ONLY_BLOCKING))
def test_every_method_has_its_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(BlockingClient, name))


# --- calls ------------------------------------------------------------------------------------------------------------


async def test_commands_and_reads_block_and_return_the_same() -> None:
    async with fake_cluster() as cluster:
        cluster.nodes["n1"] = node_view("n1")

        def script() -> tuple[int, bool, list[str], State]:
            with open_client(cluster) as client:
                done = client.command("x", {"a": 1}, id="one")
                again = client.command("x", {"a": 1}, id="one", after=0)
                return done.index, again.repeated, [node["name"] for node in client.nodes()], client.state

        assert await in_thread(script) == (1, True, ["n1"], "connected")


async def test_errors_are_those_of_the_client() -> None:
    async with fake_cluster() as cluster:

        def script() -> None:
            with open_client(cluster) as client:
                with pytest.raises(NotFound, match="no node"):
                    client.node("n7")
                with pytest.raises(Invalid, match="either `node` or `group`"):
                    client.node_act("restart")

        await in_thread(script)


async def test_threads_share_one_client() -> None:
    async with fake_cluster() as cluster:

        def script() -> list[int]:
            indexes: list[int] = []
            with open_client(cluster) as client:
                threads = [threading.Thread(target=lambda: indexes.append(client.command("x").index)) for _ in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(WAIT_S)
            return sorted(indexes)

        assert await in_thread(script) == list(range(1, 9))


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_streams_are_iterators_that_can_be_left_at_any_item() -> None:
    async with fake_cluster() as cluster:
        cluster.nodes["n1"] = node_view("n1")

        def script() -> tuple[list[int], bool, State]:
            with open_client(cluster) as client:
                for _ in range(3):
                    client.command("x")
                journal = client.journal(1)
                indexes = [next(journal)["index"], next(journal)["index"]]
                journal.close()
                complete = next(client.watch_nodes()).complete
                first = next(state for state in client.states() if state == "connected")
                return indexes, complete, first

        assert await in_thread(script) == ([2, 3], True, "connected")


async def test_an_iteration_that_waits_ends_when_the_client_is_closed() -> None:
    async with fake_cluster() as cluster:
        waits = threading.Event()

        def read(client: BlockingClient) -> str:
            journal = client.journal(0)
            next(journal)
            waits.set()
            with pytest.raises(Unavailable) as raised:
                next(journal)
            return str(raised.value)

        def script() -> str:
            with open_client(cluster) as client, reading(lambda: read(client)) as said:
                client.command("x")
                assert waits.wait(WAIT_S)
                client.close()
            return said[0]

        assert await in_thread(script) == "the client was closed"


@contextmanager
def reading(work: Callable[[], T]) -> Iterator[list[T]]:
    """Run `work` in a thread; its result is in the list after the block."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    try:
        yield results
    finally:
        thread.join(WAIT_S)
        assert not thread.is_alive()


# --- life -------------------------------------------------------------------------------------------------------------


async def test_close_is_idempotent_and_leaves_no_thread() -> None:
    async with fake_cluster() as cluster:

        def script() -> None:
            before = threading.active_count()
            client = open_client(cluster)
            with client:
                client.nodes()
                client.close()
                client.close()
            assert threading.active_count() == before
            with pytest.raises(Unavailable, match="the client was closed"):
                client.nodes()
            with pytest.raises(Unavailable, match="the client was closed"):
                client.journal()
            with pytest.raises(RuntimeError, match="opened before"):
                client.__enter__()

        await in_thread(script)


def test_before_it_is_opened_nothing_works_and_close_does_nothing() -> None:
    client = BlockingClient(NEVER)
    with pytest.raises(RuntimeError, match="not open"):
        client.nodes()
    assert client.state == "suspended"
    client.close()
    with pytest.raises(RuntimeError, match="opened before"):
        client.__enter__()


def test_attributes_are_those_of_the_client() -> None:
    client = BlockingClient(NEVER, actor="me", cluster="wall")
    assert (client.actor, client.cluster, client.endpoints.masters) == ("me", "wall", (NEVER,))


def test_a_client_that_cannot_be_opened_leaves_no_thread(tmp_path: Any) -> None:
    before = threading.active_count()
    with pytest.raises(Invalid, match="TLS file"):
        BlockingClient("https://127.0.0.1:1", ca=tmp_path / "none.pem").__enter__()
    assert threading.active_count() == before


async def test_a_command_without_an_answer_is_of_unknown_outcome_when_the_client_is_closed() -> None:
    """As with Client: what another thread awaits is answered by close()."""
    async with fake_cluster() as cluster:
        sent = threading.Event()

        async def hang(master: FakeMasterd, request: Any, commands: list[dict[str, Any]]) -> Any:
            sent.set()
            return await master.hang()

        cluster.leading.always = hang

        def wait_for_command(client: BlockingClient) -> str:
            with pytest.raises(CommandOutcomeUnknown) as raised:
                client.command("x", id="one")
            return raised.value.command_id

        def script() -> list[str]:
            with open_client(cluster) as client, reading(lambda: wait_for_command(client)) as ids:
                assert sent.wait(WAIT_S)
                client.close()
            return ids

        assert await in_thread(script) == ["one"]


# --- callbacks --------------------------------------------------------------------------------------------------------


async def test_callbacks_run_in_the_background_thread_and_may_not_call() -> None:
    """No master leads before the callbacks are known, so the client cannot be connected earlier."""
    loop = asyncio.get_running_loop()
    async with fake_cluster() as cluster:
        name = cluster.leading.name
        cluster.lead(None)

        def script() -> None:
            connected, refused, threads = threading.Event(), [], []
            with open_client(cluster) as client:

                def callback(state: State) -> None:
                    threads.append(threading.current_thread())
                    with pytest.raises(RuntimeError, match="must not make a blocking call") as raised:
                        client.nodes()
                    refused.append(raised)
                    connected.set()

                stop = client.on_state(callback)
                client.on_leader(lambda leader: threads.append(threading.current_thread()))
                loop.call_soon_threadsafe(cluster.lead, name)
                client.nodes()
                assert connected.wait(WAIT_S)
                stop()
            stop()
            assert threading.current_thread() not in threads
            assert refused

        await in_thread(script)


# --- the loop ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    background = BackgroundLoop("test")
    background.start()
    try:
        yield background
    finally:
        background.stop()


def test_an_interrupt_cancels_the_call(loop: BackgroundLoop) -> None:
    """Ctrl-C in the main thread cancels the call, and its `finally` blocks run before KeyboardInterrupt is raised."""
    ended = threading.Event()

    async def work() -> None:
        try:
            _thread.interrupt_main()
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        loop.run(work)
    assert ended.is_set()


def test_an_error_of_the_work_is_raised_as_it_is(loop: BackgroundLoop) -> None:
    """A TimeoutError too, which is not that of a wait."""

    async def work() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        loop.run(work)


def test_a_stopped_loop_ends_every_call(loop: BackgroundLoop) -> None:
    """What runs is cancelled, what comes later is not begun; to stop it twice is no error."""
    began = threading.Event()

    async def work() -> None:
        began.set()
        await asyncio.Event().wait()

    def run() -> str:
        with pytest.raises(LoopStopped):
            loop.run(work)
        return "stopped"

    with reading(run) as said:
        assert began.wait(WAIT_S)
        loop.stop()
    assert said == ["stopped"]
    loop.stop()
    with pytest.raises(LoopStopped):
        loop.run(work)
    loop.start_task(work)


async def test_a_change_that_runs_when_the_client_is_closed_is_of_unknown_outcome() -> None:
    async with fake_cluster() as cluster:
        asked = threading.Event()

        def change(client: BlockingClient) -> str:
            with pytest.raises(OutcomeUnknown) as raised:
                client.run(lambda _: wait())
            return str(raised.value)

        async def wait() -> None:
            asked.set()
            await asyncio.Event().wait()

        def script() -> list[str]:
            with open_client(cluster) as client, reading(lambda: change(client)) as said:
                assert asked.wait(WAIT_S)
                client.close()
            return said

        assert await in_thread(script) == [
            "the client was closed during the call: it may or may not have had an effect"
        ]
