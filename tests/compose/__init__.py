"""The stack of compose/, run by Docker: ``python -m tests.compose``."""
