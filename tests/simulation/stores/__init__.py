"""Simulated clusters whose store loses keys, or is replaced by another one."""
