"""What a leader owns for the length of one term.

The queue of commands and their group commit, the fate of a transaction whose answer was lost, views, adoption of the
configuration, node events, named snapshots, retention, and the proof that the term still commits. Each object here is
made when a term begins and dropped when it ends.
May import replication, state_machine and application; election only for its timeline and upkeep for its space keeper.
Read `leader.py` first, then `committer.py` and `journal.py`.
"""
