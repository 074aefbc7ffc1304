"""IP-Adapters: their files, their image encoder, and the tokens that they make of a reference picture."""
