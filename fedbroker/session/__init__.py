"""Sessions of a cohort: presence, a frozen membership, client stages and deadlines. Independent of TFF."""
