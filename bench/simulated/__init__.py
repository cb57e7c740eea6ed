"""Benchmarks in virtual time: more replicas than the machine has room for, with the costs that it was measured to have.

The same protocol code, state machine, workloads, recording and verdict as in a measured run; what is made up is time.
Each replica is a machine of its own with one processor and one disk; its processor takes what `Costs` says for each
turn, frame, message and operation, its disk takes a sync. Nothing fails here: faults are for real clusters and for
`synod simulate`. Results are marked as simulated wherever they are shown.
"""

from bench.simulated.costs import Costs, load_costs
from bench.simulated.run import Simulation

__all__ = ["Costs", "Simulation", "load_costs"]
