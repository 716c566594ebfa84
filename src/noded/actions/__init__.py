"""One-shot actions: things that a node does once on request, such as a restart or a reboot.

Before noded runs an action, it writes a start record into `acted/<node>`, in a transaction that fails if the claim or
the requested actions have changed. Only the process that wrote the start record runs the action, and runs it once. So
an action starts at most once.
May import reconcile, registration and drivers. Read `decide.py` first: it is pure; then `actor.py`.
"""
