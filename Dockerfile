# syntax=docker/dockerfile:1

FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/spendgate
COPY requirements.lock ./
RUN /opt/spendgate/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY . .
# The build tools came with the lock; once the project is installed nothing needs them.
RUN /opt/spendgate/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
 && /opt/spendgate/bin/pip uninstall --yes hatchling editables trove-classifiers pathspec pluggy tomlkit pip

FROM python:3.12-slim
RUN groupadd --gid 10001 spendgate \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin spendgate \
 && install -d -o 10001 -g 10001 -m 0700 /data
COPY --from=build /opt/spendgate /opt/spendgate
ENV PATH=/opt/spendgate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PORT=8080 \
    SPENDGATE_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
# All that is written is here and in /tmp, so the root may be read-only: docker run --read-only --tmpfs /tmp
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=40s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/healthz', timeout=2)"]
ENTRYPOINT ["spendgate"]
CMD ["serve", "--host", "0.0.0.0"]
