"""Networks: convolutions, torsos, cores, heads, and the actor-critic made of them."""
