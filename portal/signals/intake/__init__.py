"""Deliveries on their way in: verified, checked, stored together, answered; and those that were refused."""
