"""What a client is told when something is wrong, in OpenAI's form."""

from typing import Any

from search.errors import (
    BusyError,
    CheckpointError,
    NotFoundError,
    RatchetError,
    ResourceError,
    StoreAwayError,
    TooLongError,
    UsageError,
)

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}
"""HTTP status to the type that clients know."""


class ServiceError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        retry_after_s: float | None = None,
        may_retry: bool | None = None,
    ) -> None:
        """`may_retry` tells the client whether the same request may do better; None leaves that to
        its own rules."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.may_retry = may_retry

    @property
    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.message,
                "type": TYPES.get(self.status, "api_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def headers(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self.retry_after_s is not None:
            found["retry-after"] = str(max(1, round(self.retry_after_s)))
        if self.may_retry is not None:
            found["x-should-retry"] = "true" if self.may_retry else "false"
        return found


def bad_request(
    message: str, code: str = "invalid_value", param: str | None = None
) -> ServiceError:
    return ServiceError(400, message, code, param)


def unsupported(param: str, why: str = "is not supported here; leave it out") -> ServiceError:
    return ServiceError(400, f"{param} {why}", "unsupported_parameter", param)


def as_service_error(error: BaseException, request_id: str) -> ServiceError:
    """What to tell of an error raised below; of an unforeseen one only where to look."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, RatchetError):
        text = f"{error.message}; {error.fix}" if error.fix else error.message
        if isinstance(error, CheckpointError):
            text = "the model cannot be read; the server's log says why"
            return ServiceError(503, text, "not_ready", retry_after_s=30)
        if isinstance(error, TooLongError):
            return bad_request(text, "context_length_exceeded", "messages")
        if isinstance(error, UsageError):
            return bad_request(text)
        if isinstance(error, NotFoundError):
            return ServiceError(404, text, "not_found")
        if isinstance(error, StoreAwayError | BusyError | ResourceError):
            return ServiceError(503, text, "not_ready", retry_after_s=5)
    # The search would fail again, after as many seconds.
    return ServiceError(
        500,
        f"the search failed; the server's log has request {request_id}",
        "internal_error",
        may_retry=False,
    )
