"""How every masterd, leader or standby, keeps a copy of the state.

The replica follows the journal and holds the state in memory. Snapshots are read and written here. The journal reader
reads entries for the history. The cluster view watches the keys outside the journal.
May import state_machine and application. Read `replica.py` first.
"""
