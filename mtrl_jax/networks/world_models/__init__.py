"""A world model: encoder, recurrent state-space model, latents, decoder."""
