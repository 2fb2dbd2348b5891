"""A page for a silo's administrator, served by a process of its own: it asks the service, and changes nothing."""
