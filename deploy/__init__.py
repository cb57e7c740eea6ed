"""Everything to run a cluster somewhere.

A `Cluster` is a folder with a description of its replicas; a *driver* (`deploy.drivers`) knows how to start, stop and
disturb one replica in one kind of place. The package may import `replica`; it never imports `bench`.
"""

from deploy.cluster import Cluster, ClusterError
from deploy.layout import ClusterLayout, ReplicaLayout

__all__ = ["Cluster", "ClusterError", "ClusterLayout", "ReplicaLayout"]
