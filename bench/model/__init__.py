"""The analytic model: predict, then compare with what was measured.

Two models stand side by side. The *study's* (`queueing`, `quorum_latency`, `rounds`, `distilled`, `placement`) is that
of Ailijiang, Charapko and Demirbas, SIGMOD 2019: a busiest replica with a service time in messages, a queue before it,
and the network's order statistics; its constants (`constants`) reproduce its figures (`figures`). The model of *this
build* (`system`) adds what the study left out and this store has: batching, syncs to disk, processor time by operation
as well as by message, and replicas that share the cores of one machine. Its constants come from micro-measurements of
the parts (`calibration`), never from the runs that it is judged by.

    latency = waiting + service + D_L (client to leader) + D_Q (leader to quorum)

Everything is in milliseconds and operations a second unless a name says otherwise. A load beyond capacity is answered
with `Saturated`, never with a negative or infinite latency.
"""

from .errors import ModelError, Saturated

__all__ = ["ModelError", "Saturated"]
