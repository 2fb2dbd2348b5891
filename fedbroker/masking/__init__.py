"""Masked sums: silos add masks that cancel in the sum over them, so that only the sum is learnt.

Plain functions and state machines over bytes and NumPy arrays: no network, no clock, no TFF. The protocol is that of
Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017), section 4 and
figure 4, with the consistency round of its actively secure variant. From the bottom: ``rings`` (the sets in which
values are added), ``streams`` (masks from keys), ``members`` (the silos and their signed mask keys), ``pairwise``
(masks that cancel in the sum over all), ``shares`` and ``offers`` (secrets in parts, for members that drop out),
``survivors`` (the round in which members agree on the sum), ``silo`` and ``coordinator`` (the protocol's two halves).
"""
