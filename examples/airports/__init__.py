"""New York's three airports as three silos."""
