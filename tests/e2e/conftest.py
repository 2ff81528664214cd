"""The gateways before the running system."""

from collections.abc import AsyncIterator

import pytest

from tests.support import gateways
from tests.support.gateway_scene import TOKEN, Gateway, Surroundings, surroundings
from tests.support.system import System


@pytest.fixture(scope="package")
async def around(system: System, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Surroundings]:
    async with surroundings(system, tmp_path_factory.mktemp("around")) as made:
        yield made


@pytest.fixture(scope="package", params=gateways.NAMES)
async def started(
    request: pytest.FixtureRequest, around: Surroundings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp(request.param)
    wires = {"verifier": around.verifier.port, "backend": around.backend.port}
    try:
        async with gateways.running(request.param, folder, **wires, token=TOKEN) as (port, process):
            yield Gateway(request.param, port, around)
            process.check_running()
            assert "cvtk_" not in process.log.read_text()
    except gateways.GatewayMissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def gateway(started: Gateway) -> Gateway:
    started.forget()
    return started
