"""How sources are doing: counts by the hour, cadence, silence."""
