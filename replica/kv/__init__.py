"""The replicated key-value state machine: commands, revisions, sessions, leases and watches.

Applying a command is deterministic: no clock, no randomness, nothing that depends on the order of a dict. The
package imports the standard library (never `time`, `random`, `asyncio`, `socket` or `threading`), msgspec and
sortedcontainers, and nothing from the rest of the project.
"""
