"""The yardstick: bare puts into etcd by grpc.aio alone: `python -m bench.harness.frozen_put ENDPOINT [CA CERT KEY]`.

Each line `IN_FLIGHT SECONDS` on stdin is one trial: so many tasks put for so long, each one put after the other, over
one channel. Its result is a line of JSON on stdout. The program ends at the end of stdin.

Frozen: it imports nothing of this project but etcd's generated messages, and none of it is tuned, so the ratios of a
release can be compared with those of an earlier one. After a change of it, every earlier figure must be measured
again.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import grpc
from grpc import aio

from nodestore.etcd.pb import etcd_pb2 as pb

_VALUE = b'{"node":"n1","values":{"text":"bench"}}'
_TIMEOUT_S = 30.0
_SAMPLE_MAX = 500


def _open_channel(endpoint: str, files: list[str]) -> aio.Channel:
    if not files:
        return aio.insecure_channel(endpoint)
    ca, certificate, key = (Path(name).read_bytes() for name in files)
    return aio.secure_channel(endpoint, grpc.ssl_channel_credentials(ca, key, certificate))


async def _trial(channel: aio.Channel, in_flight: int, seconds: float) -> dict[str, object]:
    put = channel.unary_unary(
        "/etcdserverpb.KV/Put",
        request_serializer=pb.PutRequest.SerializeToString,
        response_deserializer=pb.PutResponse.FromString,
    )
    took_ms: list[float] = []

    async def caller(number: int) -> None:
        ended = 0.0
        while ended < end:
            started = time.perf_counter()
            await put(pb.PutRequest(key=b"/bench/%d" % number, value=_VALUE), timeout=_TIMEOUT_S)
            ended = time.perf_counter()
            took_ms.append((ended - started) * 1e3)

    begun, cpu_begun_s = time.perf_counter(), time.process_time()
    end = begun + seconds
    await asyncio.gather(*(caller(number) for number in range(in_flight)))
    lasted_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu_begun_s
    return _summary(sorted(took_ms), lasted_s, cpu_s)


def _summary(took_ms: list[float], lasted_s: float, cpu_s: float) -> dict[str, object]:
    """Return the result. latencies_ms: all that were measured, or an even choice of them, in order."""
    count = len(took_ms)
    chosen = [took_ms[number * count // _SAMPLE_MAX] for number in range(_SAMPLE_MAX)]
    return {
        "puts": count,
        "seconds": lasted_s,
        "rate": count / lasted_s,
        "p50_ms": took_ms[count // 2],
        "p99_ms": took_ms[count * 99 // 100],
        "cpu_us": cpu_s / count * 1e6,
        "latencies_ms": [round(value, 4) for value in (took_ms if count <= _SAMPLE_MAX else chosen)],
    }


async def _main(endpoint: str, files: list[str]) -> None:
    async with _open_channel(endpoint, files) as channel:
        while line := await asyncio.to_thread(sys.stdin.readline):
            in_flight, seconds = line.split()
            sys.stdout.write(json.dumps(await _trial(channel, int(in_flight), float(seconds))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2:]))
