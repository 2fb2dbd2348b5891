"""Handwritten digits at four silos."""
