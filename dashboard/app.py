"""The routes under /api. Every one of them needs an admin key.

spend.py    what is spent, held and left, per scope
budgets.py  budgets: read, create, change, delete, reset, top up
keys.py     API keys
models.py   the models in the routes with their prices
prices.py   price history, and overrides
events.py   the stream of money and states
explain.py  what became of a request
simulate.py a call that is not made; the past under other rules

pages.py has the pages for people, under /ui.
"""

from fastapi import APIRouter, Depends

from dashboard import budgets, events, explain, keys, models, prices, simulate, spend
from dashboard.auth import admin_only
from dashboard.deps import Deps
from dashboard.errors import error_response, install_errors

__all__ = ["Deps", "create_router", "error_response", "install_errors"]


def create_router(deps: Deps) -> APIRouter:
    """All routes of this surface; the app that includes them also needs `install_errors`."""
    router = APIRouter(prefix="/api", dependencies=[Depends(admin_only(deps.keys))])
    for module in (spend, budgets, keys, models, prices, events, explain, simulate):
        router.include_router(module.router(deps))
    return router
