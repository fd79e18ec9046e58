"""The terms of losses: an objective each, its weight, and what it looks at."""
