"""Sessions of a cohort: presence, a frozen membership, client stages, deadlines. No TFF."""
