"""Fuzzers of all functions that parse untrusted bytes."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow logs much about malformed graphs
