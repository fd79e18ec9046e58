"""The room of decisions: the ladder, promotion, search. Pure functions, no torch, no Ray."""
