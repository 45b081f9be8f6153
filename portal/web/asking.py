"""What a handler may ask for besides its path and its form, by the names under which the application provides it."""

from litestar.di import NamedDependency

from portal.accounts.schemas import CurrentSession
from portal.web.desk import Desk

AtDesk = NamedDependency[Desk]
"""A member at work in the organisation of the address."""
Person = NamedDependency[CurrentSession]
"""Whoever is completely signed in: for handlers with the permission `ACCOUNT`."""
Visitor = NamedDependency[CurrentSession | None]
"""Whoever is signed in, perhaps only with a password, if anybody."""
Token = NamedDependency[str | None]
