"""The metadata store as it is used: at scale, beside SQL databases, and under a stream of metrics.

    python -m bench.micro_metadata scale --artifacts 100000 --edges 1000000
    python -m bench.micro_metadata compare --processes 16 --repetitions 5 --seconds 5
    python -m bench.micro_metadata append --seconds 10

``scale`` loads a cluster of three processes through the public client, asks, walks over everything with the checker,
and prints what each question cost. ``compare`` has many processes do the mix of the workload ``metadata`` on Synod, on
SQLite (WAL, ``synchronous=FULL``) and, where it is installed, on PostgreSQL (fsync on), in turn within one run, with
ratios and their intervals; afterwards what was acknowledged is counted on every side. ``append`` states the points of
metrics a second that one program appends.

All of them share this machine with whatever else runs: within one run ratios mean something, other figures less.
"""
