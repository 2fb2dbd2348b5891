"""A page of cohorts, sessions and curves in a browser: ``fedbroker board serve``."""
