"""The assembly of methods: the one place below orchestration where a method's section becomes terms, and what else a method is made of."""
