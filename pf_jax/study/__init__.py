"""Studies: many runs, compared in pairs."""
