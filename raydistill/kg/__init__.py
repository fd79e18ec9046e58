"""Knowledge graphs as numbers and texts: reading, auditing, storing, and what is known to be true. No torch here."""
