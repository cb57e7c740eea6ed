"""Clusters: configuration, certificates, containers, topologies, and the command groups to run them.

It may import `replica`, never `bench`.
"""
