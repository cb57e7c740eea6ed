#!/bin/sh
# Check that the generated code imports, and a greeting survives a round trip, under the oldest and the newest releases
# of grpcio and protobuf that the project allows. Builds two throw-away environments; needs the package index.
#
#   scripts/check_stub_compat.sh [PYTHON]     the interpreter to use (default: python3)
set -eu

python=${1:-python3}
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() {
    name=$1
    shift
    "$python" -m venv "$work/$name"
    "$work/$name/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    (
        cd "$root"
        "$work/$name/bin/python" -B - <<'PROGRAM'
import google.protobuf
import grpc

from replica.wire import typed

frame = typed.PeerFrame(greeting=typed.Greeting(wire_version=typed.WIRE_VERSION, cluster="c", replica=1))
assert typed.PeerFrame.FromString(frame.SerializeToString()) == frame
print(f"the generated code works under protobuf {google.protobuf.__version__} with grpcio {grpc.__version__}")
PROGRAM
    )
}

check oldest "protobuf==4.25.*" "grpcio==1.62.*"
check middle "protobuf==4.25.*" grpcio
check newest protobuf grpcio
