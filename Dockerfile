# One image for the backend, the workers and the FiftyOne App; the command decides which one runs.
FROM python:3.11-slim

# For a CPU build of torch, pass pip an index that has one: --build-arg PIP_ARGS="--index-url ..."
ARG PIP_ARGS=""

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY model model
COPY pipeline pipeline
COPY workers workers
COPY backend backend
RUN pip install --no-cache-dir ${PIP_ARGS} -c constraints.txt .

# The installed packages must run. From /app, Python would import the sources instead.
WORKDIR /state
RUN rm -rf /app && useradd --system --home-dir /state maskloop && chown maskloop /state
USER maskloop
ENV MASKLOOP_HOME=/state HOME=/state PYTHONUNBUFFERED=1
# The reasons for these two are at THREADS in pipeline/stack/services.py.
ENV OMP_WAIT_POLICY=passive MALLOC_ARENA_MAX=2
VOLUME /state
CMD ["maskloop", "--help"]
