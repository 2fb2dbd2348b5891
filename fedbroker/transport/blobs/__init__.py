"""Blobs on their way: the store, the bulk transfer in chunks, and their encryption."""
