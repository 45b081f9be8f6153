"""Carries out approved actions on chain: lanes, attempts, sending, watching."""
