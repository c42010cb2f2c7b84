"""Plans of runs that differ in a few fields: made, carried out, compared."""
