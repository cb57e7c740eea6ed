"""Protocols in the deterministic world: many seeds, every fault, and planted bugs that must be caught."""
