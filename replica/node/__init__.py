"""The node: one task that drives one protocol over storage and transport, with its services and metrics.

It is the only place where the protocol, the state machine, the disk and the network meet, and may import
every package of the store except the command line, the simulator and, but for the port and its errors, the client.
"""
