"""Errors as OpenAI's clients expect them: a status, and {"error": {...}} as the body."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """What a client is told instead of an answer.

    Parameters
    ----------
    status : int
        HTTP status. 499 is a client that has gone, who is told nothing.
    message : str
        "where: expected, found".
    param : str or None
        The field of the request that is wrong.
    code : str or None
        For programs: "model_not_found", "context_length_exceeded", ...
    retry_after_s : int or None
        When to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object that tells of the error."""
        kinds = {
            401: "authentication_error",
            403: "permission_error",
            429: "rate_limit_error",
            504: "timeout_error",
        }
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": kinds.get(self.status, kind),
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with the body."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error of a request that is wrong in itself."""
    return ApiError(400, message, param=param, code=code)
