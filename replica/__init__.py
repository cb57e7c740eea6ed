"""Synod: a durable, replicated key-value store whose consensus protocol is a plug-in.

This package is the store itself. Importing it imports nothing else: take what you need from its
subpackages, `replica.client` to use a store, `replica.consensus` and `replica.simulation` to write a
protocol. It never imports `bench` or `deploy`, which stand on it.
"""

__version__ = "0.1.0"
