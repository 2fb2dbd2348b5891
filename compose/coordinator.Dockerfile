# A coordinator: TensorFlow Federated and fedbroker, about 2.3 GB. From the repository's root:
#
#     docker build -f compose/coordinator.Dockerfile -t fedbroker-coordinator .
#
# It runs the given program in /var/lib/fedbroker, and writes there and to /tmp only.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements/coordinator.txt requirements/build.txt requirements/
RUN python -m venv --without-pip /opt/fedbroker \
    && pip --python /opt/fedbroker/bin/python install --no-cache-dir --no-deps --require-hashes \
        -r requirements/coordinator.txt
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY core core
COPY fedbroker fedbroker
# fedbroker's own packages, built with the locked, hash-checked tools. The build fetches nothing else.
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements/build.txt \
    && pip wheel --no-cache-dir --no-deps --no-build-isolation --no-index --wheel-dir wheels ./core . \
    && pip --python /opt/fedbroker/bin/python install --no-cache-dir --no-deps --no-index wheels/*.whl

FROM python:3.11-slim-bookworm
COPY --from=build /opt/fedbroker /opt/fedbroker
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin fedbroker \
    && install -d -o fedbroker -g fedbroker -m 0700 /var/lib/fedbroker
ENV PATH=/opt/fedbroker/bin:$PATH HOME=/var/lib/fedbroker TF_CPP_MIN_LOG_LEVEL=2 \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONFAULTHANDLER=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/fedbroker
# As the first process of a container, a Python program ignores SIGTERM, which has no handler. SIGINT ends it in order.
STOPSIGNAL SIGINT
ENTRYPOINT ["python"]
CMD ["-m", "fedbroker.cli", "version"]
