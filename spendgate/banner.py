"""What `spendgate serve` prints once it is ready."""

import shlex

from budget.embedded import EmbeddedValkey
from spendgate.bootstrap import Prepared
from spendgate.settings import Role, Settings


def banner(
    url: str, settings: Settings, prepared: Prepared, simulator_url: str | None, embedded: EmbeddedValkey | None
) -> str:
    """URL, store, upstream, keys, and a line to paste. A key made in this start is shown here only."""
    report = prepared.report
    lines = [f"Spendgate is ready: {url}", ""]
    where = f"embedded in {settings.data_dir}/valkey" if embedded else "from REDIS_URL"
    again = ", adopted from a run that was killed" if embedded and embedded.adopted else ""
    lines.append(f"  store      {report.product} {report.version}, {where}{again}")
    if settings.role is not Role.CONTROL:
        if simulator_url:
            lines.append(f"  upstream   simulated Databricks at {simulator_url} (set DATABRICKS_BASE_URL for yours)")
        else:
            lines.append(f"  upstream   {settings.routes or settings.databricks_base_url}")
    if settings.role is not Role.GATEWAY:
        lines.append(f"  pages      {url}/  (asks for the admin key)")
    lines.append(f"  docs       {url}/docs")
    if prepared.admin_key:
        lines.append(f"  admin key  {prepared.admin_key}  (shown this once: keep it)")
    if prepared.agent_key:
        lines.append(f"  agent key  {prepared.agent_key}")
    else:
        lines.append("  agent key  make one with: spendgate key create --name my-agent --scope agent:my-agent")
    if prepared.agent_key and settings.role is not Role.CONTROL:
        body = '{"prompt": "What is a budget?", "scopeType": "agent", "scopeKey": "demo"}'
        curl = (
            f"curl -s {url}/agent/chat -H {shlex.quote('Authorization: Bearer ' + prepared.agent_key)} "
            f"-H 'Content-Type: application/json' -d {shlex.quote(body)}"
        )
        lines += ["", "Try it:", "", f"  {curl}"]
    return "\n".join(lines) + "\n"
