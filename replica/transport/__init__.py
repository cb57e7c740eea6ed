"""Streams between replicas over gRPC: the codec, connections, and faults of a link (delay, loss, partition).

It may import `replica.consensus` for the messages and `replica.wire` for the frames, never storage or the
node.
"""
