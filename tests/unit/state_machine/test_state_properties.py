"""The replicated state as a state machine: every image and the entries after it yield the state of all entries."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from masterd.replication.images import Image, encode_image
from masterd.state_machine import state as state_module
from masterd.state_machine.batch import CommandRequest
from masterd.state_machine.state import State
from masterd.state_machine.transaction import Overlay
from nodestore.support.jsonio import Document, Json
from tests.support.images import decode_image
from tests.support.profiles import cases
from tests.support.toy_app import Line, inventory, replayed, same

NODES = ("n1", "n2", "n3")
PATHS = st.sampled_from([*(f"nodes/{node}" for node in NODES), "list/a", "list/b", "d"])
DOCUMENTS = st.dictionaries(st.sampled_from("xy"), st.integers() | st.text(max_size=2), max_size=2) | st.sampled_from(
    [{"see": "d"}, {"see": "list/a"}, {"count": 1}]
)
COMMANDS = st.tuples(
    st.sampled_from(["put", "put", "delete", "add", "refuse", "fail", "unknown"]), PATHS, DOCUMENTS,
    st.sampled_from(["", "", "again"]),
)  # fmt: skip


class Replicas(RuleBasedStateMachine):
    """One leader, images taken at any time, and after each step a replica restored from each image."""

    images = Bundle("images")

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(state_module, "IDS_MIN", 4)  # so few that ids are forgotten
        self.line = Line()
        self.taken: list[list[bytes]] = []
        self.numbers = 0

    @initialize(nodes=st.integers(0, 3))
    def begin(self, nodes: int) -> None:
        self.line.adopt(inventory(*NODES[:nodes]))

    def teardown(self) -> None:
        self.patch.undo()

    # --- what a leader does ---

    @rule(commands=st.lists(COMMANDS, min_size=1, max_size=4), delay_s=st.floats(-50, 5000), committed=st.booleans())
    def run_a_batch(self, commands: list[tuple[str, str, Document, str]], delay_s: float, committed: bool) -> None:
        """Run a batch, and commit or discard it."""
        self.line.now += delay_s
        batch = self.line.batch()
        for name, path, document, known_as in commands:
            batch.execute(self._request(name, {"path": path, "document": document}, known_as))
        if batch.records and committed:
            self.line.commit(batch)
        else:
            batch.undo_derivation()

    @rule(node=st.sampled_from(NODES), closing=st.booleans())
    def act_and_close(self, node: str, closing: bool) -> None:
        """Request an action of a node, or close its oldest pending one."""
        pending = self.line.state.actions.get(node, ())
        closes = {node: (pending[0].index,)} if closing and pending else {}

        def work(transaction: Overlay) -> Json:
            if not closing:
                transaction.act(node, "restart")
            return {"of": node}

        self.line.run(self._request("act", {}, "", internal_handler=work, closes=closes))

    @rule(nodes=st.integers(0, 3), colour=st.sampled_from(["red", "blue"]))
    def adopt(self, nodes: int, colour: str) -> None:
        """Adopt a configuration, which closes the pending actions of removed nodes."""
        self.line.adopt(inventory(*NODES[:nodes], colour=colour))

    @rule(documents=st.dictionaries(PATHS, DOCUMENTS, max_size=4))
    def restore_anything(self, documents: dict[str, Document]) -> None:
        self.line.restore(documents)

    # --- images ---

    @rule(target=images, chunk_bytes=st.integers(1, 300))
    def take(self, chunk_bytes: int) -> list[bytes]:
        """Encode the present state as an image."""
        chunks = list(encode_image(Image.of(self.line.state), chunk_bytes))
        self.taken.append(chunks)
        return chunks

    @rule(chunks=images)
    def restore_and_check_image(self, chunks: list[bytes]) -> None:
        image = decode_image(chunks, "test")
        self.line.restore({path: doc.value for path, doc in image.documents.items()})
        assert {path: doc.value for path, doc in self.line.state.documents.items()} == {
            path: doc.value for path, doc in image.documents.items()
        }

    @rule(chunks=consumes(images))
    def lead_from_an_image(self, chunks: list[bytes]) -> None:
        """A replica restored from an image takes over and continues like the leader before."""
        self.line.state = self._replica(chunks)
        self.line.batch().rebuild_specs()

    # --- what holds ---

    @invariant()
    def check_replicas(self) -> None:
        whole = replayed(self.line)
        assert same(whole, self.line.state)
        for chunks in self.taken:
            assert same(self._replica(chunks), whole)

    @invariant()
    def check_specs(self) -> None:
        for node in NODES:
            mark = self.line.state.specs.get(node)
            assert self.line.derivation[node].hash == (mark.hash if mark else "")

    def _replica(self, chunks: list[bytes]) -> State:
        return replayed(self.line, decode_image(chunks, "test").to_state())

    def _request(self, name: str, args: dict[str, Any], known_as: str, **more: Any) -> CommandRequest:
        self.numbers += 1
        return CommandRequest(known_as or f"id-{self.numbers}", name, args, "t", self.line.state.floor, **more)


TestReplicas = Replicas.TestCase
TestReplicas.settings = cases(60, steps=20)
