"""Administration of a cohort at the broker: users, queues and permissions, made before a silo connects."""

from __future__ import annotations
