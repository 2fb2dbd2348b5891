"""Prometheus metrics: the coordinator's, and the helpers that coordinator and silo share."""
