"""Everything a leader owns for the duration of one term.

Contains the queue of commands and their group commit, the resolution of a transaction whose reply was lost, the views,
the adoption of the configuration, node events, named snapshots, retention, and the answers to challenges. Each object
here is created when a term begins and dropped when it ends; only `warm_start.py` runs before the term.
May import replication, state_machine and application; election only for its timeline and upkeep for its space keeper.
`parts.py` shows how they are wired. Read `leader.py` first, then `batch_runner.py`, `committer.py` and `journal.py`.
"""
