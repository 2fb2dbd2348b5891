"""TFF's seam: execution contexts whose clients are the silos of a cohort."""
