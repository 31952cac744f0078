"""/metrics, and /v1/metrics as NVIDIA's NIMs have it: what is counted here, for Prometheus."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.dialects import refusals, services
from server.metrics import CONTENT_TYPE
from server.openapi import Answer, operation


@operation(
    "Metrics, for Prometheus",
    answers={200: Answer("Prometheus' text format", {"text/plain": str})},
    refusals=refusals(),
)
async def metrics(request: Request) -> Response:
    serving = services(request)
    serving.metrics.jobs(await serving.jobs.count("queued"), await serving.jobs.count("running"))
    return Response(serving.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


ROUTES = [Route("/metrics", metrics), Route("/v1/metrics", metrics)]
