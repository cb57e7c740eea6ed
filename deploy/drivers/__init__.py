"""Ways to run a replica. One module each; `find_driver` knows them by name.

A driver handles one replica at a time and knows nothing of quorums or of who leads: that is the cluster's business.
"""

from __future__ import annotations

from deploy.drivers.base import Driver, DriverError
from deploy.drivers.docker import DockerDriver
from deploy.drivers.namespace import NamespaceDriver
from deploy.drivers.process import ProcessDriver

__all__ = ["DRIVERS", "Driver", "DriverError", "find_driver"]

DRIVERS: dict[str, type[Driver]] = {
    "process": ProcessDriver,
    "docker": DockerDriver,
    "namespace": NamespaceDriver,
}


def find_driver(name: str) -> Driver:
    """A driver of that name. Raises `DriverError` with the names that there are."""
    try:
        return DRIVERS[name]()
    except KeyError:
        raise DriverError(f"there is no driver {name!r} (there are: {', '.join(sorted(DRIVERS))})") from None
