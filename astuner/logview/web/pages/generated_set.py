"""A generated set: how many tasks, what became of the other drafts, how it was made."""

from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from astuner.logview.view.set_card import read_set_card
from astuner.logview.view.set_yield import set_yield
from astuner.logview.web.asked import asked_set
from astuner.logview.web.listed import listed
from astuner.logview.web.site import Site

NUM_DOCUMENTS = 50
"""On a page."""
NUM_UNREAD = 200


def routes(site: Site) -> Iterator[BaseRoute]:
    def page(request: Request) -> Response:
        reader = asked_set(site, request)
        content = reader.content()
        made = set_yield(content.tasks, content.rejected, card=content.card)
        return site.page(
            request,
            "set.html",
            reader=reader,
            content=content,
            made=made,
            card=read_set_card(content.card),
            documents=listed(request, made.documents, most=NUM_DOCUMENTS),
            num_unread_shown=NUM_UNREAD,
        )

    yield Route("/sets/{place}/{folder}", page)
