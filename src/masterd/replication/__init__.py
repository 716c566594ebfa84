"""How a masterd keeps a copy of the state, whoever leads.

The replica follows the journal and holds the state in memory; snapshots are read and written here; the journal reader
serves the history; the cluster view watches the keys beside the journal.
May import state_machine and application. Read `replica.py` first.
"""
