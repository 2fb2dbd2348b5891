"""Measure the cost of a federated round next to its lower bound: ``python -m benchmarks --help``.

Each module without an underscore is one benchmark: its ``run`` measures and returns a report.
"""
