"""One-shot actions: things that a node does once on request, such as a restart or a reboot.

Before noded starts an action it marks the action as started, in a transaction that compares what the leader wrote. So
an action starts at most once.
May import reconcile, registration and drivers. Read `decide.py` first: it is pure; then `actor.py`.
"""
