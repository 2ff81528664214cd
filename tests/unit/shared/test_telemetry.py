"""Logs by allowlist, in a process of their own, as a service configures them; and the metrics page."""

import json
import subprocess
import sys
from typing import Any

from prometheus_client import Counter

from keyledger.server.telemetry import exposition, new_registry

TOKEN = "cvtk_live_" + "x" * 60
SCRIPT = f"""
import logging, structlog
from keyledger.server.telemetry import configure_logging
configure_logging("keys", "warning")
log = structlog.get_logger("test")
log.info("too_quiet", position=1)
log.warning("seen", position=7, token={TOKEN!r}, headers={{"x-api-key": {TOKEN!r}}}, body={TOKEN!r})
log.bind(api_key={TOKEN!r}).error("bound", error="TypeError", where=["a:1 b"], term=3, went_on=True)
try:
    raise RuntimeError({TOKEN!r})
except RuntimeError:
    log.exception("raised", reason="defect")
logging.getLogger("library").info("quiet")
logging.getLogger("library").warning("loud")
"""


def logged() -> tuple[list[dict[str, Any]], str]:
    """The JSON lines of the script, and everything else it said."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return told, done.stdout + "\n".join(line for line in lines if not line.startswith("{"))


def test_what_is_not_on_the_list_is_withheld() -> None:
    told, rest = logged()
    assert TOKEN not in json.dumps(told) + rest
    assert [entry["event"] for entry in told] == ["seen", "bound", "raised"]
    seen, bound, raised = told
    assert seen["position"] == 7
    assert seen["token"] == seen["headers"] == seen["body"] == "(withheld)"
    assert (bound["api_key"], bound["error"], bound["where"]) == ("(withheld)", "TypeError", ["a:1 b"])
    assert (bound["term"], bound["went_on"]) == (3, True), "who grants, and since when"
    assert raised["reason"] == "defect"
    for entry in told:
        assert entry["timestamp"].endswith("Z")
        assert entry["level"] in ("warning", "error")
    assert "library WARNING loud" in rest
    assert "quiet" not in rest


def test_each_registry_is_its_own_and_is_told_in_prometheus_words() -> None:
    one, other = new_registry(), new_registry()
    Counter("keyledger_test", "A test.", registry=one).inc(3)
    body, content_type = exposition(one)
    assert b"keyledger_test_total 3.0" in body
    assert b"process_" in body
    assert b"keyledger_test" not in exposition(other)[0]
    assert content_type.startswith("text/plain")
