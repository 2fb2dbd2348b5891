"""Federations on one machine: a private broker and silo processes over data that a program has at hand."""
