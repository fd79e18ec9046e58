"""The room of student shapes: layer maps and how a student is made."""
