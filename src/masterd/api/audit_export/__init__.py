"""Exports accepted changes from the journal, and the events of this masterd's audit log: to files, syslog, Event Log.

Each masterd with `--audit-export` exports for itself, from its own replica, so an attacker who controls the leader's PC
cannot stop the export at another one, and no sink delays a commit. Read `exporter.py` first.
"""
