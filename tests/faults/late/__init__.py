"""Transactions whose copies arrive late or whose replies are lost."""
