"""The bugs that are kept: a module for each protocol or concern, with its specimens under the name ``SPECIMENS``.

A new protocol adds a module here, and is hunted by ``make zoo`` and by `tests.simulation.test_zoo` from then on.
"""

from importlib import import_module
from pkgutil import iter_modules

from replica.simulation.zoo import Catch, Specimen, hunt


def collect() -> dict[str, Specimen]:
    """All specimens by name. Raises `ValueError` for a name that occurs twice."""
    specimens: dict[str, Specimen] = {}
    for module in sorted(iter_modules(__path__), key=lambda module: module.name):
        if module.name.startswith("_"):
            continue
        for specimen in import_module(f"{__name__}.{module.name}").SPECIMENS:
            if specimen.name in specimens:
                raise ValueError(f"there are two specimens of the name {specimen.name!r}")
            specimens[specimen.name] = specimen
    return specimens


def hunt_by_name(task: tuple[str, int]) -> Catch:
    """Hunt the specimen of that name through so many seeds; what a process of a pool is given to do."""
    name, seeds = task
    return hunt(collect()[name], range(seeds))
