"""The routes beside the fast channel, imported when a request needs them.

Klein and werkzeug are 3 MiB and a twentieth of a second; clients send canonical requests, which
the fast channel serves without a router.
"""

from twisted.web.resource import IResource

from mcpguard.front.exchange import Corridor
from mcpguard.front.pages import Documents, PageAccess, Vitals


def client_routes(
    corridor: Corridor, vitals: Vitals, access: PageAccess, document: Documents
) -> IResource:
    """What the client listener serves."""
    # See the module.
    from mcpguard.front.routes import ClientRoutes

    return ClientRoutes(corridor, vitals, access, document).resource()


def operator_routes(vitals: Vitals) -> IResource:
    """What the ``[admin]`` listener serves."""
    # See the module.
    from mcpguard.front.operator import OperatorRoutes

    return OperatorRoutes(vitals).resource()
