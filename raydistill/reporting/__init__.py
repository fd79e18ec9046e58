"""The room of what people look at: progress lines and tables."""
