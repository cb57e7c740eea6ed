"""Real nodes under real faults: kills, pauses, partitions, full disks, power cuts."""
