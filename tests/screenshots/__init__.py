"""Screenshots of the board's page: ``make screenshots``."""
