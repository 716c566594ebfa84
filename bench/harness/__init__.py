"""The parts that all measurements share: the cluster under test, the baseline, figures, costs and goals.

May import nothing else of bench. Read `cluster.py` first.
"""
