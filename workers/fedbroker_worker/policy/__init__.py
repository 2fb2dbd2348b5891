"""A silo's policy: the administrator's rules in ``[policy]``, and the record of the work that the silo ran.

Modules: ``settings`` (the table), ``values`` (the parts of a serialized value), ``aggregates`` and ``intrinsics``
(which values leave, known before a program runs), ``rules`` (one function for each rule), ``guard`` (the rules applied
over a silo's lifetime), ``audit`` (the record).
"""
