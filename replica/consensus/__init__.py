"""Consensus protocols as pure state machines: events in, effects out.

Nothing in here does I/O, reads a clock, starts a thread or draws an unseeded random number. The package
imports the standard library (never `time`, `random`, `asyncio`, `socket` or `threading`) and msgspec, and
nothing from the rest of the project. The simulator, the node and the unit tests drive the same code.
"""
