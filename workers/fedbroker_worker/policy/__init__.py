"""A silo's policy: the administrator's rules in ``[policy]``, and the record of the work that the silo ran.

Modules: ``rules`` (the table, and one function for each rule), ``guard`` (the rules applied over a silo's lifetime),
``values`` (the parts of a serialized value), ``aggregates`` and ``intrinsics`` (which values leave, known before a work
item runs), ``audit`` and ``recording`` (the audit log), ``accepted`` (the record of signed work).
"""
