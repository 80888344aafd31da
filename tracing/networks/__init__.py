"""Networks that more than one recipe uses, in plain torch, by the key names of published checkpoints."""
