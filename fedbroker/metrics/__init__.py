"""What is counted, for Prometheus: the coordinator's metrics, and what both sides need to serve their own."""
