"""What a silo runs for whom, as its administrator says in ``[policy]``, and the record of what it ran.

Modules: ``settings`` (the table), ``ops``, ``graphs`` and ``values`` (what is in a serialized computation or value),
``rules`` (what is refused), ``guard`` (the rules over a silo's life), ``audit`` (the record).
"""
