"""A causal transformer over steps of histories: tokens, layers, attention, n-grams."""
