"""What a silo runs for whom, as its administrator says in ``[policy]``, and the record of what it ran.

Modules: ``settings`` (the table), ``values`` (what is in a serialized value), ``aggregates`` and ``intrinsics`` (what
leaves, told before it runs), ``rules`` (what is refused), ``guard`` (the rules over a silo's life), ``audit`` (the
record).
"""
