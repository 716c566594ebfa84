"""What every measurement needs: the cluster under test, the baseline beside it, figures, costs and goals.

May import nothing else of bench. Read `cluster.py` first.
"""
