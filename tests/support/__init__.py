"""What tests share: clusters, ports, faults. It may import everything in the project and holds no tests."""
