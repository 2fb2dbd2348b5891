"""The silo's side of the transport."""
