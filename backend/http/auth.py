"""HTTP Basic, which Label Studio can send with every call and in a webhook's headers."""

from __future__ import annotations

import hmac

from fastapi import HTTPException, Request
from fastapi.security import HTTPBasic

from pipeline.settings import BackendSettings


class BasicAuth:
    """A FastAPI dependency that admits only the user in the settings.

    Without a password in the settings it admits everyone.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self._user = settings.user.encode()
        self._password = settings.password.get_secret_value().encode()
        self._scheme = HTTPBasic(auto_error=False, realm="maskloop")

    async def __call__(self, request: Request) -> None:
        if not self._password:
            return
        given = await self._scheme(request)
        if given is not None:
            # Both are compared in full, so that the time taken tells nothing about either.
            right = hmac.compare_digest(given.username.encode(), self._user)
            right &= hmac.compare_digest(given.password.encode(), self._password)
            if right:
                return
        raise HTTPException(
            status_code=401,
            detail="The user or password is wrong; run `maskloop connect` to set both again.",
            headers={"WWW-Authenticate": 'Basic realm="maskloop"'},
        )
