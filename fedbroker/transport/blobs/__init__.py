"""Blob transfer: the store of received blobs, sending in chunks, and encryption."""
