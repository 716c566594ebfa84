"""Proxies that hold back, drop or cut what passes through them."""
