"""Svix: Standard Webhooks under the older names of its headers."""

from portal.signals.schemes.standard_webhooks import scheme

SCHEME = scheme("svix", "Svix", "Senders that deliver by Svix, such as Clerk: headers that begin with svix-.", b"svix-")
