"""nginx as a plain reverse proxy: the least that passing a call on can cost."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.speed.contestant import Serving
from bench.speed.peer import Command, started
from bench.speed.tools import Upstream
from tests.support.stores import free_port

_CONFIG = """\
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log crit;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream bench {{ server {upstream}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://bench;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


class Nginx:
    """nginx, one worker."""

    name = "nginx"
    budgets = "none"

    def version(self) -> str:
        """Of the program."""
        done = subprocess.run([_program(), "-v"], capture_output=True, text=True, check=True)
        return done.stderr.strip().split("/")[-1]

    def missing(self) -> str | None:
        """Only a package of the system has it."""
        return None if shutil.which(_program()) else "not installed: apt-get install nginx-light"

    def install(self) -> None:
        """Nothing that could be done without a password."""

    @contextmanager
    def run(self, upstream: Upstream) -> Iterator[Serving]:
        """One worker, without buffering, so that a stream is passed on as it comes."""
        with tempfile.TemporaryDirectory(prefix="sg-") as name:
            port, folder = free_port(), Path(name)
            config = folder / "nginx.conf"
            config.write_text(_CONFIG.format(folder=folder, port=port, upstream=upstream.address))
            command: Command = [_program(), "-e", folder / "error.log", "-p", folder, "-c", config]
            with started(command, folder, port) as pids:
                yield Serving(f"127.0.0.1:{port}", pids)


def _program() -> str:
    return shutil.which("nginx") or "/usr/sbin/nginx"
