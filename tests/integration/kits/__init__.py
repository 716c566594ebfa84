"""Kits that are built for real, and run where nothing else is."""
