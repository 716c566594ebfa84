"""The reconcile loop of one node.

Level-triggered: at its start, on every change and on every tick the loop compares desired and actual state, plans one
step and lets the driver act. An event only wakes the loop.
May import registration and drivers. Read `planner.py` first: it is pure and holds every decision; then `agent.py`.
"""
