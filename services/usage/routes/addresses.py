"""Every address that the usage service answers, health and documentation aside."""

from collections.abc import Sequence

from litestar.handlers import HTTPRouteHandler

from services.usage.routes.rate_limits import key_rate_limit, workspace_rate_limit
from services.usage.routes.series import key_usage, last_used, workspace_usage

ROUTES: Sequence[HTTPRouteHandler] = (
    workspace_usage,
    key_usage,
    last_used,
    workspace_rate_limit,
    key_rate_limit,
)
