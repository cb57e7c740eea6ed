"""Durable storage on LMDB: the log environment, the state environment and snapshots.

It may import `replica.consensus` and `replica.kv`, never the node or the transport. Importing the package
itself loads nothing, so that its pure modules can be used without LMDB: the simulator does so.
"""
