"""One server over HTTP: single attempts that are bounded and safe, many that adapt."""
