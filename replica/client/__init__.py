"""The client library: asynchronous first, with a synchronous face.

It is installed into other people's programs, so it carries nothing of the server: it may import
`replica.wire`, never the node, storage, consensus or simulation packages, nor lmdb, uvloop or
prometheus_client.
"""
