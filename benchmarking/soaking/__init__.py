"""A soak: mixed traffic to a real server while faults happen, with every request accounted for."""
