"""The connection to Label Studio: authentication, and a sentence for each failure.

Answers stay plain JSON, because the SDK's typed models describe the Enterprise API, and because a
brush region may be megabytes that must pass through unchanged. The SDK can renew access tokens too,
but only for its own calls, and fetching images needs the header alone.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any

import httpx
import jwt

from pipeline.errors import LabelStudioError, SettingsError
from pipeline.settings import LabelStudioSettings

Json = dict[str, Any]

# An access token is valid for 300 s. It is renewed this long before its end, so that it cannot
# expire during a request.
RENEW_BEFORE = timedelta(seconds=30)
# Parts of Label Studio's own messages.
BANNED_NETWORK = "reserved network address"
UNKNOWN_HOST = "Can't resolve hostname"
LONGEST_DETAIL = 400  # characters of Label Studio's own message


class Connection:
    """One account on one Label Studio, and the only place that speaks HTTP to it.

    A legacy token is sent as it is. A personal access token is a JWT that is only exchanged for
    access tokens; one is fetched when needed and renewed before it expires.

    Raises:
        SettingsError: the settings have no token.
    """

    def __init__(self, settings: LabelStudioSettings, *, timeout_seconds: float = 30) -> None:
        self.url = settings.url.rstrip("/")
        self._token = settings.token.get_secret_value()
        if not self._token:
            raise SettingsError(
                "Label Studio needs a token; set label_studio.token to one from its account page."
            )
        self.token_expires = _expiry(self._token)  # of a personal access token
        self._personal = self.token_expires is not None
        self._access: tuple[str, datetime] | None = None
        self._renewing = Lock()
        # trust_env is off: a proxy from the environment must not come between two local services.
        self._http = httpx.Client(timeout=timeout_seconds, trust_env=False, follow_redirects=True)

    def close(self) -> None:
        self._http.close()

    def auth_header(self) -> dict[str, str]:
        """The current Authorization header. Tokens expire, so ask again for each request."""
        if not self._personal:
            return {"Authorization": f"Token {self._token}"}
        with self._renewing:
            if self._access is None or self._access[1] - datetime.now(UTC) < RENEW_BEFORE:
                answer = self._send(
                    "POST", "/api/token/refresh/", "the token", {}, json={"refresh": self._token}
                )
                access = str(answer["access"])
                self._access = (access, _expiry(access) or datetime.now(UTC))
            return {"Authorization": f"Bearer {self._access[0]}"}

    def find(self, path: str, what: str, **params: Any) -> Any:
        """GET one JSON object; None when it does not exist. ``what`` names it in messages."""
        found = self.call("GET", path, what, params=params, missing_ok=True)
        if found is not None and not isinstance(found, dict):
            raise self._unexpected(what)
        return found

    def object(self, method: str, path: str, what: str, **request: Any) -> Any:
        """Call, and raise LabelStudioError if the answer is not a JSON object."""
        answer = self.call(method, path, what, **request)
        if not isinstance(answer, dict):
            raise self._unexpected(what)
        return answer

    def call(
        self, method: str, path: str, what: str, *, missing_ok: bool = False, **request: Any
    ) -> Any:
        """Call and return the JSON answered, None for an empty answer.

        Raises:
            LabelStudioError: Label Studio is out of reach, refuses the call, or does not answer
                with JSON.
        """
        return self._send(method, path, what, self.auth_header(), missing_ok=missing_ok, **request)

    def _send(
        self,
        method: str,
        path: str,
        what: str,
        headers: dict[str, str],
        *,
        missing_ok: bool = False,
        **request: Any,
    ) -> Any:
        try:
            response = self._http.request(method, self.url + path, headers=headers, **request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None
        try:
            body = response.json() if response.content else None
        except ValueError:
            if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
                raise self._refused(response.status_code, response.text, what) from None
            raise self._unexpected(what) from None
        if missing_ok and response.status_code == httpx.codes.NOT_FOUND:
            return None
        if not response.is_success:
            raise self._refused(response.status_code, body, what)
        return body

    def _unreachable(self, error: Exception) -> LabelStudioError:
        reason = str(error) or type(error).__name__
        return LabelStudioError(
            f"Label Studio at {self.url} is out of reach ({reason}); "
            "start it with `make up`, or correct label_studio.url."
        )

    def _unexpected(self, what: str) -> LabelStudioError:
        return LabelStudioError(
            f"{self.url} did not answer as Label Studio does when asked for {what}; "
            "check that label_studio.url is Label Studio's address."
        )

    def _refused(self, status: int, body: Any, what: str) -> LabelStudioError:
        detail = _detail(body)
        if BANNED_NETWORK in detail:
            return LabelStudioError(
                f"Label Studio refuses {what} because its address is on a private network; start "
                "Label Studio with USE_DEFAULT_BANNED_SUBNETS=false."
            )
        if UNKNOWN_HOST in detail:
            return LabelStudioError(
                f"Label Studio does not know the host of {what}; set backend.url to an address "
                "that works on its machine."
            )
        match status:
            case httpx.codes.UNAUTHORIZED:
                return LabelStudioError(
                    f"Label Studio at {self.url} refuses the token ({detail}); "
                    "set label_studio.token to one from its account page."
                )
            case httpx.codes.FORBIDDEN:
                return LabelStudioError(
                    f"This Label Studio account may not touch {what} ({detail}); "
                    "use the token of an account that may."
                )
            case httpx.codes.NOT_FOUND:
                return LabelStudioError(
                    f"Label Studio at {self.url} has no {what}; check its number."
                )
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            return LabelStudioError(
                f"Label Studio failed on {what} (status {status}: {detail}); look at its log."
            )
        return LabelStudioError(f"Label Studio refuses {what}: {detail}; mend that and try again.")


def _expiry(token: str) -> datetime | None:
    """When a JWT expires; None for a token that is not a JWT. The server checks its signature."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
        return datetime.fromtimestamp(claims["exp"], UTC)
    except (jwt.InvalidTokenError, KeyError):
        return None


def _detail(body: Any) -> str:
    """The message of an error answer, on one line and without markup."""
    if isinstance(body, dict):
        for name in ("validation_errors", "detail", "error"):
            if body.get(name):
                return _detail(body[name])
        body = ", ".join(f"{name}: {_detail(value)}" for name, value in body.items())
    elif isinstance(body, list):
        body = ", ".join(_detail(item) for item in body)
    text = body if isinstance(body, str) else json.dumps(body)
    return " ".join(re.sub(r"<[^>]*>", "", text).split())[:LONGEST_DETAIL].rstrip(".")
