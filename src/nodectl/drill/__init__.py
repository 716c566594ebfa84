"""Drills: replace the leader on purpose and measure the effect on a client.

May import workload, reports and the client. Read `run.py` first.
"""
