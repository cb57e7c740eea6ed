"""The laboratory: workloads, load generators, measurement, the analytic model and reports.

It stands on `replica` and `deploy` and may import both; neither imports it. What it needs beyond the core
dependencies is in the extra `bench`.
"""
