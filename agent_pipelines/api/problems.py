"""What a caller is told when there is no answer: a status, what is wrong, and what to do about it.

Belongs here: the form of every error of the API. Does not belong here: when there is one.
"""

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from agent_pipelines.errors import UserError


class ProblemBody(BaseModel):
    """Why there is no answer."""

    code: str = Field(description="For programs: what kind of problem it is.")
    message: str = Field(description="What is wrong.")
    remedy: str = Field(description="What to do about it.")


class Problem(Exception):
    """Ends a request with an error."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        remedy: str,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.body = ProblemBody(code=code, message=message, remedy=remedy).model_dump()
        after = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
        self.headers = {**after, **(headers or {})}

    def response(self) -> Response:
        """The error as it is sent."""
        return JSONResponse(self.body, self.status, self.headers)


def unavailable(error: UserError) -> Problem:
    """What it takes to answer is not there now."""
    return Problem(503, "unavailable", error.message, remedy=error.remedy, retry_after=5)


def handle_in(app: FastAPI) -> None:
    """Give every error of this application the one form."""

    async def of_problem(_request: Request, error: Any) -> Response:
        return Problem.response(error)

    async def of_user_error(_request: Request, error: Any) -> Response:
        return unavailable(error).response()

    async def of_validation(_request: Request, error: Any) -> Response:
        return _invalid(error).response()

    async def of_http(_request: Request, error: Any) -> Response:
        return _http(error).response()

    app.add_exception_handler(Problem, of_problem)
    app.add_exception_handler(UserError, of_user_error)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(HTTPException, of_http)


def _invalid(error: RequestValidationError) -> Problem:
    faults = "; ".join(
        f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
    )
    return Problem(422, "invalid", faults, remedy="see /openapi.json for what is asked for")


def _http(error: HTTPException) -> Problem:
    codes = {404: "not_found", 405: "method_not_allowed"}
    return Problem(
        error.status_code,
        codes.get(error.status_code, "invalid"),
        str(error.detail),
        remedy="see /openapi.json for the paths there are, and their methods",
        headers=error.headers,
    )
