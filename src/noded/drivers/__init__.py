"""The drivers: their contract, the built-in ones, helpers for all of them, and the conformance test."""
