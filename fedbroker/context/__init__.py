"""TFF execution contexts that run computations on the silos of a cohort."""
