"""What a broker's administrator does for a cohort: users, queues and permissions, made for each silo before it comes.

May import trust, transport's topology and URLs, wire's names and the base.
"""

from __future__ import annotations
