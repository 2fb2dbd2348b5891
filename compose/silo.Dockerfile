# A silo, without TensorFlow: about 680 MB, of which 300 are TFF's C++ runtime. From the repository's root:
#
#     docker build -f compose/silo.Dockerfile -t fedbroker-silo .
#
# It needs /etc/fedbroker/silo.toml. It writes to /tmp and /run/fedbroker, which may be tmpfs, and, with an audit log, to
# /var/lib/fedbroker. The rest may be read-only.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements/silo.txt requirements/runtime.txt requirements/build.txt requirements/
COPY handover/runtime_wheel.py handover/
RUN python -m venv --without-pip /opt/fedbroker \
    && pip --python /opt/fedbroker/bin/python install --no-cache-dir --no-deps --require-hashes -r requirements/silo.txt
# The C++ runtime, out of the wheel of TFF.
RUN mkdir tff \
    && pip download --no-cache-dir --no-deps --require-hashes --dest tff -r requirements/runtime.txt \
    && python handover/runtime_wheel.py tff/*.whl tff \
    && pip --python /opt/fedbroker/bin/python install --no-cache-dir --no-deps --no-index tff/fedbroker_runtime-*.whl \
    && rm -r tff
COPY core core
COPY fedbroker fedbroker
COPY workers workers
# fedbroker's own packages, built with the locked, hash-checked tools. The build fetches nothing else.
RUN pip install --no-cache-dir --no-deps --require-hashes -r requirements/build.txt \
    && pip wheel --no-cache-dir --no-deps --no-build-isolation --no-index --wheel-dir wheels ./core ./workers \
    && pip --python /opt/fedbroker/bin/python install --no-cache-dir --no-deps --no-index wheels/*.whl \
    && find /opt/fedbroker -name tests -type d -prune -exec rm -r {} +

FROM python:3.11-slim-bookworm
COPY --from=build /opt/fedbroker /opt/fedbroker
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin fedbroker \
    && install -d -o fedbroker -g fedbroker -m 0700 /run/fedbroker /var/lib/fedbroker
ENV PATH=/opt/fedbroker/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONFAULTHANDLER=1 PYTHONUNBUFFERED=1 \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["fedbroker-silo"]
CMD ["run", "--config", "/etc/fedbroker/silo.toml", \
     "--ready-file", "/run/fedbroker/ready", "--alive-file", "/run/fedbroker/alive", "--hung-after", "60"]
