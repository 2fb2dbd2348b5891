"""Fuzzers of what reads other people's bytes."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow has much to say about graphs that make no sense
