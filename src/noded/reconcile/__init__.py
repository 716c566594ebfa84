"""The reconcile loop of one node.

Level-triggered: at the start, at every change and on every tick it compares desired and actual state, plans, and lets
the driver act. An event only wakes the loop.
May import registration and drivers. Read `planner.py` first: it is pure and holds every decision; then `agent.py`.
"""
