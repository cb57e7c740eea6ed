"""Load: generator processes that issue a workload's operations, and what they measure."""
