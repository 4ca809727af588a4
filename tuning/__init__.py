"""The search for a better way to learn: over logged outcomes, each scored before it is learned, beside what serves."""
