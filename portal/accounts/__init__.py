"""Organisations, people, sessions, second factors, API keys and permissions."""
