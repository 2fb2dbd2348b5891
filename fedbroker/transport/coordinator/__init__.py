"""The coordinator's side of a cohort."""
