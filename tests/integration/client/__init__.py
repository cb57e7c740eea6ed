"""The client on real replicas."""
