"""Gives out nonces, signs and sends: one writer a lane, which gets done what there is to do."""
