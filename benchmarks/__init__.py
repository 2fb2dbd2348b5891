"""What a federated round costs, beside the least that it could: ``python -m benchmarks --help``.

Each module without an underscore is one benchmark: its ``run`` measures and returns a report.
"""
