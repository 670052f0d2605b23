"""Losses for one sequence ``[T]``; the caller vmaps. rlax's where rlax has the paper's."""
