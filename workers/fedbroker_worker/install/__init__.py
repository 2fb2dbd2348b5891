"""Installation of a silo as a service, from the directory that ``fedbroker admin enroll`` writes."""

from __future__ import annotations
