# The hub's image: the locked Python packages, the locked front-end files, the source. No build step, no root at run time.
FROM node:22-slim AS assets
WORKDIR /hub
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --omit=dev --no-audit --no-fund

FROM python:3.11-slim
WORKDIR /hub
COPY requirements.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements.lock
COPY --from=assets /hub/node_modules ./node_modules
COPY crm_core ./crm_core
COPY channels ./channels
COPY routing ./routing
COPY campaigns ./campaigns
COPY webhooks ./webhooks
COPY hub ./hub
RUN useradd --system --uid 10001 --home-dir /data hub && install -d -o hub -g hub -m 0700 /data
ENV PYTHONPATH=/hub PYTHONUNBUFFERED=1 HUB_DATA_DIR=/data HUB_HOST=0.0.0.0
USER hub
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["python", "-m", "hub"]
CMD ["web"]
