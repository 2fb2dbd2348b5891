"""The silo's part in masked sums: it checks whom it adds up with, and masks its partials before they leave.

``tensors`` reads partials, ``keys`` holds the mask keys, ``requests`` checks what a coordinator asks, ``sums`` masks.
"""
