"""The small host process around the C++ runtime: supervisor, namespaces, confinement, relay.

Its modules import the standard library and each other only, so that the process starts in some 30 ms and stays small.
"""
