"""The coordinator's side of the transport."""
