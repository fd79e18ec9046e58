"""Knowledge graphs as numbers and texts: reading public layouts, auditing, storing, and answering what is known to be true. No torch here."""
