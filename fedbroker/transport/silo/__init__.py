"""A silo's side of a cohort."""
