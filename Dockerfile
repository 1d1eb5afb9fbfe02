# The image of certstream-server: `make image`, or docker build. docs/deployment-container.md says how to run it.
#
# Any base with Python 3.11 or newer, its venv module, sh and glibc will do; deploy/check-image.sh builds on a bare
# Debian. Nothing is fetched but Python wheels, each by the hash that requirements.lock has for it.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
# Where pip finds the wheels, if not where the base's own configuration says
ARG PIP_INDEX_URL=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv tools && python3 -m venv --without-pip /opt/certstream
COPY requirements.lock ./
# All that the lock names is downloaded and its hash checked, tools of development too. What is installed below is only
# what the package itself asks for, found nowhere but among these files: the lock's versions without its tools.
RUN --mount=type=cache,target=/root/.cache/pip \
    tools/bin/python -m pip download --quiet --require-hashes --only-binary :all: --dest wheels --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./source/
COPY certstream ./source/certstream
RUN PIP_NO_INDEX=1 PIP_FIND_LINKS=/build/wheels \
    tools/bin/python -m pip --python /opt/certstream/bin/python install --quiet --no-compile ./source
# What only compilers, type checkers and test runs read; Arrow's RPC and S3 clients, which nothing here opens; and
# second copies of libraries that are found by their versioned name. 411 MB become 300 MB.
RUN set -eu; cd /opt/certstream/lib/python3*/site-packages; \
    find . -depth -type d \( -name tests -o -name include \) -exec rm -r {} +; \
    find . -type f \( -name '*.a' -o -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cc' -o -name '*.pyx' \
        -o -name '*.pxd' -o -name '*.pxi' -o -name '*.pyi' \) -delete; \
    rm -f pyarrow/*flight* pyarrow/libarrow_s3.so* pyarrow/_s3fs.*; \
    for library in pyarrow/libarrow*.so; do rm -f "$library" "$library".*.*.*; done
# Checked against nothing when they are loaded: sources and bytecode stay together, and nobody can write here
RUN /opt/certstream/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/certstream/lib


FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="certstream-server" \
      org.opencontainers.image.description="Certificate Transparency logs as a live WebSocket and SSE stream, and as a Delta table" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Official Python images come without the bytecode of the standard library, and on a read-only root file system each
# health check would compile it anew. Where it is there, as in Debian's packages, this writes nothing.
RUN set -eu; \
    echo 'certstream:x:10001:10001::/data:/usr/sbin/nologin' >> /etc/passwd; \
    echo 'certstream:x:10001:' >> /etc/group; \
    mkdir /data; chown 10001:10001 /data; \
    stdlib="$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"; \
    python3 -m compileall -q -x '/(site-packages|dist-packages|test|tests|idlelib|lib2to3|turtledemo|tkinter|ensurepip)/' "$stdlib"
COPY --from=build /opt/certstream /opt/certstream
COPY deploy/etc/config.yaml /etc/certstream/config.yaml

# All that is written lies in /data, what is temporary included: the root file system may be read-only
ENV PATH="/opt/certstream/bin:${PATH}" \
    PYTHONDONTWRITEBYTECODE=1 \
    TMPDIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["certstream", "--healthcheck"]
ENTRYPOINT ["certstream"]
