"""The replicated state machine: a batch of commands runs on an overlay of the state and yields a journal entry.

Pure: no I/O, no clock, no randomness; times and ids are arguments. Replicas apply the documents in an entry and never
run handlers, so they cannot diverge.
May import application for the contract of commands. Read `state.py` first, then `batch.py`.
"""
