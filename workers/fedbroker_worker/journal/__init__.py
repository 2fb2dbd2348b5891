"""The recent work items of a silo, for its administrator: in memory, bounded, without any data.

Modules: ``journal`` and ``entry`` (the work items), ``earlier`` (those of earlier processes, from the audit log),
``account`` and ``following`` (a work item in words, read from its bytes).
"""
