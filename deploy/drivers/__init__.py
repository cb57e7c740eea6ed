"""Cluster drivers: one module for each way to run replicas (processes, Compose, Kubernetes).

They share one interface, so that a test or a benchmark does not care which one started its cluster. They may
import `deploy` and `replica`, never `bench`.
"""
