"""The twistd plugin: ``twistd mcp-guard --config FILE``.

Every ``twistd`` run on a machine imports this file, so it imports nothing but ServiceMaker.
"""

from twisted.application.service import ServiceMaker

serviceMaker = ServiceMaker(
    "mcp-guard", "mcpguard.tap", "Security gateway in front of MCP servers", "mcp-guard"
)
