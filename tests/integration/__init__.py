"""Real nodes and clients on loopback, in this process or as subprocesses."""
