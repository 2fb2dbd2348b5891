"""The silo's part in masked sums: it checks whom it adds up with, and masks its partials before they leave.

``tensors`` reads partials, ``keys`` holds the mask keys, ``requests`` checks requests, ``sums`` masks. For sums from
which silos may drop out, ``exchange`` goes through the steps of one, ``exchanges`` holds all, and ``recording`` writes
the audit log's lines of them.
"""
