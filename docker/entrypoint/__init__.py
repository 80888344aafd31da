"""The first process of a serving container: plans workers, checks archives, runs TorchServe, drains it, tells health.

Standard library alone, Python 3.8 or newer: it runs on the Python of AWS's containers, without the kit.
"""
