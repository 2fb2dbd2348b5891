"""Three hospitals as three silos, each with its own Google spreadsheet."""
