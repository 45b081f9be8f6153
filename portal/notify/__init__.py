"""Tells others what happened: the outbox of events and the webhooks that they are sent to."""
